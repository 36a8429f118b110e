"""SalUn: random labels, with only those weights free that the wrong labels depend on most."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.editing.data import EditData
from vitmem.editing.finetune import RandomLabels
from vitmem.editing.loop import Objective, parameter_count


def saliency_masks(gradients: dict[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Return masks of the int(fraction * n) gradients of largest size among all n; of equal ones, the first.

    Args:
        gradients: by name, of any shapes.
        fraction: share that is chosen, in (0, 1].
    """
    sizes = torch.cat([g.abs().flatten() for g in gradients.values()])
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[sizes.sort(descending=True, stable=True).indices[: int(fraction * len(sizes))]] = True
    parts = chosen.split([g.numel() for g in gradients.values()])
    return {name: part.view_as(g) for part, (name, g) in zip(parts, gradients.items(), strict=True)}


@dataclass(frozen=True)
class SalUn(RandomLabels):
    """Random labels for the weights on which the wrong labels' loss depends most; all others stay (Fan et al. 2024).

    Which these are is decided once, by the size of the loss's gradient summed over the examples known to be wrong,
    among all parameters together. Options as for random_labels.

    Args:
        fraction: share of the parameters that may change, in (0, 1].
    """

    search: ClassVar[dict[str, tuple]] = {**RandomLabels.search, "fraction": ("uniform", 0.1, 1.0)}

    fraction: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction}; it is the share of parameters that may change, in (0, 1]")

    def gradients(self, student: nn.Module, data: EditData) -> dict[str, Tensor]:
        """Return the gradient of the given labels' loss, summed over the examples known to be wrong."""
        parameters = dict(student.named_parameters())
        some = next(iter(parameters.values()))
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for batch in data.forget(self.forget_batch_size):
            logits = student(batch.image.to(some))
            loss = F.cross_entropy(logits, batch.given_label.to(some.device), reduction="sum")
            for accumulated, gradient in zip(
                total.values(), torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True
            ):
                accumulated += 0 if gradient is None else gradient
        return total

    def objective(self, student, model, data, generator) -> Objective:
        """Random labels with masked gradients; after a step, weights outside the mask are put back."""
        masks = saliency_masks(self.gradients(student, data), self.fraction)
        parameters = dict(student.named_parameters())
        before = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            parameter.register_hook(lambda gradient, mask=masks[name]: gradient * mask)

        @torch.no_grad()
        def put_back() -> None:  # weight decay moves them too
            for name, parameter in parameters.items():
                parameter.copy_(torch.where(masks[name], parameter, before[name]))

        plain = super().objective(student, model, data, generator)
        return Objective(plain.loss, 2 * parameter_count(student), put_back)
