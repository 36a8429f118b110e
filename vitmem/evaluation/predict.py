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

from vitmem.files import write_atomically
from vitmem.models.finite import answers

TRAIN, VALIDATION = 0, 1


@dataclass(frozen=True, eq=False)
class ExampleTable:
    """What a model says about every example, each example once.

    Args:
        split: N, 0 for training and 1 for validation examples.
        index: N, the example's id in its split.
        given: N, given labels.
        true: N, true labels.
        is_noisy: N, bool.
        prediction: N, argmax of the logits, -1 where they are not finite.
        log_prob_given: N, log-probability of the given label, in nats.
        log_prob_true: N, log-probability of the true label, in nats.
        is_known: N, bool: edits with a forget set knew that the label is wrong.
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

    def save(self, path: Path) -> None:
        """Write the table as NPZ."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **asdict(self))
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "ExampleTable":
        """Read a table; nothing in it can run code."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


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
        loaders: batches of the contract by split (``TRAIN``, ``VALIDATION``).
        device: where the model is.
        known: bool by training index, the wrong labels that are known; none by default.
    """
    was_training = model.training
    model.eval()
    columns: list[list[np.ndarray]] = []
    for split, loader in loaders.items():
        for batch in loader:
            logits_BK = model(batch.image.to(device)).float()
            log_p_BK = logits_BK.log_softmax(1).cpu()
            is_known = torch.zeros_like(batch.is_noisy) if known is None or split != TRAIN else known[batch.index]
            columns.append(
                [
                    np.full(len(batch.index), split, np.int8),
                    batch.index.cpu().numpy(),
                    batch.given_label.cpu().numpy(),
                    batch.true_label.cpu().numpy(),
                    batch.is_noisy.cpu().numpy(),
                    answers(logits_BK).cpu().numpy(),
                    log_p_BK.gather(1, batch.given_label[:, None].cpu())[:, 0].numpy(),
                    log_p_BK.gather(1, batch.true_label[:, None].cpu())[:, 0].numpy(),
                    is_known.cpu().numpy(),
                ]
            )
    model.train(was_training)
    return ExampleTable(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
