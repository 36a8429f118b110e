"""A more durable edit: remove first, then let the model heal on examples known to be right."""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from vitmem.curvature.collect import uncompiled
from vitmem.editing.contract import EditResult
from vitmem.editing.data import EditData
from vitmem.editing.finetune import FineTune
from vitmem.editing.kfac import EKFAC
from vitmem.models.build import with_weights


@dataclass(frozen=True)
class PolishedEKFAC(EKFAC):
    """The graded EK-FAC edit, then a few steps of AdamW on examples known to be right. Further options: ekfac.

    Fine-tuning alone leaves what is memorised in place, and heals little; after the edit the same steps give back what
    the edit cost, and what later fine-tuning could bring back has had its chance. Curvature is collected from the
    examples known to be right, since an edit that sees those and all images could tell the unknown wrong ones.

    Args:
        steps: of the optimiser.
        lr: constant learning rate.
        step_size: examples in a step.
    """

    search: ClassVar[dict[str, tuple]] = {
        **EKFAC.search, "steps": ("choice", 20, 50, 100, 200), "lr": ("log", 1e-5, 1e-3),
    }  # fmt: skip

    noisy: Literal["included", "excluded", "only"] = "excluded"
    steps: int = 50
    lr: float = 1e-4
    step_size: int = 64

    def __post_init__(self):
        super().__post_init__()
        if self.sees & {"unlabeled", "given"}:
            raise ValueError(
                f"noisy: {self.noisy}, labels: {self.labels} would show wrong labels that are not known beside those "
                "known to be right; use noisy: excluded and labels: exact, sampled or topk"
            )
        if self.step_size < 1:
            raise ValueError(f"step_size is {self.step_size}; it must be at least 1")
        _ = self.polish

    @property
    def polish(self) -> FineTune:
        """What comes after the edit."""
        return FineTune(lr=self.lr, steps=self.steps, batch_size=self.step_size, optimiser="adamw", weight_decay=0.0)

    @property
    def sees(self) -> frozenset[str]:
        """What the curvature is collected from, and what is right."""
        return super().sees | {"retain"}

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the edited and polished weights; the report's layers are those of the edit."""
        model = uncompiled(model)
        edited = super().apply(model, data, generator)
        start = time.perf_counter()
        healed = self.polish.apply(with_weights(model, edited.state_dict), data, generator)
        seconds = {**edited.report["seconds"], "polish": time.perf_counter() - start}
        found = {key: healed.report[key] for key in ("steps", "final_loss", "extra_parameters")}
        return EditResult(healed.state_dict, {**edited.report, "seconds": seconds, **found})
