"""What attacks score models on, and how."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.module import MemorisationData
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable, predict
from vitmem.models.finite import NOTHING

# Which wrong labels an edit knew is told apart only where that was a part of them, and of the memory alone.
ACCURACIES = tuple(
    n for n in metrics.ACCURACIES if not any(part in n for part in ("known", "unseen", "test", "attack"))
)
SCORED = (*ACCURACIES, "given_cross_entropy")
KNOWN = ("memorized_known_accuracy", "memorized_unseen_accuracy")


def evenly(n: int, limit: int) -> Tensor:
    """Return at most ``limit`` of the positions 0 to n - 1, evenly spaced and ascending."""
    count = min(n, limit)
    return (torch.arange(count, dtype=torch.float64) * (n / max(count, 1))).long()


def both_halves(n: int, limit: int) -> Tensor:
    """Return at most ``limit`` of the positions 0 to n - 1, ascending, as many even ones as odd ones.

    Validation examples of even index are those that edits and tuning may see.
    """
    even, odd = torch.arange(0, n, 2), torch.arange(1, n, 2)
    count = min(n, limit)
    return torch.cat([even[evenly(len(even), count - count // 2)], odd[evenly(len(odd), count // 2)]]).sort().values


def scoring_sets(data: MemorisationData, limit: int) -> dict[int, InMemoryLoader]:
    """Return loaders, by split, over the noisy, the clean training and the validation examples.

    Where no true label is known, memory is of all training examples, and none are clean.

    Args:
        data: the data module of the run.
        limit: most examples of each of the three, evenly spaced.
    """
    examples, validation = data.train_examples, data.validation_examples
    kinds = (examples.remembered.nonzero()[:, 0], examples.to_retain.nonzero()[:, 0])
    chosen = [kind[evenly(len(kind), limit)] for kind in kinds]
    return {
        TRAIN: data.loader(examples.subset(torch.cat(chosen).sort().values)),
        VALIDATION: data.loader(validation.subset(both_halves(len(validation), limit))),
    }


def hidden_sets(data: MemorisationData, hidden: Examples, limit: int) -> dict[int, InMemoryLoader]:
    """Return loaders, by split, over the noisy examples that an attack hides from itself, and the validation examples.

    Args:
        data: the data module of the run.
        hidden: what is scored of the noisy examples.
        limit: most examples of both, evenly spaced.
    """
    validation = data.validation_examples
    return {
        TRAIN: data.loader(hidden.subset(evenly(len(hidden), limit))),
        VALIDATION: data.loader(validation.subset(both_halves(len(validation), limit))),
    }


def score(model: nn.Module, loaders: Mapping[int, InMemoryLoader], known: Tensor | None = None) -> dict[str, float]:
    """Return the metrics of ``SCORED`` that the examples allow, as values of a row, each accuracy with its n.

    Args:
        model: the classifier.
        loaders: batches by split.
        known: see ``AttackData``; adds the metrics of ``KNOWN``.
    """
    return scored(predict(model, loaders, next(model.parameters()).device, known))


def scored(table: ExampleTable) -> dict[str, float]:
    """Return the metrics of ``SCORED`` that a table allows, as values of a row; of ``KNOWN`` too if some are known.

    They are NaN where the model computes logits that are not finite: it has not forgotten, it is broken.
    """
    wanted, row = (*SCORED, *KNOWN) if table.is_known.any() else SCORED, {}
    for name, metric in metrics.compute(table).items():
        if name in wanted and metric.n:
            row[name] = math.nan if (table.prediction == NOTHING).any() else metric.value
            if name in metrics.ACCURACIES:
                row[f"{name}_n"] = metric.n
    return row


def mean_row(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the means of several draws, the sample standard deviation of each metric as ``<metric>_sd``, and draws."""
    found: dict[str, float] = {}
    for name in rows[0]:
        values = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        if name.endswith("_n"):
            found[name] = rows[0][name]
            continue
        found[name] = float(values.mean())
        found[f"{name}_sd"] = float(values.std()) if len(rows) > 1 else math.nan
    return {**found, "draws": len(rows)}
