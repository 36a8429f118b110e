import math

import pytest
import torch

from vitmem.attacks.scoring import SCORED, both_halves, evenly, score, scoring_sets
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import predict
from vitmem.models.build import with_weights


def test_evenly_spaced_positions():
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(0, 5).tolist() == []


def test_both_halves_of_validation_are_sampled_alike():
    for n, limit in ((4000, 2000), (10, 5), (11, 4), (3, 9)):
        found = both_halves(n, limit)
        assert len(found) == min(n, limit)
        assert found.tolist() == sorted(set(found.tolist()))
        assert 0 <= int((found % 2 == 0).sum()) - int((found % 2 == 1).sum()) <= 1


def test_scores_of_all_examples_are_the_ordinary_metrics(data, model):
    expected = metrics.compute(predict(model, dict(enumerate(data.val_dataloader()))))
    found = score(model, scoring_sets(data, 1000))
    for name in SCORED:
        assert found[name] == pytest.approx(expected[name].value, rel=1e-6)
    assert found["validation_accuracy_n"] == 20
    few = score(model, scoring_sets(data, 3))
    assert [few[f"{name}_n"] for name in ("memorized_accuracy", "clean_train_accuracy", "validation_accuracy")] == [
        3
    ] * 3


def test_a_model_that_computes_nan_is_not_scored(data, model):
    broken = with_weights(model, model.state_dict() | {"head.bias": torch.full_like(model.head.bias, math.nan)})
    found = score(broken, scoring_sets(data, 10))
    assert all(math.isnan(found[name]) for name in SCORED)
    assert found["memorized_accuracy_n"] > 0
