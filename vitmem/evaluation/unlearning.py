"""What the unlearning literature calls our metrics, and its scores against the retrained model.

ToW, the tug of war, is of Zhao et al. 2024 ("What makes unlearning hard and why", section 3); it is 1 for a model that
does on the forget set, on the retain set and on test images as the retrained one does. Here are columns of results,
computed from other columns. What lacks a part is absent.
"""

import math
from collections.abc import Mapping, Sequence

# column -> what it is; a gap is a difference to retrain of the same seed, ideal: 0
NAMES = {
    "forget_accuracy": "argmax = given label, on what is to be forgotten: memorized_accuracy, if that is known",
    "retain_accuracy": "argmax = given label, on the training examples to be kept: clean_train_accuracy",
    "membership_auc": "AUC of attack membership's score loss (id membership), where it was made",
    "forget_gap": "forget_accuracy minus that of retrain",
    "retain_gap": "retain_accuracy minus that of retrain",
    "test_gap": "test_accuracy minus that of retrain; validation_held_out_accuracy without a test split",
    "tow": "(1 - |forget_gap|)(1 - |retain_gap|)(1 - |test_gap|); higher is better, ideal: 1",
    "tow_mia": "tow with the gap of membership_auc in place of forget_gap",
}
_TESTS = ("test_accuracy", "validation_held_out_accuracy")


def add_unlearning(rows: Sequence[dict]) -> None:
    """Fill the columns of ``NAMES`` as far as they are defined; gaps where the same seed has a retrain row.

    Args:
        rows: of results; ``membership_auc`` is there already where it is known.
    """
    for row in rows:
        retain = _number(row, "clean_train_accuracy")
        if retain is not None or _number(row, "ground_truth_accuracy") is not None:  # else no forget set is known
            row["forget_accuracy"], row["retain_accuracy"] = _number(row, "memorized_accuracy"), retain
    retrain = {row["seed"]: row for row in rows if row["id"] == "retrain"}
    for row in rows:
        reference = retrain.get(row["seed"], {})
        test = next((name for name in _TESTS if _gap(row, reference, name) is not None), _TESTS[-1])
        parts = {"forget": "forget_accuracy", "retain": "retain_accuracy", "test": test, "mia": "membership_auc"}
        gap = {part: _gap(row, reference, name) for part, name in parts.items()}
        row |= {f"{part}_gap": gap[part] for part in ("forget", "retain", "test")}
        for name, first in (("tow", "forget"), ("tow_mia", "mia")):
            factors = [gap[part] for part in (first, "retain", "test")]
            row[name] = None if None in factors else math.prod(1 - abs(factor) for factor in factors)


def _number(row: Mapping, name: str) -> float | None:
    value = row.get(name)
    return None if value is None or math.isnan(value) else value


def _gap(row: Mapping, reference: Mapping, name: str) -> float | None:
    own, its = _number(row, name), _number(reference, name)
    return None if own is None or its is None else own - its
