"""Orders of the training set: how suspect each label looks by each score of a seed.

Legend: N training examples.
"""

import math

import numpy as np

from vitmem.files import Damaged
from vitmem.report import analyses
from vitmem.report.answers import Answers


def scores(answers: Answers, notes: list[str]) -> dict[str, np.ndarray]:
    """Return N floats by name, of which a higher one is more suspect; NaN where a score says nothing.

    Args:
        answers: of the seed.
        notes: what had to be left out is added here.
    """
    margin_N = (answers.log_prob_given - answers.log_prob_true).astype(np.float64)
    found = {"loss": -answers.log_prob_given.astype(np.float64)}
    if np.isfinite(margin_N).any():
        found = {"margin": margin_N, **found}
    try:
        added = analyses.scores(answers.path)
    except Damaged as error:
        notes.append(f"Detection scores of seed {answers.seed} are left out: {error}")
        added = {}
    for name, (index_M, score_M) in added.items():
        if len(index_M) and not 0 <= index_M.min() <= index_M.max() < len(margin_N):
            notes.append(f"The score {name} of seed {answers.seed} is left out: it is of other training images")
            continue
        found[name] = np.full(len(margin_N), math.nan)
        found[name][index_M] = score_M
    return found


def order(score_N: np.ndarray) -> np.ndarray:
    """Return training indices, the most suspect first, ties by index; those without a score come last."""
    return np.argsort(-score_N, kind="stable")  # NaN come last


def ranks(score_N: np.ndarray) -> np.ndarray:
    """Return N ranks, uint32; 0 is the most suspect."""
    found = np.empty(len(score_N), np.uint32)
    found[order(score_N)] = np.arange(len(score_N), dtype=np.uint32)
    return found


def found_at_budget(score_N: np.ndarray, wrong_N: np.ndarray) -> int:
    """Return how many wrong labels are among as many of the most suspect examples as there are wrong labels."""
    return int(wrong_N[order(score_N)[: int(wrong_N.sum())]].sum())
