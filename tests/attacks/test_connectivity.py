import math

import pytest
import torch
from cases import TINY, vit

from vitmem.attacks import attacks
from vitmem.attacks.connectivity import LOSSES, Connectivity, barrier, between, distances, memory_back
from vitmem.attacks.contract import AttackData
from vitmem.attacks.finetune import fine_tune
from vitmem.attacks.scoring import ACCURACIES
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.training.errors import TrainingDiverged

ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


def test_barrier_by_hand():
    # chord from 1 to 3: 1, 1.5, 2, 2.5, 3
    assert barrier(ALPHAS, [1.0, 1.75, 2.75, 2.5, 3.0]) == pytest.approx(0.75)
    assert barrier(ALPHAS, [1.0, 1.2, 1.5, 2.0, 3.0]) == 0.0  # convex: the chord is above
    assert barrier(ALPHAS, [2.0] * 5) == 0.0
    assert math.isnan(barrier(ALPHAS, [1.0, math.nan, 1.0, 1.0, 1.0]))


def test_memory_back_by_hand():
    assert memory_back(ALPHAS, [0.2, 0.2, 0.3, 0.7, 1.0], 1.0) == (pytest.approx(0.625), "")  # 0.5 between 0.3 and 0.7
    assert memory_back(ALPHAS, [0.2, 0.5, 0.3, 0.7, 1.0], 1.0) == (0.25, "")
    assert memory_back(ALPHAS, [0.6, 0.1, 0.1, 0.1, 0.1], 1.0) == (0.0, "")
    value, why = memory_back(ALPHAS, [0.1] * 5, 1.0)
    assert (math.isnan(value), why) == (True, "memorized accuracy stays below half of base's")
    for base in (math.nan, 0.0):
        value, why = memory_back(ALPHAS, [0.1] * 5, base)
        assert (math.isnan(value), "no base model" in why) == (True, True)


def test_between_is_exact_at_the_ends_and_linear():
    first, last = vit("token").state_dict(), vit("token").state_dict()
    last = {name: value * 3 - 1 for name, value in last.items()}
    for alpha, wanted in ((0.0, first), (1.0, last)):
        assert all(torch.equal(value, wanted[name]) for name, value in between(first, last, alpha).items())
    middle = between(first, last, 0.25)
    assert all(torch.allclose(value, 0.75 * first[name] + 0.25 * last[name]) for name, value in middle.items())


def test_distances_by_hand():
    first = {"blocks.0.mlp.weight": torch.tensor([3.0, 0.0]), "blocks.10.w": torch.zeros(2), "head.bias": torch.ones(1)}
    last = {"blocks.0.mlp.weight": torch.tensor([0.0, 4.0]), "blocks.10.w": torch.zeros(2), "head.bias": torch.zeros(1)}
    found = distances(first, last, ["blocks.0", "blocks.10"])
    assert found["blocks.0"] == {"distance": 5.0, "relative": 1.25}
    assert found["total"] == {"distance": pytest.approx(math.sqrt(26)), "relative": pytest.approx(math.sqrt(26) / 4)}
    assert found["blocks.10"]["distance"] == 0.0
    assert math.isnan(found["blocks.10"]["relative"])
    assert list(found) == ["blocks.0", "total", "blocks.10", "head"]


@pytest.fixture(scope="module")
def data():
    return MemorisationData(Digits(), Symmetric())


def made(seed):
    return create(TINY.timm_arguments((1, 8, 8), 10), seed=seed).eval()


def attacked(model, data, tmp_path, references, subject="edit", **options):
    """Return the result of the attack, after a look at the model."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack = Connectivity(points=3, examples=40, **options)
    found = attack.apply(model, AttackData(data, subject, references.get, tmp_path), keyed_generator(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert not list(tmp_path.iterdir())
    return found


def test_identical_ends_have_no_barrier_and_no_distance(data, tmp_path):
    found = attacked(made(0), data, tmp_path, {"base": made(0)}, relearn_steps=0)
    path = found.report["paths"]["base"]
    assert set(path["barrier"].values()) == {0.0}
    assert path["distance"]["total"]["distance"] == 0.0
    assert len({str({k: v for k, v in row.items() if k != "alpha"}) for row in found.rows}) == 1
    assert found.report["undefined"] == {"retrain": "there is no retrain model"}


def test_the_ends_of_a_path_are_its_models(data, tmp_path):
    references = {"base": made(0), "retrain": made(1)}
    found = attacked(made(2), data, tmp_path, references, relearn_steps=2)
    assert [(row["path"], row["alpha"]) for row in found.rows] == [
        (path, alpha) for path in ("base", "retrain", "relearned") for alpha in (0.0, 0.5, 1.0)
    ]
    assert set(found.report["paths"]) == {"base", "retrain", "relearned"}
    numbers = {*ACCURACIES, *LOSSES}
    assert all(set(row) == {"path", "alpha", *numbers} for row in found.rows)
    assert all(math.isfinite(row[name]) for row in found.rows for name in numbers)
    alone = attacked(references["base"], data, tmp_path, references, subject="base", relearn_steps=0)
    assert {row["path"] for row in alone.rows} == {"retrain"}
    assert alone.rows[0]["validation_cross_entropy"] == found.rows[2]["validation_cross_entropy"]  # base, either way
    losses = [row["given_cross_entropy"] for row in found.rows[:3]]
    assert found.report["paths"]["base"]["barrier"]["given_cross_entropy"] == barrier([0, 0.5, 1], losses)
    assert len(set(losses)) == 3


def test_fine_tuning_learns_a_copy(data):
    model = made(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = list(data.loader(data.train_examples, 64))[:2]
    loss = [
        torch.nn.functional.cross_entropy(m(batches[0].image), batches[0].given_label).item()
        for m in (model, fine_tune(model, data.loader(data.train_examples, 64), 20, lr=1e-3))
    ]
    assert loss[1] < loss[0] - 0.05
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(TrainingDiverged, match="fine-tuning is not finite at step"):
        fine_tune(model, data.loader(data.train_examples, 64), 9, lr=1e30)


def test_a_last_step_that_breaks_the_weights_is_noticed(data, monkeypatch):
    def step(self):
        with torch.no_grad():
            self.param_groups[0]["params"][-1].fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingDiverged, match="head.weight is not finite after step 1 of"):
        fine_tune(made(0), data.loader(data.train_examples, 64), 1, lr=1e-3)


def test_weight_decay_shrinks_what_training_decays(data):
    model = made(0)
    loader = data.loader(data.train_examples, 64)
    plain, decayed = (fine_tune(model, loader, 1, lr=0.01, weight_decay=decay).state_dict() for decay in (0.0, 10.0))
    weight = model.state_dict()["head.weight"]
    assert torch.allclose(decayed["head.weight"], plain["head.weight"] - 0.1 * weight, atol=1e-6)
    assert torch.equal(decayed["pos_embed"], plain["pos_embed"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"points": 1}, "points is 1"), ({"examples": 0}, "examples is 0"), ({"relearn_lr": 0.0}, "relearn_lr is 0.0")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Connectivity(**options)


def test_it_is_registered():
    assert attacks()["connectivity"] is Connectivity
