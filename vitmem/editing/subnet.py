"""Subnet and BalancedSubnet: find the weights that hold the wrong labels by training a mask, and set them to zero.

Legend: I inputs, O outputs.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.editing.contract import EditResult, added
from vitmem.editing.data import EditData
from vitmem.editing.finetune import weighted_difference
from vitmem.editing.kfac import relative_change
from vitmem.editing.loop import Objective, Step, Training, forever, frozen_copy, on_both
from vitmem.models.layers import select_layers


class KeepLargest(torch.autograd.Function):
    """The mask that is 0 at the given number of smallest entries and 1 elsewhere; gradients pass straight through."""

    @staticmethod
    def forward(ctx, score: Tensor, zeros: int) -> Tensor:
        """Return the mask; of equal scores, as many are removed as are needed."""
        mask = torch.ones_like(score).flatten()
        mask[score.flatten().topk(zeros, largest=False, sorted=False).indices] = 0
        return mask.view_as(score)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient with respect to the mask as that of the scores, removed ones included."""
        return gradient, None


@dataclass(frozen=True)
class Subnet(Training):
    """Zero the weights whose removal raises the loss of the wrong labels most (Sakarvadia et al. 2025, Subnet).

    Each weight of the chosen matrices has a score, the only thing trained; in each matrix the int(ratio * size)
    weights with the smallest absolute scores are removed. Biases stay. Defaults: the authors', whose sweep has ratios
    from 0.00001 to 0.9, of which we take 0.01; they mask the MLPs alone.

    Args:
        layers: glob patterns over layer names, separated by commas; ``blocks.*`` includes attention.
        ratio: share of the weights of each matrix to remove, in (0, 1).
    """

    main_option = "ratio"
    sees: ClassVar[frozenset[str]] = frozenset({"forget"})
    search: ClassVar[dict[str, tuple]] = {
        "layers": ("choice", "blocks.*.mlp.*", "blocks.*"), "ratio": ("log", 1e-3, 0.5), "lr": ("log", 1e-2, 3.0),
        "epochs": ("choice", 5, 10, 30),
    }  # fmt: skip

    lr: float = 0.1
    epochs: int = 5
    batch_size: int = 64
    layers: str = "blocks.*.mlp.*"
    ratio: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio is {self.ratio}; it is the share of weights to remove, in (0, 1)")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing, and a ratio that removes no weight at all."""
        largest = max(layer.weight.numel() for layer in select_layers(model, self.layers).values())
        if self.zeros(largest) == 0:
            raise ValueError(f"ratio is {self.ratio}; the largest matrix has {largest} weights, so none is removed")

    def zeros(self, size: int) -> int:
        """Return how many weights of a matrix of some size are removed."""
        return int(self.ratio * size)

    def loss(self, forward, step: Step) -> Tensor:
        """Return what the masked model's scores minimise: minus the cross-entropy of the wrong labels."""
        return -F.cross_entropy(forward(step.forget.image), step.forget.given_label)

    def masked(self, maps: dict[str, LinearMap], scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the state entries of the chosen matrices with their smallest scores removed."""
        entries: dict[str, Tensor] = {}
        for name, layer in maps.items():
            mask_OI = KeepLargest.apply(scores[name].abs(), self.zeros(scores[name].numel()))
            entries |= layer.state(layer.matrix() * mask_OI)
        return entries

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the weights with zeros where the trained mask has them; all else stays."""
        model = uncompiled(model)
        self.check(model)
        start = time.perf_counter()
        seed = int(torch.randint(2**62, (), generator=generator))
        network = frozen_copy(model)
        maps = linear_maps(select_layers(network, self.layers))
        scores = {name: nn.Parameter(initial_score(layer.matrix(), generator)) for name, layer in maps.items()}

        def loss(step: Step) -> Tensor:
            entries = self.masked(maps, scores)
            return self.loss(lambda image: functional_call(network, entries, image), step)

        held = sum(score.numel() for score in scores.values())
        report = self.fit(scores, Objective(loss, held), self.loaders(data, seed))
        with torch.no_grad():
            merged = self.masked(maps, scores)
        before = network.state_dict()
        rows = [
            {
                "layer": name,
                "removed": self.zeros(score.numel()),
                "relative_change": relative_change(before[f"{name}.weight"], merged[f"{name}.weight"]),
            }
            for name, score in scores.items()
        ]
        seconds = {"train": time.perf_counter() - start}
        return EditResult({**model.state_dict(), **merged}, {"layers": rows, "seconds": seconds, **report})


def initial_score(w_OI: Tensor, generator: torch.Generator) -> Tensor:
    """Return scores drawn from U(-1 / sqrt(I), 1 / sqrt(I)) for each weight of a matrix."""
    drawn = torch.rand(w_OI.shape, generator=generator, dtype=torch.float64)
    return ((2 * drawn - 1) / math.sqrt(w_OI.shape[1])).to(w_OI)


# Sakarvadia et al. 2025; their setting as adapted by Merullo et al. 2025; ours, found on digits, attention included.
PRESETS = {
    "authors": {
        "layers": "blocks.*.mlp.*", "ratio": 0.01, "w": 0.05, "lr": 0.1, "epochs": 5, "batches": "mixed",
    },
    "merullo": {
        "layers": "blocks.*.mlp.*", "ratio": 0.0015, "w": 0.7, "lr": 0.3, "epochs": 5, "batches": "mixed",
    },
    "digits": {"layers": "blocks.*", "ratio": 0.2, "w": 0.9, "lr": 1.0, "epochs": 30, "batches": "apart"},
}  # fmt: skip


@dataclass(frozen=True)
class BalancedSubnet(Subnet):
    """Zero the weights that the wrong labels need and the right ones do not (Sakarvadia et al. 2025, BalancedSubnet).

    As subnet, with the loss w * CE(retain) - (1 - w) * CE(forget). Options that are not given are those of the preset.

    Args:
        preset: authors (MLPs, ratio 0.01, w 0.05, lr 0.1, 5 epochs, mixed), merullo (their baseline: MLPs, ratio
            0.0015, w 0.7, lr 0.3, 5 epochs, mixed) or digits (ours: attention too, ratio 0.2, w 0.9, lr 1, 30 epochs,
            apart).
        w: weight of the examples known to be right, in [0, 1].
        batches: mixed, as in the authors' code (one loader of batch_size over both kinds, in their natural shares; the
            loss has the means within a batch, and of a kind that a batch lacks, where theirs is not defined, nothing),
            or apart (batch_size of the right and forget_batch_size of the wrong in every step), which was the only way
            until this was an option.
        forget_batch_size: examples known to be wrong per step, where batches are apart.
    """

    sees: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    search: ClassVar[dict[str, tuple]] = {**Subnet.search, "w": ("uniform", 0.05, 0.95)}

    preset: Literal["authors", "merullo", "digits"] = "authors"
    layers: str | None = None
    ratio: float | None = None
    w: float | None = None
    lr: float | None = None
    epochs: int | None = None
    forget_batch_size: int = 64
    batches: Literal["mixed", "apart"] | None = added(None, before="apart")

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}; choose from {', '.join(PRESETS)}")
        for option, value in PRESETS[self.preset].items():
            if getattr(self, option) is None:
                object.__setattr__(self, option, value)  # so that what is recorded is what was done
        super().__post_init__()
        if not 0 <= self.w <= 1:
            raise ValueError(f"w is {self.w}; it is the weight of the examples known to be right, in [0, 1]")
        if self.batches not in ("mixed", "apart"):
            raise ValueError(f"batches is {self.batches!r}; choose mixed or apart")

    @property
    def idle(self) -> frozenset[str]:
        """The size of batches of wrong labels, where they are mixed with right ones."""
        return super().idle | ({"forget_batch_size"} if self.batches == "mixed" else set())

    def loaders(self, data: EditData, seed: int) -> dict[str, InMemoryLoader]:
        """Return the loader of each kind, or where they are mixed one of both."""
        found = super().loaders(data, seed)
        if self.batches == "apart":
            return found
        together = Examples.concatenate([loader.examples for loader in found.values()])
        return {"mixed": data.serve(together, self.batch_size, shuffle=True, seed=seed)}

    def stream(self, loaders: Mapping[str, InMemoryLoader]) -> Iterator[Step]:
        """Yield steps without end; mixed batches are parted into what is wrong and what is right."""
        if self.batches == "apart":
            yield from super().stream(loaders)
        for batch in forever(loaders["mixed"]):
            wrong = batch.to_forget
            yield Step(*(batch.map(lambda field, chosen=chosen: field[chosen]) for chosen in (wrong, ~wrong)))

    def loss(self, forward, step: Step) -> Tensor:
        """Return the weighted difference of the two cross-entropies."""
        forget, retain = (
            F.cross_entropy(logits, batch.given_label, reduction="sum") / max(len(logits), 1)  # 0 without examples
            for logits, batch in zip(on_both(forward, step), step[:2], strict=True)
        )
        return weighted_difference(forget, retain, self.w)
