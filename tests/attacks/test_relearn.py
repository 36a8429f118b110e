import math

import pytest
import torch
from attacked import Random, generator

from vitmem.attacks.contract import AttackData
from vitmem.attacks.finetune import fine_tune, fine_tuned
from vitmem.attacks.relearn import Relearn, marks, split
from vitmem.attacks.scoring import score
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.evaluation.predict import TRAIN, predict


def test_shown_and_scored_examples_are_disjoint_in_every_arm(data, model, known):
    shown, hidden = split(data, generator())
    noisy = set(data.train_examples.index[data.train_examples.is_noisy].tolist())
    assert set(shown.index.tolist()).isdisjoint(hidden.index.tolist())
    assert set(shown.index.tolist()) | set(hidden.index.tolist()) == noisy
    assert len(shown) == len(noisy) // 2
    attack = Relearn(steps=10, batch_size=64)
    retain = set(range(40)) - noisy
    trained = {
        arm: attack.training(arm, model, data, shown, 0) for arm in ("retain", "retain+3", "retain+all", "noisy")
    }
    used = {arm: set(examples.index.tolist()) for arm, examples in trained.items()}
    assert used["retain"] == retain
    assert used["retain+3"] == retain | set(shown.index[:3].tolist())
    assert used["retain+all"] == retain | set(shown.index.tolist())
    assert used["noisy"] == set(shown.index.tolist())
    report = Relearn(steps=1, arms=("noisy",)).apply(model, known, generator()).report
    assert set(report["shown"]).isdisjoint(report["scored"])
    is_known = data.train_examples.is_noisy & (torch.arange(40) % 2 == 0)
    shown, hidden = split(data, generator(), is_known)
    told = set(data.train_examples.index[is_known].tolist())
    assert set(shown.index.tolist()) < told
    assert len(shown) == len(told) // 2
    assert set(hidden.index.tolist()) == noisy - set(shown.index.tolist())


def test_no_arm_is_trained_on_what_is_scored(data, model, known, monkeypatch):
    trained = {}

    def spy(model, batches, marks, *, lr, keep):
        trained[len(trained)] = (set(batches.examples.index.tolist()), batches.batch_size, lr)
        return fine_tuned(model, batches, marks, lr=lr, keep=keep)

    monkeypatch.setattr("vitmem.attacks.relearn.fine_tuned", spy)
    arms = ("retain", "retain+1", "retain+all", "noisy", "drift")
    attack = Relearn(arms=arms, lrs=(1e-4, 1e-3), steps=1, batch_size=7)
    report = attack.apply(model, known, generator()).report
    assert len(trained) == 2 * len(arms)
    scored = set(report["scored"])
    assert scored
    assert all(index and index.isdisjoint(scored) for index, *_ in trained.values())
    assert [found[1:] for found in trained.values()] == [(7, 1e-4), (7, 1e-3)] * len(arms)


def test_unrelated_images_are_shuffled_alike_and_drift_learns_the_models_own_answers(data, model):
    shown, _ = split(data, generator())
    attack = Relearn(steps=10)
    unrelated = attack.training("unrelated", model, data, shown, 0)
    original = data.train_examples.image[unrelated.index]
    assert torch.equal(unrelated.image.flatten(1).sort(1).values, original.flatten(1).sort(1).values)
    moved = unrelated.image.flatten(1)[:, :, None] == original.flatten(1)[:, None, :]
    assert moved.all(0).any(1).all()  # each pixel comes from one place, the same in all images
    drift = attack.training("drift", model, data, shown, 0)
    table = predict(model, {TRAIN: data.loader(drift)})
    assert drift.given_label.tolist() == table.prediction.tolist()
    assert not data.train_examples.is_noisy[drift.index].any()


def test_relearning_starts_from_the_model_and_learns_what_it_is_shown(data, model, known):
    attack = Relearn(arms=("noisy",), lrs=(1e-3,), steps=12, batch_size=8)
    rows = attack.apply(model, known, generator()).rows
    assert [row["step"] for row in rows] == [0, 1, 2, 5, 10, 12]
    shown, hidden = split(data, generator())
    assert rows[0]["memorized_accuracy"] == score(model, {TRAIN: data.loader(hidden)})["memorized_accuracy"]
    student = fine_tune(model, data.loader(shown, 64), 40, lr=1e-2)
    assert score(student, {TRAIN: data.loader(shown)})["memorized_accuracy"] > 0.9


def test_arms_that_cannot_be_filled_and_divergence_are_told(model, known):
    result = Relearn(arms=("retain+500", "retain"), steps=2, lrs=(1e30,)).apply(model, known, generator())
    assert "retain+500" in result.report["skipped"][0]
    assert {row["arm"] for row in result.rows} == {"retain"}
    assert result.report["diverged"]
    assert all(math.isfinite(row["given_cross_entropy"]) for row in result.rows)


@pytest.mark.parametrize(("rate", "empty"), [(0.0, ["noisy"]), (1.0, ["retain", "drift"])])
def test_arms_without_an_example_are_skipped(model, tmp_path, rate, empty):
    known = AttackData(MemorisationData(Random(), Symmetric(rate=rate)), "base", lambda name: model, tmp_path)
    result = Relearn(arms=("retain", "noisy", "drift"), steps=1).apply(model, known, generator())
    assert result.report["skipped"] == [f"{arm}: there is no example to train on" for arm in empty]
    assert {row["arm"] for row in result.rows} == {"retain", "noisy", "drift"} - set(empty)


def test_marks_are_log_spaced():
    assert marks(200) == [0, 1, 2, 5, 10, 20, 50, 100, 200]
    assert marks(30) == [0, 1, 2, 5, 10, 20, 30]
    assert marks(1) == [0, 1]
