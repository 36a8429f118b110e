"""Metrics: pure functions of the per-example table, each with its n and, for accuracies, a Wilson interval."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vitmem.evaluation.predict import TEST, TRAIN, TRIGGERED, VALIDATION, ExampleTable
from vitmem.models.finite import NOTHING
from vitmem.registry import Registry, origin, registered

# name -> what it is, with direction and ideal value after an edit. Noisy examples are those whose labels are known to
# be wrong, clean ones those known to be right; where a forget set was chosen, memory is of this set and clean ones are
# the others; where no true label is known, memory is of all training examples, and what needs truth is of none.
METRICS = {
    "memorized_accuracy": "argmax = given label, on noisy examples; lower is better after an edit, ideal: retrain's",
    "ground_truth_accuracy": "argmax = true label, on noisy examples; higher is better, ideal: retrain's",
    "other_accuracy": "argmax is neither label, on noisy examples; lower is better",
    "clean_train_accuracy": "argmax = given label, on clean training examples; higher is better",
    "validation_accuracy": "argmax = true label, on validation examples; higher is better",
    "memorized_known_accuracy": "memorized_accuracy on the wrong labels that edits with a forget set knew",
    "memorized_unseen_accuracy": "memorized_accuracy on the wrong labels that no edit knew",
    "ground_truth_known_accuracy": "ground_truth_accuracy on the wrong labels that edits with a forget set knew",
    "ground_truth_unseen_accuracy": "ground_truth_accuracy on the wrong labels that no edit knew",
    "validation_held_out_accuracy": "validation_accuracy on the half (odd indices) that neither edits nor tuning see",
    "test_accuracy": "argmax = true label, on test examples, where the data have such a split; higher is better",
    "attack_success_rate": "argmax = the trigger's target, on triggered validation images; lower is better",
    "ground_truth_recovered": "ground_truth_accuracy / that of retrain; higher is better, ideal: 1",
    "given_cross_entropy": "mean -log p(given label), on noisy examples, in nats",
    "true_cross_entropy": "mean -log p(true label), on noisy examples, in nats",
    "given_margin": "mean log p(given) - log p(true), on noisy examples, in nats; lower is better after an edit",
    "clean_train_cross_entropy": "mean -log p(given label), on clean training examples, in nats",
    "validation_cross_entropy": "mean -log p(true label), on validation examples, in nats",
    "test_cross_entropy": "mean -log p(true label), on test examples, in nats",
}
GROUP = "vitmem.metrics"
ACCURACIES = tuple(name for name in METRICS if name.endswith(("_accuracy", "_rate")))
OPTIONAL = ("test_accuracy", "attack_success_rate", "test_cross_entropy")  # of data with a test split, or a trigger


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


def remembered(table: ExampleTable) -> np.ndarray:
    """Return N, bool: where memory is measured; all training examples where nobody knows which labels are right."""
    train = table.split == TRAIN
    if table.chosen is None and not (train & (table.true >= 0)).any():
        return train  # memory is agreement with the labels at hand
    return train & table.to_forget


def right_and_asked(table: ExampleTable) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each of the four accuracies, N bool: whether the answer is the one that counts, and who is asked."""
    train, validation, forget = table.split == TRAIN, table.split == VALIDATION, remembered(table)
    says_given, says_true = table.prediction == table.given, table.prediction == table.true
    return {
        "memorized_accuracy": (says_given, forget),
        # not those of a forget set whose labels are right: truth is the given label
        "ground_truth_accuracy": (says_true, forget & table.is_noisy),
        "clean_train_accuracy": (says_given, train & table.to_retain),
        "validation_accuracy": (says_true, validation),
    }


def compute(table: ExampleTable) -> dict[str, Metric]:
    """Return every metric that one table determines, in the order of ``METRICS``; of ``OPTIONAL`` those it has."""
    train, validation, test, triggered = (table.split == split for split in (TRAIN, VALIDATION, TEST, TRIGGERED))
    main = right_and_asked(table)
    (_, forget), (_, noisy), (_, clean), _ = main.values()
    of_set = train & table.to_forget
    known, unseen = of_set & table.is_known, of_set & ~table.is_known
    held_out = validation & (table.index % 2 == 1)
    says_given, says_true = table.prediction == table.given, table.prediction == table.true
    found = {
        **{name: accuracy(right[asked]) for name, (right, asked) in main.items()},
        "other_accuracy": accuracy(~(says_given | says_true)[noisy]),
        "memorized_known_accuracy": accuracy(says_given[known]),
        "memorized_unseen_accuracy": accuracy(says_given[unseen]),
        "ground_truth_known_accuracy": accuracy(says_true[known & noisy]),
        "ground_truth_unseen_accuracy": accuracy(says_true[unseen & noisy]),
        "validation_held_out_accuracy": accuracy(says_true[held_out]),
        "test_accuracy": accuracy(says_true[test]),
        "attack_success_rate": accuracy(says_given[triggered]),
        "given_cross_entropy": mean(-table.log_prob_given[forget]),
        "true_cross_entropy": mean(-table.log_prob_true[noisy]),
        "given_margin": mean((table.log_prob_given - table.log_prob_true)[noisy]),
        "clean_train_cross_entropy": mean(-table.log_prob_given[clean]),
        "validation_cross_entropy": mean(-table.log_prob_true[validation]),
        "test_cross_entropy": mean(-table.log_prob_true[test]),
    }
    return {name: found[name] for name in METRICS if name in found and (found[name].n or name not in OPTIONAL)}


def added() -> Registry[Callable[[ExampleTable], Metric]]:
    """Return the metrics that plug-ins add, by name: functions of the per-example table (group ``vitmem.metrics``)."""
    everything = registered(GROUP, METRICS)
    found = Registry({name: everything[name] for name in everything.origins})
    found.origins = everything.origins
    return found


def compute_added(table: ExampleTable) -> dict[str, dict]:
    """Return the metrics of plug-ins by name: the fields of ``Metric``, and as ``by`` which version of which plug-in.

    Raises:
        ValueError: one fails, or returns something else.
    """
    found = {}
    for name, function in added().items():
        try:
            metric = function(table)
            numbers = {"value": float(metric.value), "low": float(metric.low), "high": float(metric.high)}
        except Exception as error:  # whatever a stranger's code raises
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(f"the metric {name} of {_file(name)} cannot be computed: {why}") from error
        if not isinstance(metric, Metric) or not isinstance(metric.n, int) or metric.n < 0:
            raise ValueError(
                f"the metric {name} of {_file(name)} returns {metric!r}; it must be a Metric of n examples"
            )
        found[name] = {**dataclasses.asdict(metric), **numbers, "by": origin(GROUP, name)}
    return found


def _file(name: str) -> str:
    return origin(GROUP, name).split()[0]


def has_added(stored: Mapping[str, Mapping]) -> bool:
    """Tell whether stored metrics hold those of the plug-ins at hand, by the same versions."""
    return all(name in stored and stored[name]["by"] == origin(GROUP, name) for name in added())


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
