"""One pass over the data: the per-example table from which every metric is computed.

Legend: B examples of a batch, K classes, N rows of the table.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitmem.datamodules.batch import TEST, TRAIN, TRIGGERED, VALIDATION
from vitmem.files import write_atomically
from vitmem.models.finite import answers

__all__ = ["TEST", "TRAIN", "TRIGGERED", "VALIDATION", "ExampleTable", "predict", "training"]


@dataclass(frozen=True, eq=False)
class ExampleTable:
    """What a model says about every example, each example once.

    Args:
        split: N, ``TRAIN``, ``VALIDATION``, ``TEST``, or ``TRIGGERED`` for validation images with a trigger.
        index: N, the example's id in its split.
        given: N, given labels.
        true: N, true labels; -1 where they are unknown.
        is_noisy: N, bool: the given label is known to be wrong.
        prediction: N, argmax of the logits, -1 where they are not finite.
        log_prob_given: N, log-probability of the given label, in nats.
        log_prob_true: N, log-probability of the true label, in nats; NaN where it is unknown.
        is_known: N, bool: edits with a forget set knew that it is to be forgotten.
        chosen: N, bool, the forget set, where it was chosen whatever the labels; None: the wrong labels.
    """

    split: np.ndarray
    index: np.ndarray
    given: np.ndarray
    true: np.ndarray
    is_noisy: np.ndarray
    prediction: np.ndarray
    log_prob_given: np.ndarray
    log_prob_true: np.ndarray
    is_known: np.ndarray
    chosen: np.ndarray | None = None

    @property
    def to_forget(self) -> np.ndarray:
        """N, bool: as ``Examples.to_forget``."""
        return self.is_noisy if self.chosen is None else self.chosen

    @property
    def to_retain(self) -> np.ndarray:
        """N, bool: as ``Examples.to_retain``."""
        return self.given == self.true if self.chosen is None else ~self.chosen

    def rows(self, chosen: np.ndarray) -> "ExampleTable":
        """Return the rows at some positions, in their order."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return ExampleTable(**{name: None if column is None else column[chosen] for name, column in columns.items()})

    def by_index(self, mask: np.ndarray) -> "ExampleTable":
        """Return the rows of a mask N, all of one split, in the order of their indices."""
        chosen = np.flatnonzero(mask)
        return self.rows(chosen[np.argsort(self.index[chosen], kind="stable")])

    def save(self, path: Path) -> None:
        """Write the table as NPZ."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: column for name, column in asdict(self).items() if column is not None})
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "ExampleTable":
        """Read a table; nothing in it can run code."""
        with np.load(path, allow_pickle=False) as arrays:
            names = [name for name in cls.__dataclass_fields__ if name != "chosen" or name in arrays]
            return cls(**{name: arrays[name] for name in names})


def training(table: ExampleTable) -> ExampleTable:
    """Return the rows of training examples, in the order of their indices."""
    return table.by_index(table.split == TRAIN)


@torch.no_grad()
def predict(
    model: nn.Module,
    loaders: Mapping[int, Iterable],
    device: torch.device | str = "cpu",
    known: Tensor | None = None,
) -> ExampleTable:
    """Return the table of a model in eval mode, without augmentation.

    Args:
        model: the classifier; its mode is restored.
        loaders: batches of the contract by split (``TRAIN``, ``VALIDATION``, ...).
        device: where the model is.
        known: bool by training index, what edits know that is to be forgotten; nothing by default.
    """
    was_training = model.training
    model.eval()
    columns: list[list[np.ndarray]] = []
    any_chosen = False
    for split, loader in loaders.items():
        for batch in loader:
            logits_BK = model(batch.image.to(device)).float()
            log_p_BK = logits_BK.log_softmax(1).cpu()
            true_B = batch.true_label.cpu()
            log_p_true_B = log_p_BK.gather(1, true_B[:, None].clamp(min=0))[:, 0].masked_fill(true_B < 0, torch.nan)
            is_known = torch.zeros_like(batch.is_noisy) if known is None or split != TRAIN else known[batch.index]
            columns.append(
                [
                    np.full(len(batch.index), split, np.int8),
                    batch.index.cpu().numpy(),
                    batch.given_label.cpu().numpy(),
                    true_B.numpy(),
                    batch.is_noisy.cpu().numpy(),
                    answers(logits_BK).cpu().numpy(),
                    log_p_BK.gather(1, batch.given_label[:, None].cpu())[:, 0].numpy(),
                    log_p_true_B.numpy(),
                    is_known.cpu().numpy(),
                    (batch.is_noisy if batch.chosen is None else batch.chosen).cpu().numpy(),
                ]
            )
            any_chosen |= batch.chosen is not None
    model.train(was_training)
    *found, chosen = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return ExampleTable(*found, chosen if any_chosen else None)
