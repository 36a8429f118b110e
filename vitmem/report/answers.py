"""What the base model, references and edits answered about every training image, and how often they were right.

Legend: N training examples, E models of a seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitmem.evaluation.metrics import compute, remembered
from vitmem.evaluation.predict import ExampleTable, training
from vitmem.files import Damaged
from vitmem.runs.evaluate import examples, examples_of
from vitmem.runs.trained import BASE

COUNTED = {  # name in the page -> metric
    "memorized": "memorized_accuracy",
    "truth": "ground_truth_accuracy",
    "other": "other_accuracy",
    "validation": "validation_accuracy",
}
MOST_MODELS = 200  # of a seed whose answers are shown


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of the models of one seed about the training set.

    Args:
        seed: of the run.
        path: the run folder.
        given: N, labels that the base model was trained on.
        true: N, labels; -1 where they are unknown.
        asked: N, bool: where memory is measured; the noisy examples, unless a forget set was chosen.
        log_prob_given: N, of the base model, in nats.
        log_prob_true: N, likewise; NaN where the true label is unknown.
        answer: by id of the model: N, predictions, -1 where logits are not finite.
        count: by id: by name of ``COUNTED``, how many, and of how many.
    """

    seed: int
    path: Path
    given: np.ndarray
    true: np.ndarray
    asked: np.ndarray
    log_prob_given: np.ndarray
    log_prob_true: np.ndarray
    answer: dict[str, np.ndarray] = field(default_factory=dict)
    count: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def shared(self, measure: str) -> np.ndarray:
        """Return E x E, uint32: for how many asked examples both models of a pair did what a measure says.

        Args:
            measure: ``truth``, the answer is the true label; or ``gone``, it is not the given one.
        """
        target = (self.true if measure == "truth" else self.given)[self.asked]
        said = np.array([answer[self.asked] == target for answer in self.answer.values()], dtype=np.float64)
        done = said if measure == "truth" else 1 - said
        return (done @ done.T).astype(np.uint32)


def read(path: Path, seed: int, rows: Sequence[Mapping], notes: list[str]) -> Answers | None:
    """Return the answers of a seed's models, as far as they were measured and agree with the table of results.

    Args:
        path: the base model's run folder.
        seed: of the run.
        rows: of the results table, of this seed.
        notes: what had to be left out is added here.
    """
    try:
        base = training(examples(path, BASE))
    except Damaged as error:
        notes.append(f"Nothing is shown of single images of seed {seed}: {error}")
        return None
    labels = (base.given, base.true, remembered(base), base.log_prob_given, base.log_prob_true)
    found = Answers(seed, path, *labels)
    told = [row for row in rows if row.get(COUNTED["memorized"]) is not None]  # others diverged
    if len(told) > MOST_MODELS:
        notes.append(f"Single images of seed {seed} are shown for the first {MOST_MODELS} of {len(told)} models")
    for row in told[:MOST_MODELS]:
        name = row["id"]
        try:
            table = examples_of(path, name)
        except (Damaged, ValueError) as error:
            notes.append(f"{name} (seed {seed}) is left out where single images are shown: {error}")
            continue
        counts = counted(table)
        if differ := [name for name in COUNTED.values() if not _agrees(row, name, counts)]:
            notes.append(
                f"{name} (seed {seed}) is left out where single images are shown: it was measured again since the "
                f"table of results was written ({differ[0]}); `vitmem eval` writes it anew"
            )
            continue
        found.answer[name] = training(table).prediction
        found.count[name] = counts
    return found if found.answer else None


def counted(table: ExampleTable) -> dict[str, tuple[int, int]]:
    """Return how many examples are memorized and so on, and of how many, by name of ``COUNTED``."""
    metrics = compute(table)
    found = {name: metrics[metric] for name, metric in COUNTED.items()}
    return {name: (round(metric.value * metric.n) if metric.n else 0, metric.n) for name, metric in found.items()}


def _agrees(row: Mapping, metric: str, counts: Mapping[str, tuple[int, int]]) -> bool:
    number, n = counts[next(name for name, other in COUNTED.items() if other == metric)]
    value = row.get(metric)
    return (value is None) == (not n) and (not n or math.isclose(value, number / n, abs_tol=1e-9))
