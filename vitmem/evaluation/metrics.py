"""Metrics: pure functions of the per-example table, each with its n and, for accuracies, a Wilson interval."""

import math
from dataclasses import dataclass

import numpy as np

from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable
from vitmem.models.finite import NOTHING

# name -> what it is, with direction and ideal value after an edit
METRICS = {
    "memorized_accuracy": "argmax = given label, on noisy examples; lower is better after an edit, ideal: retrain's",
    "ground_truth_accuracy": "argmax = true label, on noisy examples; higher is better, ideal: retrain's",
    "other_accuracy": "argmax is neither label, on noisy examples; lower is better",
    "clean_train_accuracy": "argmax = true label, on clean training examples; higher is better",
    "validation_accuracy": "argmax = true label, on validation examples; higher is better",
    "memorized_known_accuracy": "memorized_accuracy on the wrong labels that edits with a forget set knew",
    "memorized_unseen_accuracy": "memorized_accuracy on the wrong labels that no edit knew",
    "ground_truth_known_accuracy": "ground_truth_accuracy on the wrong labels that edits with a forget set knew",
    "ground_truth_unseen_accuracy": "ground_truth_accuracy on the wrong labels that no edit knew",
    "validation_held_out_accuracy": "validation_accuracy on the half (odd indices) that neither edits nor tuning see",
    "ground_truth_recovered": "ground_truth_accuracy / that of retrain; higher is better, ideal: 1",
    "given_cross_entropy": "mean -log p(given label), on noisy examples, in nats",
    "true_cross_entropy": "mean -log p(true label), on noisy examples, in nats",
    "given_margin": "mean log p(given) - log p(true), on noisy examples, in nats; lower is better after an edit",
    "clean_train_cross_entropy": "mean -log p(true label), on clean training examples, in nats",
    "validation_cross_entropy": "mean -log p(true label), on validation examples, in nats",
}
ACCURACIES = tuple(name for name in METRICS if name.endswith("_accuracy"))


@dataclass(frozen=True)
class Metric:
    """A mean over n examples; accuracies have a 95 % Wilson interval, other metrics have none (NaN).

    Args:
        value: the mean; NaN when n is 0.
        n: number of examples.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    n: int
    low: float = math.nan
    high: float = math.nan


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a binomial proportion; NaN for n = 0.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.
    """
    if n == 0:
        return math.nan, math.nan
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(correct: np.ndarray) -> Metric:
    """Return the share of True with its Wilson interval."""
    n, successes = len(correct), int(correct.sum())
    return Metric(successes / n if n else math.nan, n, *wilson(successes, n))


def mean(values: np.ndarray) -> Metric:
    """Return the mean in float64."""
    return Metric(float(values.astype(np.float64).mean()) if len(values) else math.nan, len(values))


def compute(table: ExampleTable) -> dict[str, Metric]:
    """Return every metric that one table determines, in the order of ``METRICS``."""
    noisy = (table.split == TRAIN) & table.is_noisy
    known, unseen = noisy & table.is_known, noisy & ~table.is_known
    clean = (table.split == TRAIN) & ~table.is_noisy
    validation = table.split == VALIDATION
    held_out = validation & (table.index % 2 == 1)
    says_given, says_true = table.prediction == table.given, table.prediction == table.true
    return {
        "memorized_accuracy": accuracy(says_given[noisy]),
        "ground_truth_accuracy": accuracy(says_true[noisy]),
        "other_accuracy": accuracy(~(says_given | says_true)[noisy]),
        "clean_train_accuracy": accuracy(says_true[clean]),
        "validation_accuracy": accuracy(says_true[validation]),
        "memorized_known_accuracy": accuracy(says_given[known]),
        "memorized_unseen_accuracy": accuracy(says_given[unseen]),
        "ground_truth_known_accuracy": accuracy(says_true[known]),
        "ground_truth_unseen_accuracy": accuracy(says_true[unseen]),
        "validation_held_out_accuracy": accuracy(says_true[held_out]),
        "given_cross_entropy": mean(-table.log_prob_given[noisy]),
        "true_cross_entropy": mean(-table.log_prob_true[noisy]),
        "given_margin": mean((table.log_prob_given - table.log_prob_true)[noisy]),
        "clean_train_cross_entropy": mean(-table.log_prob_true[clean]),
        "validation_cross_entropy": mean(-table.log_prob_true[validation]),
    }


def at_chance(table: ExampleTable) -> bool:
    """Tell whether a model knows nothing: validation accuracy cannot be told from that of a constant answer.

    The rule: validation accuracy is at most the upper end of the 95 % Wilson interval of the largest class's share.
    Such a model has forgotten everything, which is no success of forgetting. Without validation examples: False.
    """
    validation = table.split == VALIDATION
    true = table.true[validation]
    if not len(true):
        return False
    largest = int(np.bincount(true).max())
    return int((table.prediction[validation] == true).sum()) / len(true) <= wilson(largest, len(true))[1]


OK, AT_CHANCE = "ok", "at chance"


def status(table: ExampleTable) -> str:
    """Return whether a model's answers can be taken for what it knows: ``OK``, ``AT_CHANCE``, or why not, in words."""
    if silent := int((table.prediction == NOTHING).sum()):
        return f"not finite: the logits of {silent} of {len(table.prediction)} examples"
    return AT_CHANCE if at_chance(table) else OK
