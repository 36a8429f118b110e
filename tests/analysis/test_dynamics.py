import copy
import dataclasses

import numpy as np
import pytest
import torch
from cases import vit

from vitmem.analysis.bands import Bands
from vitmem.analysis.contract import MadeEdit
from vitmem.analysis.dynamics import Dynamics, cosines, dealt, random_rotation
from vitmem.datamodules.batch import keyed_generator
from vitmem.evaluation.predict import predict


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_random_directions_have_rank_and_norm_and_the_spread_that_theory_says():
    like = torch.zeros((), dtype=torch.float64)
    left, right = (dealt(random_rotation(size, like, draws(size)), draws()) for size in (4, 6))
    torch.testing.assert_close(left @ left.T, torch.eye(4, dtype=torch.float64))
    one = torch.outer(torch.arange(4.0), torch.ones(6)).double()
    assert torch.linalg.matrix_rank(left @ one @ right.T) == 1
    removed = {"a": torch.randn(2, 4, 6, generator=draws(1)), "b": torch.randn(2, 6, 4, generator=draws(2))}
    added = {"a": removed["a"][:1], "b": torch.randn(1, 6, 4, generator=draws(3))}
    found = cosines(removed, added, 1000, draws(4))
    value, null = found["a"]
    assert value[0, 0] == pytest.approx(1)
    cosine = torch.nn.functional.cosine_similarity(removed["a"][1].flatten(), added["a"][0].flatten(), 0)
    assert value[1, 0] == pytest.approx(float(cosine))
    # the mean square of the cosine with a turned direction is 1 / (O I), whatever the two directions are
    assert null.shape == (1000, 2, 1)
    assert torch.all(null.mean(0).abs() < 4 * (1 / 24 / 1000) ** 0.5)
    torch.testing.assert_close(null.square().mean(0), torch.full((2, 1), 1 / 24).double(), rtol=0.25, atol=0)
    both = [torch.cat([part[name][k].flatten() for name in "ab"]) for part, k in ((removed, 1), (added, 0))]
    assert found["all"][0][1, 0] == pytest.approx(float(torch.nn.functional.cosine_similarity(*both, 0)), abs=1e-6)
    norm = [(removed[n][1].norm() * added[n].norm()).square() for n in "ab"]
    expected = float(sum(norm) / 24 / (both[0].norm() * both[1].norm()).square())  # layers are turned independently
    assert float(found["all"][1][:, 1].square().mean()) == pytest.approx(expected, rel=0.25)


def shifted(state, by, generator):
    return {n: v + by * torch.randn(v.shape, generator=generator) if v.ndim == 2 else v for n, v in state.items()}


@pytest.fixture
def course(known, model, start):
    """Known weights along the way, and two edits: one removes what came after epoch 2, the other random directions."""
    states = {2: shifted(start, 0.1, draws(1)), 4: shifted(model.state_dict(), 0.05, draws(2))}
    edits = {}
    for name, state in {"undo": states[2], "chance": shifted(model.state_dict(), 0.1, draws(3))}.items():
        edits[name] = copy.deepcopy(model)
        edits[name].load_state_dict(state)
    return dataclasses.replace(
        known,
        epochs=lambda: {epoch: lambda state=state: state for epoch, state in states.items()},
        edits=lambda: {name: MadeEdit(name, "", float("nan")) for name in ("undo", "chance")},
        reference={"base": model, **edits}.get,
        trained=6,
    )


def test_an_edit_that_undoes_the_end_of_training_is_told_from_one_by_chance(course, model, monkeypatch):
    monkeypatch.setattr(Dynamics, "best", lambda self, course, data: 2)
    result = Dynamics(edits="undo,chance", draws=99).apply(model, course, draws())
    overlap = {(r["edit"], r["against"], r["layer"]): r for r in result.rows if r["measure"] == "overlap"}
    late = [row for (edit, against, _), row in overlap.items() if (edit, against) == ("undo", "late")]
    assert len(late) == 8 + 1
    assert all(row["value"] == pytest.approx(1) and row["p"] == pytest.approx(0.01) for row in late)
    chance = [row for (edit, _, layer), row in overlap.items() if edit == "chance" and layer != "all"]
    assert sum(row["p"] < 0.05 for row in chance) <= 4  # of 16 at a rate of 0.05: more with probability 0.0009
    assert all(abs(row["null"]) < 0.05 for row in chance)
    assert all(row["null_low"] < 0 < row["null_high"] for row in overlap.values())
    name = "blocks.0.mlp.fc1"
    w, best, first = (s[f"{name}.weight"].flatten() for s in
                      (model.state_dict(), course.epochs()[2](), course.seen.initial(model)))  # fmt: skip
    expected = torch.nn.functional.cosine_similarity(w - best, best - first, 0)
    assert overlap["undo", "early", name]["value"] == pytest.approx(float(expected), abs=1e-5)


def test_accuracies_are_those_of_the_kept_weights_and_the_best_is_chosen_on_even_indices(course, model, data):
    result = Dynamics(draws=2).apply(model, course, draws())
    rows = {row["epoch"]: row for row in result.rows if row["measure"] == "accuracy"}
    assert list(rows) == [0, 2, 4, 6] == result.report["epochs"]
    tuning = {}
    for epoch in (2, 4):
        twin = vit(dtype=torch.float32).eval()
        twin.load_state_dict(course.epochs()[epoch]())
        table = predict(twin, data.evaluation_loaders())
        train, right = table.split == 0, table.prediction == table.true
        assert rows[epoch]["memorized_accuracy"] == np.mean((table.prediction == table.given)[train & table.to_forget])
        odd = table.index % 2 == 1
        assert rows[epoch]["validation_accuracy"] == np.mean(right[(table.split == 1) & odd])
        tuning[epoch] = np.mean(right[(table.split == 1) & ~odd])
        assert rows[epoch]["tuning_accuracy"] == pytest.approx(tuning[epoch])
    assert result.report["best_epoch"] == max(tuning, key=lambda epoch: (tuning[epoch], -epoch))
    assert rows[6]["memorized_accuracy"] == 1


def test_of_each_kind_of_edit_the_one_nearest_a_fifth_is_taken(known, model):
    left = {"a-1": 0.9, "a-2": 0.3, "a-3": 0.1, "b-1": 0.25}
    table = known.table("base")
    forget = np.flatnonzero((table.split == 0) & table.to_forget)

    def told(name):
        prediction = table.prediction.copy()
        prediction[forget[round(left[name] * len(forget)) :]] = -1
        return dataclasses.replace(table, prediction=prediction)

    data = dataclasses.replace(
        known, table=told, edits=lambda: {name: MadeEdit(name[0], "", 0.0) for name in left},
        reference=lambda of: None if of == "a-2" else model,
    )  # fmt: skip
    skipped = {}
    assert list(Dynamics().edited(data, skipped)) == ["a-3", "b-1"]  # the nearest of a has no weights at hand
    assert list(Dynamics(edits="a").edited(data, skipped)) == ["a-1", "a-3"]
    assert skipped == {"a-2": "its weights are not at hand"}
    with pytest.raises(ValueError, match="edits is 'c', which no usable edit fits; there are: a, b"):
        Dynamics(edits="c").edited(data, skipped)


def test_references_and_edits_have_the_part_of_it_that_is_theirs(course, model):
    found = Dynamics(draws=2).apply(model, dataclasses.replace(course, subject="retrain"), draws())
    assert [(row["measure"], row["epoch"]) for row in found.rows] == [("accuracy", 0), ("accuracy", 6)]
    assert found.report["skipped"] == ["epochs: the weights along the way are the base model's"]
    edited = course.reference("undo")
    found = Dynamics(draws=2).apply(edited, dataclasses.replace(course, subject="undo"), draws())
    assert {(row["measure"], row["edit"]) for row in found.rows} == {("overlap", "undo")}


def test_a_model_of_whose_training_nothing_is_known_is_refused(known, model):
    def unknown(model):
        raise ValueError("the run was adopted")

    seen = copy.copy(known.seen)
    seen.initial = unknown
    with pytest.raises(ValueError, match="nothing is known of how this model was trained .*the run was adopted"):
        Dynamics().apply(model, dataclasses.replace(known, seen=seen), draws())


@pytest.mark.slow
def test_bands_along_the_way_are_those_of_bands(course, model):
    found = Dynamics(draws=2, bands=True, images=10).apply(model, course, draws())
    last = {(r["order"], r["definition"], r["band"]): r["ratio"] for r in found.rows
            if (r["measure"], r["epoch"]) == ("bands", 6)}  # fmt: skip
    alone = Bands(images=10).apply(model, course, keyed_generator(course.seed, 13)).rows
    alone = {(r["order"], r["definition"], r["band"]): r["ratio"] for r in alone if r["layer"] == "all"}
    assert last == pytest.approx(alone)
