"""Unlearning by distillation: a student keeps to the model that was given on what is right, and leaves it elsewhere.

Legend: B examples of a batch, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vitmem.editing.contract import added
from vitmem.editing.loop import (
    Objective,
    Step,
    TrainingInTurn,
    TrainingOnBoth,
    distillation,
    fresh_copy,
    frozen_copy,
    parameter_count,
)


@dataclass(frozen=True)
class SCRUB(TrainingInTurn):
    """Leave the given model on what is wrong, in some epochs, and keep to it on what is right (Kurmanji et al. 2023).

    The first ``max_epochs`` epochs pass over what is wrong, with loss -KL(teacher || student); every epoch passes over
    what is right, with loss alpha * KL + gamma * CE. Defaults: the small-scale settings of the authors' repository, its
    falling rate and its decay of all parameters included; unlike there, dropout is off. Until both were options, the
    rate was constant (``drops none``) and matrices alone were decayed (``decayed matrices``).

    Args:
        max_epochs: in how many epochs the divergence on what is wrong is raised.
        alpha: weight of the divergence on what is right.
        gamma: weight of the cross-entropy on what is right.
        temperature: of both divergences.
        drops: after how many epochs the learning rate falls to a tenth, numbers separated by commas or spaces;
            ``none`` keeps it constant.
        decayed: what weight_decay is of: all parameters, or matrices alone.
    """

    search: ClassVar[dict[str, tuple]] = {
        "lr": ("log", 1e-5, 1e-2), "alpha": ("log", 1e-3, 10.0), "max_epochs": ("int", 1, 10),
        "epochs": ("choice", 5, 10, 30), "drops": ("choice", "5 8 9", "none"),
    }  # fmt: skip

    lr: float = 5e-4
    batch_size: int = 32
    optimiser: Literal["sgd", "adam", "adamw"] = "adam"
    weight_decay: float = 0.1
    max_epochs: int = 3
    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 2.0
    drops: str = added("5 8 9", before="none")
    decayed: Literal["all", "matrices"] = added("all", before="matrices")

    def __post_init__(self):
        super().__post_init__()
        self.not_negative("max_epochs", "alpha", "gamma")
        if self.drops != "none" and not (self._drops() and all(part.isdecimal() for part in self._drops())):
            raise ValueError(f"drops is {self.drops!r}; give numbers of epochs, separated by spaces, or none")
        if self.decayed not in ("all", "matrices"):
            raise ValueError(f"decayed is {self.decayed!r}; choose all or matrices")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be positive and finite")

    def _drops(self) -> list[str]:
        return [] if self.drops == "none" else self.drops.replace(",", " ").split()

    def rate(self, step: Step) -> float:
        """Fall to a tenth after each of the epochs that ``drops`` names."""
        return 0.1 ** sum(step.epoch >= int(epoch) for epoch in self._drops())

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Tell whether weight decay applies to a parameter."""
        return self.decayed == "all" or super().decays(name, parameter)

    def passes(self, epoch: int) -> Sequence[str]:
        """Return over what an epoch passes: over what is wrong in the first epochs only, and then first."""
        return ("forget", "retain") if epoch < self.max_epochs else ("retain",)

    def objective(self, student, model, data, generator) -> Objective:
        """Minus the divergence on what is wrong; divergence and cross-entropy on what is right."""
        teacher = frozen_copy(model)

        def loss(step: Step) -> Tensor:
            image = (step.forget or step.retain).image
            logits = student(image)
            divergence = distillation(logits, teacher(image), self.temperature)
            if step.forget:
                return -divergence
            return self.alpha * divergence + self.gamma * F.cross_entropy(logits, step.retain.given_label)

        return Objective(loss, parameter_count(teacher))


@dataclass(frozen=True)
class BadTeacher(TrainingOnBoth):
    """Distillation from an untrained model on what is wrong, and from the given one on what is right.

    The loss is the mean of KL(teacher || student) over the examples of both batches (Chundawat et al. 2023). Defaults:
    the benchmark of Goel et al. 2024 (SGD, lr 0.025, 1000 steps); its batches hold both kinds in the data's shares.
    """

    search: ClassVar[dict[str, tuple]] = {"lr": ("log", 1e-4, 1e-1), "steps": ("choice", 200, 500, 1000)}

    lr: float = 0.025
    steps: int | None = 1000
    batch_size: int = 512

    def objective(self, student, model, data, generator) -> Objective:
        """Divergence from the teacher of each example."""
        good, bad = frozen_copy(model), fresh_copy(model, generator).requires_grad_(False)

        def loss(step: Step) -> Tensor:
            teacher = torch.cat([bad(step.forget.image), good(step.retain.image)])
            return distillation(student(torch.cat([step.forget.image, step.retain.image])), teacher)

        return Objective(loss, parameter_count(good) + parameter_count(bad))
