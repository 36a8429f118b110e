import pytest
import torch

from vitmem.analysis.localise import Localise, places
from vitmem.editing import edits
from vitmem.models.build import with_weights


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def names():
    return [f"blocks.{b}.{k}" for b in range(2) for k in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


def test_places_are_blocks_kinds_and_all_of_either(model, names):
    found = places(model, [*names, "head"])
    assert found["0", "mlp.fc1"] == ["blocks.0.mlp.fc1"]
    assert found["1", "all"] == names[4:]
    assert found["all", "attn.qkv"] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    assert found["all", "all"] == [*names, "head"]
    assert found["outside", "head"] == ["head"]


@pytest.mark.parametrize(
    ("mode", "options"), [("scale", {"factor": 0.5}), ("rewind", {"keep": 0.5}), ("ekfac", {"rho": 0.6})]
)
def test_a_place_is_changed_as_the_edit_of_that_name_would(mode, options, known, model):
    changed = Localise().changed(mode, model, known, generator())
    edit = edits()[mode](layers="blocks.1.mlp.fc1", **options)
    expected = edit.apply(model, known.seen, generator()).state_dict
    for name, value in changed["blocks.1.mlp.fc1"].items():
        if mode == "ekfac":  # eigenvectors of a pass over other layers: equal but for rounding
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
        else:
            torch.testing.assert_close(value, expected[name])


def test_what_is_measured_is_what_evaluation_measures(known, model, data):
    table = known.training_table("base")
    rows = Localise(modes="scale", permutations=0).apply(model, known, generator()).rows
    assert rows[0]["mode"] == "none"
    assert rows[0]["memorized_accuracy"] == (table.prediction == table.given)[table.is_noisy].mean()
    halved = {n: v for part in Localise().changed("scale", model, known, generator()).values() for n, v in part.items()}
    (batch,) = data.loader(data.train_examples, 40)
    with torch.no_grad():
        said = with_weights(model, dict(model.state_dict()) | halved)(batch.image).argmax(1)
    whole = next(row for row in rows if (row["block"], row["kind"]) == ("all", "all"))
    assert whole["memorized_accuracy"] == pytest.approx(
        float((said == batch.given_label)[batch.is_noisy].float().mean())
    )
    assert whole["memorized_lost"] == pytest.approx(rows[0]["memorized_accuracy"] - whole["memorized_accuracy"])


def test_a_start_that_is_not_known_is_said(known, model):
    known.seen._initial = None
    found = Localise(modes="rewind,scale", permutations=0).apply(model, known, generator())
    assert {row["mode"] for row in found.rows} == {"none", "scale"}
    assert "rewind: the weights that training started from are not known" in found.report["skipped"][0]


@pytest.mark.slow
def test_probes_find_what_is_there_and_their_null_does_not(known, model):
    rows = [row for row in Localise(modes="scale").apply(model, known, generator()).rows if row["mode"] == "probe"]
    assert {row["kind"] for row in rows} == {"given", "true"}
    assert all(row["permuted"] < 0.5 for row in rows)
    given = [row for row in rows if row["kind"] == "given"]
    assert max(row["accuracy"] for row in given) > max(row["permuted"] for row in given) + 0.15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modes": "scale,shrink"}, "modes has 'shrink'"),
        ({"factor": 1.0}, "factor is 1.0"),
        ({"images": 0}, "images is 0"),
        ({"permutations": -1}, "permutations is -1"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Localise(**options)
