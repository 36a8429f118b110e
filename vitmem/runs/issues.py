"""Suspect labels in the columns of cleanlab's Datalab, from the scores of ``vitmem analyse RUN detection``."""

import csv
import io
import math

import numpy as np

from vitmem.evaluation.predict import training
from vitmem.runs.analyse import stored_analysis, stored_scores
from vitmem.runs.evaluate import evaluate, examples
from vitmem.runs.trained import TrainedRun

COLUMNS = ("index", "is_label_issue", "label_score", "given_label", "predicted_label")


def issues_csv(run: TrainedRun, score: str, share: float) -> str:
    """Return a table of the training examples that were ranked, as CSV.

    ``label_score`` is 1 less the rank of suspicion, from 0 (most suspect) to 1, so that lower is worse, as cleanlab has
    it; ``is_label_issue`` marks the given share of the most suspect ones. Labels are names of classes.

    Args:
        run: analysed with ``detection``.
        score: one of its scores.
        share: of the ranked examples that are marked, in (0, 1).

    Raises:
        ValueError: there is no such analysis or score, or the share is out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"--issue_share is {share}; it must be in (0, 1)")
    if stored_analysis(run, "detection") is None:
        raise ValueError(f"{run.path} has no scores of its labels; make them: vitmem analyse {run.path} detection")
    scores = stored_scores(run, "detection")
    if score not in scores:
        raise ValueError(f"--issues is {score!r}; there are: {', '.join(scores)}")
    evaluate(run)
    table, suspect_N = training(examples(run.path)), scores[score]
    ranked = np.flatnonzero(~np.isnan(suspect_N))
    by_suspicion = ranked[np.argsort(-suspect_N[ranked], kind="stable")]
    quality = {index: rank / max(1, len(ranked) - 1) for rank, index in enumerate(by_suspicion.tolist())}
    marked = set(by_suspicion[: math.ceil(share * len(ranked))].tolist())
    names, out = run.data.data.class_names, io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for index in ranked.tolist():
        given, said = table.given[index], table.prediction[index]
        said_name = names[said] if said >= 0 else ""
        writer.writerow([index, index in marked, f"{quality[index]:.6f}", names[given], said_name])
    return out.getvalue()
