import math

import numpy as np
import pytest
from edited import DATA
from predicted import COLUMNS, by_hand

from vitmem.editing.known import tuning_half
from vitmem.evaluation.metrics import ACCURACIES, METRICS, OPTIONAL, at_chance, compute, status, wilson
from vitmem.evaluation.predict import TEST, TRAIN, TRIGGERED, VALIDATION, ExampleTable


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
    assert list(found) == [name for name in METRICS if name not in ("ground_truth_recovered", *OPTIONAL)]


def test_without_noisy_examples_the_value_is_unknown():
    table = by_hand()
    clean = ExampleTable(**{n: getattr(table, n)[3:] for n in COLUMNS})
    metric = compute(clean)["memorized_accuracy"]
    assert (metric.n, math.isnan(metric.value), math.isnan(metric.low)) == (0, True, True)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_against_published_values(successes, n, low, high):  # the last: Newcombe 1998, table I
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def table(prediction, true, known=(), split=VALIDATION):
    n = len(true)
    zeros = np.zeros(n)
    is_known = np.isin(np.arange(n), known)
    given = (np.array(true) + 1) % 10
    wrong = np.full(n, split == TRAIN)
    return ExampleTable(
        np.full(n, split), np.arange(n), given, np.array(true), wrong, np.array(prediction), zeros, zeros, is_known
    )


def test_at_chance_is_what_a_constant_answer_reaches():
    true = np.arange(500) % 10
    assert at_chance(table(np.zeros(500, int), true))
    better = true.copy()
    better[100:] = (better[100:] + 1) % 10  # 20 % right
    assert not at_chance(table(better, true))
    lopsided = np.where(np.arange(500) < 400, 0, 1)
    assert at_chance(table(np.zeros(500, int), lopsided))  # 80 % right, and knows nothing


def test_a_model_that_computes_nan_says_nothing_and_has_a_status():
    true = np.arange(500) % 10
    right = table(true, true)
    assert status(right) == "ok"
    assert status(table(np.zeros(500, int), true)) == "at chance"
    some = true.copy()
    some[:3] = -1
    assert status(table(some, true)) == "not finite: the logits of 3 of 500 examples"
    assert at_chance(table(np.full(500, -1), true))
    found = compute(table(np.full(500, -1), true, split=TRAIN))
    assert [found[f"{name}_accuracy"].value for name in ("memorized", "ground_truth", "other")] == [0, 0, 1]


def test_known_and_unseen_pool_to_the_whole():
    generator = np.random.default_rng(0)
    true = generator.integers(10, size=90)
    found = compute(table((true + generator.integers(3, size=90)) % 10, true, range(0, 90, 3), TRAIN))
    for name in ("memorized", "ground_truth"):
        parts = [found[f"{name}_{part}_accuracy"] for part in ("known", "unseen")]
        assert [part.n for part in parts] == [30, 60]
        assert sum(part.value * part.n for part in parts) == pytest.approx(found[f"{name}_accuracy"].value * 90)
    validation = compute(table(np.arange(10) % 10, [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]))
    assert validation["validation_held_out_accuracy"].n == 5
    assert validation["validation_held_out_accuracy"].value == 2 / 5  # of 1, 3, 5, 7, 9
    assert tuning_half(DATA.validation_examples).index.tolist() == list(range(0, 500, 2))


def test_at_chance_at_its_bound():
    """Of 20 examples of 2 classes alike, a constant answer has 10; the upper end of its interval is 0.7007."""
    true = np.arange(20) % 2
    assert wilson(10, 20)[1] == pytest.approx(0.7007, abs=1e-4)
    for right, chance in ((14, True), (15, False)):
        said = np.where(np.arange(20) < right, true, 1 - true)
        assert at_chance(table(said, true)) is chance
    assert at_chance(table([], np.zeros(0, int))) is False
    training = table(np.zeros(20, int), true, split=TRAIN)
    assert at_chance(training) is False


def test_every_metric_of_nothing_is_unknown():
    found = compute(table([], np.zeros(0, int)))
    assert all(metric.n == 0 and math.isnan(metric.value) for metric in found.values())
    assert all(map(math.isnan, wilson(0, 0)))


def test_cross_entropies_are_on_their_examples():
    plain = by_hand()
    found = compute(plain)
    assert found["clean_train_cross_entropy"].value == pytest.approx((math.log(2) + math.log(10)) / 2)
    assert found["validation_cross_entropy"].value == pytest.approx(-math.log(0.9))
    assert found["true_cross_entropy"].value == pytest.approx((math.log(4) + math.log(2) + math.log(8)) / 3)
    sizes = {name: metric.n for name, metric in found.items()}
    noisy = [name for name in sizes if name.startswith(("memorized_a", "ground_truth_a", "other", "given", "true"))]
    assert {sizes[name] for name in noisy} == {3}
    assert (sizes["clean_train_accuracy"], sizes["validation_accuracy"], sizes["memorized_known_accuracy"]) == (2, 1, 2)
    assert all(math.isnan(metric.low) for name, metric in found.items() if name not in ACCURACIES)


def small(true, given, prediction, chosen=None, split=TRAIN):
    """Return a table of examples of one split whose probabilities are all 1/2."""
    true, given = np.array(true), np.array(given)
    n, half = len(true), np.full(len(true), math.log(0.5))
    noisy = (true != given) & (true >= 0)
    known = np.zeros(n, bool)
    chosen = None if chosen is None else np.array(chosen, bool)
    split, said = np.full(n, split), np.array(prediction)
    return ExampleTable(split, np.arange(n), given, true, noisy, said, half, half, known, chosen)


NEED_TRUTH = ("ground_truth_accuracy", "other_accuracy", "true_cross_entropy", "given_margin")


def test_with_unknown_truth_memory_is_agreement_with_the_labels_at_hand():
    found = compute(small([-1, -1, -1, -1], [0, 1, 2, 2], [0, 1, 0, 0]))
    assert (found["memorized_accuracy"].value, found["memorized_accuracy"].n) == (1 / 2, 4)
    assert found["given_cross_entropy"].n == 4
    for name in (*NEED_TRUTH, "clean_train_accuracy", "clean_train_cross_entropy", "memorized_unseen_accuracy"):
        assert found[name].n == 0
        assert math.isnan(found[name].value)


def test_with_partly_known_truth_only_known_labels_count():
    found = compute(small([-1, 0, 0, 1], [2, 1, 0, 1], [2, 1, 0, 0]))
    assert (found["memorized_accuracy"].value, found["memorized_accuracy"].n) == (1.0, 1)
    assert (found["clean_train_accuracy"].value, found["clean_train_accuracy"].n) == (1 / 2, 2)
    assert found["ground_truth_accuracy"].n == 1


def test_of_a_forget_set_with_right_labels_there_is_no_ground_truth():
    found = compute(small([0, 1, 2, 2], [0, 1, 2, 2], [0, 0, 2, 1], chosen=[1, 1, 0, 0]))
    assert (found["memorized_accuracy"].value, found["memorized_accuracy"].n) == (1 / 2, 2)
    assert (found["clean_train_accuracy"].value, found["clean_train_accuracy"].n) == (1 / 2, 2)
    assert [found[name].n for name in NEED_TRUTH] == [0] * 4


def test_a_forget_set_among_labels_of_unknown_truth():
    found = compute(small([-1, -1, -1], [0, 1, 2], [0, 0, 2], chosen=[1, 0, 0]))
    assert (found["memorized_accuracy"].value, found["memorized_accuracy"].n) == (1.0, 1)
    assert (found["clean_train_accuracy"].value, found["clean_train_accuracy"].n) == (1 / 2, 2)


@pytest.mark.parametrize(("split", "name"), [(TEST, "test_accuracy"), (TRIGGERED, "attack_success_rate")])
def test_further_splits_are_measured_where_they_are(split, name):
    found = compute(small([0, 1, 2, 2], [2, 2, 2, 2], [2, 1, 2, 2], split=split))
    assert (found[name].value, found[name].n) == (3 / 4, 4)
    assert set(OPTIONAL) & found.keys() == {key for key in OPTIONAL if key.split("_")[0] == name.split("_")[0]}
