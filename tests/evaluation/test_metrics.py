import math

import numpy as np
import pytest
import torch
from cases import loader, vit

from vitmem.evaluation.metrics import ACCURACIES, METRICS, compute, wilson
from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable, predict
from vitmem.evaluation.tables import add_recovered, columns, mean_sd, result_row, terminal_table, to_csv


def by_hand():
    """Six examples: three noisy, two clean, one validation."""
    return ExampleTable(
        split=np.array([0, 0, 0, 0, 0, 1]),
        index=np.arange(6),
        given=np.array([1, 1, 2, 0, 1, 2]),
        true=np.array([0, 0, 0, 0, 1, 2]),
        is_noisy=np.array([True, True, True, False, False, False]),
        prediction=np.array([1, 0, 1, 0, 2, 2]),
        log_prob_given=np.log([0.5, 0.25, 0.5, 0.5, 0.1, 0.9]),
        log_prob_true=np.log([0.25, 0.5, 0.125, 0.5, 0.1, 0.9]),
        is_known=np.array([True, False, True, False, False, False]),
    )


def test_metrics_by_hand():
    found = compute(by_hand())
    assert {name: metric.value for name, metric in found.items() if name in ACCURACIES} == {
        "memorized_accuracy": 1 / 3,
        "ground_truth_accuracy": 1 / 3,
        "other_accuracy": 1 / 3,
        "clean_train_accuracy": 1 / 2,
        "validation_accuracy": 1.0,
        "memorized_known_accuracy": 1 / 2,
        "memorized_unseen_accuracy": 0.0,
        "ground_truth_known_accuracy": 0.0,
        "ground_truth_unseen_accuracy": 1.0,
        "validation_held_out_accuracy": 1.0,
    }
    assert found["memorized_accuracy"].n == 3
    assert found["given_cross_entropy"].value == pytest.approx((math.log(2) + math.log(4) + math.log(2)) / 3)
    assert found["given_margin"].value == pytest.approx((math.log(2) - math.log(2) + math.log(4)) / 3)
    assert list(found) == [name for name in METRICS if name != "ground_truth_recovered"]


def test_without_noisy_examples_the_value_is_unknown():
    table = by_hand()
    clean = ExampleTable(**{n: getattr(table, n)[3:] for n in ExampleTable.__dataclass_fields__})
    metric = compute(clean)["memorized_accuracy"]
    assert (metric.n, math.isnan(metric.value), math.isnan(metric.low)) == (0, True, True)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_against_published_values(successes, n, low, high):  # the last: Newcombe 1998, table I
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_prediction_is_the_models_whatever_the_batch_size():
    model = vit("token", 5, torch.float64).train()
    small, large = (predict(model, {TRAIN: loader(11, size), VALIDATION: loader(7, size)}) for size in (3, 11))
    assert model.training
    for name in ExampleTable.__dataclass_fields__:
        assert np.allclose(getattr(small, name), getattr(large, name), atol=1e-6)
    assert small.index.tolist() == [*range(11), *range(7)]
    with torch.no_grad():
        logits = model.eval()(next(iter(loader(11, 11))).image)
    assert small.prediction[:11].tolist() == logits.argmax(1).tolist()
    assert np.allclose(
        small.log_prob_given[:11],
        -torch.nn.functional.cross_entropy(logits, torch.from_numpy(small.given[:11]), reduction="none"),
        atol=1e-5,
    )


def test_table_round_trip_and_no_pickles(tmp_path):
    by_hand().save(tmp_path / "examples.npz")
    again = ExampleTable.load(tmp_path / "examples.npz")
    assert all(np.array_equal(getattr(again, n), getattr(by_hand(), n)) for n in ExampleTable.__dataclass_fields__)
    np.savez(tmp_path / "bad.npz", **{n: np.array([{}], object) for n in ExampleTable.__dataclass_fields__})
    with pytest.raises(ValueError, match="pickle"):
        ExampleTable.load(tmp_path / "bad.npz")


def rows():
    metrics = {name: vars(metric) for name, metric in compute(by_hand()).items()}
    identity = {"experiment": "x", "edit": "", "option": "", "value": ""}
    found = [result_row({**identity, "seed": s, "id": i}, metrics, None) for s in (0, 1) for i in ("base", "retrain")]
    found[2]["memorized_accuracy"] = 2 / 3
    add_recovered(found)
    return found


def test_tables():
    one, two = terminal_table(rows()[:2]), terminal_table(rows())
    assert "0.333 [0.061, 0.792]" in one
    assert "memorized (n=3)" in one
    assert "0.500 ± 0.236" in two
    assert "2 seeds" in two
    assert rows()[0]["ground_truth_recovered"] == 1.0
    header, first, *_ = to_csv(rows()).splitlines()
    assert header.split(",") == columns()
    assert first.startswith("x,0,base,,,,0.333")
    assert mean_sd([0.5]) == "0.500 (1 seed)"
