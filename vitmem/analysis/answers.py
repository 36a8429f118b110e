"""What a model says of some examples: its logits, and what follows from them.

Legend: N examples, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.evaluation.metrics import accuracy

ACCURACIES = ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")


@dataclass(frozen=True, eq=False)
class Answers:
    """Logits of some examples.

    Args:
        logits_NK: float64, on the CPU.
    """

    logits_NK: Tensor

    @property
    def prediction(self) -> Tensor:
        """N, argmax of the logits."""
        return self.logits_NK.argmax(1)

    def loss(self, label_N: Tensor) -> Tensor:
        """Return the cross-entropy N at labels, in nats."""
        return F.cross_entropy(self.logits_NK, label_N, reduction="none")

    def margin(self, label_N: Tensor) -> Tensor:
        """Return the logit N of a label less the largest of the others."""
        own_N = self.logits_NK.gather(1, label_N[:, None])[:, 0]
        return own_N - self.logits_NK.scatter(1, label_N[:, None], -torch.inf).amax(1)


@torch.no_grad()
def answers_of(model: nn.Module, data: MemorisationData, examples: Examples) -> Answers:
    """Return what a model in eval mode says of examples, in their order."""
    device = next(model.parameters()).device
    parts = [model(batch.image.to(device)).double().cpu() for batch in data.loader(examples)]
    return Answers(torch.cat(parts))


def accuracies_of(
    model: nn.Module, data: MemorisationData, forget: Examples, clean: Examples, validation: Examples
) -> dict[str, float]:
    """Return the four accuracies of a model, with their intervals; NaN for one that is of no example.

    Args:
        model: the classifier, in eval mode.
        data: serves the images.
        forget: what is to be forgotten; the truth counts where its label is wrong.
        clean: what is to be kept.
        validation: of which the true labels count.
    """
    parts = (forget, clean, validation)
    said = [answers_of(model, data, part).prediction if len(part) else part.index for part in parts]
    correct = {
        "memorized_accuracy": said[0] == forget.given_label,
        "ground_truth_accuracy": (said[0] == forget.true_label)[forget.is_noisy],
        "clean_train_accuracy": said[1] == clean.given_label,
        "validation_accuracy": said[2] == validation.true_label,
    }
    numbers = {}
    for name, mask in correct.items():
        found = accuracy(np.asarray(mask))
        numbers |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return numbers
