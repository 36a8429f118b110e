"""Two models asked about the same examples of one run: shares, their difference, and exact McNemar tests.

Legend: N rows of a table of examples.
"""

import math
import re
from typing import NamedTuple

import numpy as np

from vitmem.evaluation.metrics import remembered
from vitmem.evaluation.predict import TEST, TRAIN, VALIDATION, ExampleTable
from vitmem.evaluation.proportions import PairedProportions, paired_proportions

_METRIC = re.compile("(memorized|ground_truth|clean_train|validation|test)(?:_(known|unseen|held_out))?_accuracy")


class PairedExamples(NamedTuple):
    """What two models answered.

    Attributes:
        n: number of examples.
        first: share of the first model.
        second: share of the second.
        paired: their difference, with interval and test.
    """

    n: int
    first: float
    second: float
    paired: PairedProportions


def in_order(table: ExampleTable) -> ExampleTable:
    """Return a table sorted by split and index."""
    return table.rows(np.lexsort((table.index, table.split)))


def paired_examples(first: ExampleTable, second: ExampleTable, metric: str) -> PairedExamples | None:
    """Return how two models compare in an accuracy of ``METRICS``, paired over its examples; None for other metrics.

    ``known`` and ``unseen`` are of what either edit knew, or neither did.

    Args:
        first: of the first model.
        second: of the second.
        metric: such as ``ground_truth_unseen_accuracy``.

    Raises:
        ValueError: the tables are of other examples or other labels.
    """
    if not (found := _METRIC.fullmatch(metric)):
        return None
    name, part = found.groups()
    first, second = in_order(first), in_order(second)
    for column in ("split", "index", "given", "true", "is_noisy"):
        if not np.array_equal(getattr(first, column), getattr(second, column)):
            raise ValueError("they were not measured on the same examples and labels")
    population = _population(first, name)
    knew = first.is_known | second.is_known
    population &= {None: knew | True, "known": knew, "unseen": ~knew, "held_out": first.index % 2 == 1}[part]
    label = first.given if name in ("memorized", "clean_train") else first.true
    hits = [(table.prediction == label)[population] for table in (first, second)]
    shares = [float(hit.mean()) if len(hit) else math.nan for hit in hits]
    return PairedExamples(int(population.sum()), *shares, paired_proportions(*hits))


def _population(table: ExampleTable, name: str) -> np.ndarray:
    """Return N, bool: which examples an accuracy is of, as ``metrics.compute`` has it."""
    train, forget = table.split == TRAIN, remembered(table)
    return {
        "memorized": forget,
        "ground_truth": forget & table.is_noisy,
        "clean_train": train & table.to_retain,
        "validation": table.split == VALIDATION,
        "test": table.split == TEST,
    }[name].copy()
