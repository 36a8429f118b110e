"""Unlearning by plain training: ascent on what is wrong, descent on what is right, new labels.

Legend: B examples of a batch, K classes.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.editing.loop import (
    Objective,
    Step,
    Training,
    TrainingInTurn,
    TrainingOnBoth,
    fresh_copy,
    frozen_copy,
    on_both,
    parameter_count,
)
from vitmem.models.anatomy import anatomy_of, depths


def weighted_difference(forget: Tensor, retain: Tensor, retain_weight: float) -> Tensor:
    """Return w * retain - (1 - w) * forget, of two losses."""
    return retain_weight * retain - (1 - retain_weight) * forget


def preference_loss(loss_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """Return the negative-preference loss, mean of -(2 / beta) log sigmoid(beta (loss - reference)).

    Args:
        loss_B: cross-entropies of the labels to forget.
        reference_B: the same under the model that was given.
        beta: inverse temperature; towards 0 the gradient becomes that of ascent.

    Source: Zhang et al. 2024 (arXiv 2404.05868), equation 3.
    """
    return -(2 / beta) * F.logsigmoid(beta * (loss_B - reference_B.detach())).mean()


def l1_norm(model: nn.Module) -> Tensor:
    """Return the sum of the absolute values of all parameters."""
    return sum(p.abs().sum() for p in model.parameters())


@dataclass(frozen=True)
class GradientAscent(Training):
    """Ascent on the cross-entropy of the labels known to be wrong; it diverges soon. Defaults: Fan et al. 2024."""

    sees: ClassVar[frozenset[str]] = frozenset({"forget"})
    search: ClassVar[dict[str, tuple]] = {"lr": ("log", 1e-6, 1e-2), "epochs": ("choice", 1, 5, 10)}

    lr: float = 1e-4
    epochs: int = 5

    def objective(self, student, model, data, generator) -> Objective:
        """Minus the cross-entropy of the given labels."""
        return Objective(lambda step: -F.cross_entropy(student(step.forget.image), step.forget.given_label))


@dataclass(frozen=True)
class NegGrad(TrainingOnBoth):
    """Descent on what is right and ascent on what is wrong (NegGrad+; alpha 0.5 is GradDiff, with half its weights).

    The loss is alpha * CE(retain) - (1 - alpha) * CE(forget). Defaults: Kurmanji et al. 2023, whose repository takes
    alpha in 0.95 to 0.9999, lr 0.01, 5 to 10 epochs; without weight decay.

    Args:
        alpha: weight of the examples known to be right, in [0, 1].
    """

    search: ClassVar[dict[str, tuple]] = {
        "lr": ("log", 1e-4, 1e-1), "alpha": ("uniform", 0.5, 0.99), "epochs": ("choice", 5, 10, 30),
    }  # fmt: skip

    batch_size: int = 32
    weight_decay: float = 0.0
    alpha: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it is the weight of the examples known to be right, in [0, 1]")

    def objective(self, student, model, data, generator) -> Objective:
        """Weighted difference of the two cross-entropies."""

        def loss(step: Step) -> Tensor:
            forget, retain = on_both(student, step)
            return weighted_difference(
                F.cross_entropy(forget, step.forget.given_label),
                F.cross_entropy(retain, step.retain.given_label),
                self.alpha,
            )

        return Objective(loss)


@dataclass(frozen=True)
class NPO(TrainingOnBoth):
    """Negative preference optimisation (Zhang et al. 2024): ascent that fades as a label is forgotten.

    The loss of the wrong labels is the preference loss; alpha times the cross-entropy of the right ones is added.
    Defaults: beta of the paper; the rest as in open-unlearning (AdamW, lr 1e-5, 10 epochs, clip 1, alpha 1).

    Args:
        beta: inverse temperature, positive; towards 0 the method becomes gradient ascent.
        alpha: weight of the cross-entropy of examples known to be right; 0 leaves them out.
    """

    search: ClassVar[dict[str, tuple]] = {
        "lr": ("log", 1e-5, 1e-2), "beta": ("log", 0.01, 1.0), "alpha": ("log", 0.1, 10.0),
        "epochs": ("choice", 5, 10, 30),
    }  # fmt: skip

    lr: float = 1e-5
    batch_size: int = 32
    forget_batch_size: int = 32
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    weight_decay: float = 0.01
    clip: float = 1.0
    beta: float = 0.1
    alpha: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.not_negative("alpha")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta is {self.beta}; it must be positive and finite")

    @property
    def sees(self) -> frozenset[str]:
        """What is wrong, and what is right unless its weight is 0."""
        return frozenset({"forget", "retain"} if self.alpha else {"forget"})

    def objective(self, student, model, data, generator) -> Objective:
        """Preference loss on what is wrong, plus alpha times the cross-entropy on what is right."""
        teacher = frozen_copy(model)

        def loss(step: Step) -> Tensor:
            image, label = step.forget.image, step.forget.given_label
            new, old = (F.cross_entropy(network(image), label, reduction="none") for network in (student, teacher))
            total = preference_loss(new, old, self.beta)
            if step.retain is not None:
                total = total + self.alpha * F.cross_entropy(student(step.retain.image), step.retain.given_label)
            return total

        return Objective(loss, parameter_count(teacher))


@dataclass(frozen=True)
class FineTune(Training):
    """Fine-tuning on examples known to be right. Defaults: Fan et al. 2024 (SGD, lr 0.01, 10 epochs)."""

    sees: ClassVar[frozenset[str]] = frozenset({"retain"})
    search: ClassVar[dict[str, tuple]] = {"lr": ("log", 1e-4, 1e-1), "epochs": ("choice", 5, 10, 30)}

    def objective(self, student, model, data, generator) -> Objective:
        """Cross-entropy."""
        return Objective(lambda step: F.cross_entropy(student(step.retain.image), step.retain.given_label))


@dataclass(frozen=True)
class L1Sparse(FineTune):
    """Fine-tuning on examples known to be right, with an l1 penalty that falls linearly to 0 (Jia et al. 2023).

    Defaults: alpha as in the repository of Fan et al. 2024.

    Args:
        alpha: first weight of the sum of the absolute values of all parameters.
    """

    search: ClassVar[dict[str, tuple]] = {**FineTune.search, "alpha": ("log", 1e-6, 1e-3)}

    alpha: float = 1e-4

    def __post_init__(self):
        super().__post_init__()
        self.not_negative("alpha")

    def objective(self, student, model, data, generator) -> Objective:
        """Cross-entropy and penalty."""
        plain = super().objective(student, model, data, generator).loss
        return Objective(lambda step: plain(step) + self.alpha * (1 - step.done) * l1_norm(student))


@dataclass(frozen=True)
class CFk(FineTune):
    """Fine-tuning of the last k layers on examples known to be right (catastrophic forgetting; Goel et al. 2022).

    Layers are counted from the end: the classifier with its norm, then block by block, then the embedding with
    positions and tokens. Frozen layers still take part in the forward pass. The learning rate falls linearly to a
    fifth. Defaults: the benchmark of Goel et al. 2024 (CIFAR-10).

    Args:
        k: how many layers are trained; -1 trains all.
    """

    main_option = "k"
    search: ClassVar[dict[str, tuple]] = {
        "lr": ("log", 1e-4, 1e-1), "k": ("int", 1, 6), "steps": ("choice", 100, 300, 1000),
    }  # fmt: skip

    lr: float = 0.025
    steps: int | None = 1000
    batch_size: int = 512
    k: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.k < 1 and self.k != -1:
            raise ValueError(f"k is {self.k}; it is the number of layers to train, at least 1, or -1 for all")

    def check(self, model: nn.Module) -> None:
        """Refuse more layers than there are."""
        layers = len(anatomy_of(model).blocks) + 2
        if self.k > layers:
            raise ValueError(f"k is {self.k}; this model has {layers} layers, embedding and classifier included")

    def student(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return a copy whose first layers are frozen."""
        copied = super().student(model, generator)
        depth = depths(copied)
        first = len(anatomy_of(copied).blocks) + 2 - self.k
        for name, parameter in copied.named_parameters():
            parameter.requires_grad_(self.k == -1 or depth[name] >= first)
        return copied

    def rate(self, step: Step) -> float:
        """Fall linearly to a fifth."""
        return 1 - 0.8 * step.done


@dataclass(frozen=True)
class EUk(CFk):
    """Training of the last k layers from new initial weights, on what is right (exact unlearning). Options: cfk."""

    def student(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return a copy whose first layers are frozen and whose others are initialised anew."""
        copied, fresh = super().student(model, generator), fresh_copy(model, generator)
        with torch.no_grad():
            for parameter, initial in zip(copied.parameters(), fresh.parameters(), strict=True):
                if parameter.requires_grad:
                    parameter.copy_(initial)
        return copied


@dataclass(frozen=True)
class RandomLabels(TrainingInTurn):
    """Training on random labels of what is wrong, then on what is right, in each epoch (Golatkar et al. 2020).

    Labels are drawn anew for every batch from all classes. One wrong label gives way to another: little of the true
    label comes back by that alone. Defaults: Fan et al. 2024 (SGD, lr 0.013, 10 epochs).
    """

    search: ClassVar[dict[str, tuple]] = {"lr": ("log", 1e-4, 1e-1), "epochs": ("choice", 5, 10, 30)}

    lr: float = 0.013
    forget_batch_size: int = 256

    def label(self, step: Step, classes: int, generator: torch.Generator) -> Tensor:
        """Return the labels B that examples known to be wrong are trained on."""
        drawn = torch.randint(classes, (len(step.forget.image),), generator=generator)
        return drawn.to(step.forget.image.device)

    def objective(self, student, model, data, generator) -> Objective:
        """Cross-entropy of the labels drawn, or of those that are right."""

        def loss(step: Step) -> Tensor:
            logits = student((step.forget or step.retain).image)
            label = self.label(step, logits.shape[1], generator) if step.forget else step.retain.given_label
            return F.cross_entropy(logits, label)

        return Objective(loss)


@dataclass(frozen=True)
class OracleLabels(RandomLabels):
    """Training on the true labels of what is known to be wrong, then on what is right: an upper bound.

    No method of practice knows the true labels. Options as for random_labels.
    """

    @property
    def track(self) -> str:
        """Its own, so that it is not taken for a rival."""
        return f"{super().track}, and their true labels (a bound)"

    def label(self, step: Step, classes: int, generator: torch.Generator) -> Tensor:
        """Return the true labels B.

        Raises:
            ValueError: one is unknown.
        """
        if (step.forget.true_label < 0).any():
            raise ValueError("oracle_labels needs the true labels of the forget set, and some are unknown (-1)")
        return step.forget.true_label
