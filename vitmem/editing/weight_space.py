"""Unlearning that moves far away in weight space, so that relearning does not bring the labels back.

All fine-tune on the examples known to be right with Adam. Source: Siddiqui et al. 2025 (arXiv 2505.22310).
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Batch
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.parameters import chosen_parameters, descend, draw_seed, result, working_copy
from vitmem.options import check_counts

Penalty = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class _WeightSpace(Edit):
    """Fine-tune on the examples known to be right; what is added is the subclass's.

    Args:
        layers: glob patterns over layer names, separated by commas; ``*`` takes in norms, positions and tokens too.
        epochs: passes over the examples known to be right, at least 1; the authors take 100.
        lr: of Adam, positive; the authors take 1e-5.
        batch_size: examples in a step.
    """

    sees = frozenset({"retain"})

    layers: str = "*"
    epochs: int = 100
    lr: float = 1e-5
    batch_size: int = 64

    def __post_init__(self):
        check_counts(self, "epochs", "batch_size")
        for option in ("lr", self.main_option):
            if not (getattr(self, option) > 0 and math.isfinite(getattr(self, option))):
                raise ValueError(f"{option} is {getattr(self, option)}; it must be positive and finite")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        chosen_parameters(model, self.layers)

    def start(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Change the weights before the first step, in place."""

    def penalty(self, before: Mapping[str, Tensor], twin: nn.Module, data: EditData, seed: int) -> Penalty:
        """Return what is added to the cross-entropy, as a function of the weights in training.

        Args:
            before: the unedited weights.
            twin: the model in training.
            data: what the edit may see.
            seed: of its own loaders.
        """
        return lambda weights: torch.zeros(())

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the fine-tuned weights."""
        start = time.perf_counter()
        names = chosen_parameters(uncompiled(model), self.layers)
        twin = working_copy(model, names)
        weights = {name: twin.get_parameter(name) for name in names}
        before = {name: value.detach().clone() for name, value in weights.items()}
        device = next(twin.parameters()).device
        with torch.no_grad():
            self.start(weights, generator)
        loader = data.retain(self.batch_size, shuffle=True, seed=draw_seed(generator))
        penalty = self.penalty(before, twin, data, draw_seed(generator))

        def loss(batch: Batch) -> Tensor:
            found = F.cross_entropy(twin(batch.image.to(device)), batch.given_label.to(device))
            return found + penalty(weights).to(device)

        descend(loader, loss, torch.optim.Adam(weights.values(), lr=self.lr), self.epochs)
        changed = {name: value.detach() for name, value in weights.items()}
        distance = math.sqrt(sum(float((changed[n] - before[n]).double().square().sum()) for n in names))
        return result(model, changed, start, sum(v.numel() for v in before.values()), distance=distance)


@dataclass(frozen=True)
class WeightDistortion(_WeightSpace):
    """Add normal noise to every weight, then fine-tune on the examples known to be right (arXiv 2505.22310).

    Args:
        std: standard deviation of the noise, positive; the authors take 0.02.
    """

    main_option = "std"
    search: ClassVar[dict[str, tuple]] = {
        "std": ("log", 0.005, 0.1),
        "lr": ("log", 1e-6, 1e-3),
        "epochs": ("choice", 10, 30, 100),
    }

    std: float = 0.02

    def start(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Add the noise."""
        for parameter in parameters.values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(self.std * noise.to(parameter))


@dataclass(frozen=True)
class WeightDistance(_WeightSpace):
    """Fine-tune on the examples known to be right and away from the old weights (arXiv 2505.22310).

    The loss is CE - alpha sqrt(mean((theta - theta_0)^2) + 1e-8), the mean over all edited weights.

    Args:
        alpha: weight of the distance, positive; the authors take 1.
    """

    main_option = "alpha"
    search: ClassVar[dict[str, tuple]] = {
        "alpha": ("log", 0.1, 100.0),
        "lr": ("log", 1e-6, 1e-3),
        "epochs": ("choice", 10, 30, 100),
    }

    alpha: float = 1.0

    def penalty(self, before: Mapping[str, Tensor], twin: nn.Module, data: EditData, seed: int) -> Penalty:
        """Return - alpha times the distance."""
        return lambda weights: -self.alpha * rms_distance(weights, before)


@dataclass(frozen=True)
class Midpoint(_WeightSpace):
    """Fine-tune on the examples known to be right with a high loss halfway to the old weights (arXiv 2505.22310).

    The loss is CE(theta) + alpha max(-CE(theta_mid), -gamma) with theta_mid = (theta_0 + theta) / 2, the second
    cross-entropy on batches of right and known wrong examples in their proportion. The authors call it
    mode_connectivity.

    Args:
        alpha: weight of the barrier, positive; the authors take 1e-3.
        gamma: cross-entropy above which the barrier is high enough, in nats; the authors take 50.
    """

    sees = frozenset({"retain", "forget"})
    main_option = "alpha"
    search: ClassVar[dict[str, tuple]] = {
        "alpha": ("log", 1e-4, 1.0),
        "lr": ("log", 1e-6, 1e-3),
        "epochs": ("choice", 10, 30, 100),
    }

    alpha: float = 1e-3
    gamma: float = 50.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma}; it is a cross-entropy: at least 0, and finite")

    def penalty(self, before: Mapping[str, Tensor], twin: nn.Module, data: EditData, seed: int) -> Penalty:
        """Return alpha max(-CE(theta_mid), -gamma) on the next batches."""
        retain = data.retain(self.batch_size, shuffle=True, seed=seed)
        wrong = len(data.forget(1).examples)
        forget = data.forget(max(1, math.ceil(wrong / len(retain))), shuffle=True, seed=seed)
        batches = zip(forever(retain), forever(forget), strict=True)
        device = next(twin.parameters()).device

        def barrier(weights: Mapping[str, Tensor]) -> Tensor:
            both = next(batches)
            image = torch.cat([batch.image for batch in both]).to(device)
            label = torch.cat([batch.given_label for batch in both]).to(device)
            loss = F.cross_entropy(functional_call(twin, midpoint(before, weights), (image,)), label)
            return self.alpha * (-loss).clamp(min=-self.gamma)

        return barrier


def rms_distance(weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
    """Return sqrt(mean((theta - theta_0)^2) + 1e-8) over all weights together."""
    total = sum((weights[name] - value).square().sum() for name, value in before.items())
    return (total / sum(value.numel() for value in before.values()) + 1e-8).sqrt()


def midpoint(before: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return (theta_0 + theta) / 2; gradients flow to theta."""
    return {name: (value + weights[name]) / 2 for name, value in before.items()}


def forever(loader):
    """Yield the batches of a loader again and again, in a new order each time.

    Raises:
        ValueError: it has none.
    """
    if len(loader) == 0:
        raise ValueError("there is no example of the kind that this edit trains on, and it needs some")
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader
