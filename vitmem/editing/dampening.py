"""Selective synaptic dampening: shrink the parameters that matter more to the wrong examples than to the others."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Batch
from vitmem.distributed import all_sum
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.parameters import accuracy, chosen_parameters, result, working_copy
from vitmem.options import check_counts


@dataclass(frozen=True)
class SSD(Edit):
    """Selective synaptic dampening of the parameters that matter most to the known wrong examples.

    A parameter with importance I_f > alpha I_D is multiplied by min(lam I_D / I_f, 1); I is the mean over batches of
    the squared gradient of the batch's mean cross-entropy, as in the authors' code, so the batch size matters;
    batch_size 1 gives the diagonal of the empirical Fisher matrix. Source: Foster et al. 2024 (arXiv 2308.07707).

    Args:
        layers: glob patterns over layer names, separated by commas; ``*`` takes in norms, positions and tokens too.
        alpha: how much larger the importance must be, positive; the authors take 10, times 0.5 for ViTs.
        lam: strength of what stays, positive; the authors take 1.
        reference: what I_D is measured on: all training examples (the authors), or retain, those known to be right.
        batch_size: examples in a batch whose gradient is squared.
    """

    main_option = "alpha"
    search: ClassVar[dict[str, tuple]] = {"alpha": ("log", 0.1, 1e6), "lam": ("log", 0.1, 5.0)}

    layers: str = "*"
    alpha: float = 5.0
    lam: float = 1.0
    reference: Literal["all", "retain"] = "all"
    batch_size: int = 64

    def __post_init__(self):
        for option in ("alpha", "lam"):
            if not getattr(self, option) > 0:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be positive")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")

    @property
    def sees(self) -> frozenset[str]:
        """The known wrong examples, and what importances are compared with."""
        return frozenset({"forget", "given" if self.reference == "all" else "retain"})

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        chosen_parameters(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the dampened weights."""
        start = time.perf_counter()
        names = chosen_parameters(uncompiled(model), self.layers)
        twin = working_copy(model, names)
        others = data.given(sys.maxsize, self.batch_size) if self.reference == "all" else data.retain(self.batch_size)
        forget = importances(twin, names, data.forget(self.batch_size), cross_entropy, torch.square)
        reference = importances(twin, names, others, cross_entropy, torch.square)
        changed, dampened = {}, 0
        for name in names:
            factor = dampening(forget[name], reference[name], self.alpha, self.lam)
            changed[name] = twin.get_parameter(name).detach() * factor
            dampened += int((factor < 1).sum())
        share = dampened / sum(value.numel() for value in changed.values())
        return result(model, changed, start, 2 * sum(v.numel() for v in changed.values()), share_dampened=share)


@dataclass(frozen=True)
class Potion(Edit):
    """Label-free dampening that grows until the known wrong examples lose their labels (arXiv 2406.09173).

    Importances are the mean over batches of the absolute gradient of the mean length of the logits. The parameters
    whose I_f / I_D is among the top log(1 + 100 f) per cent are multiplied by min(I_D / I_f, 1); f starts at the known
    wrong examples' share of the data over 25 and grows by 1.1, from the unedited weights each time, until the accuracy
    on the wrong labels is at most ``stop`` of the first one. I_D is measured on the examples known to be right.

    Args:
        layers: glob patterns over layer names, separated by commas; ``*`` takes in norms, positions and tokens too.
        stop: share of the first accuracy on the wrong labels at which to stop, in [0, 1); the authors report 0 to 0.75.
        tries: most tries, at least 1; the authors take 500.
        batch_size: examples in a batch.
    """

    sees = frozenset({"forget", "retain"})
    main_option = "stop"
    search: ClassVar[dict[str, tuple]] = {"stop": ("uniform", 0.0, 0.75)}

    layers: str = "*"
    stop: float = 0.2
    tries: int = 500
    batch_size: int = 64

    def __post_init__(self):
        if not 0 <= self.stop < 1:
            raise ValueError(f"stop is {self.stop}; it is a share of the first accuracy, in [0, 1)")
        check_counts(self, "tries", "batch_size")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        chosen_parameters(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the weights of the first try that is enough, or of the last one."""
        start = time.perf_counter()
        names = chosen_parameters(uncompiled(model), self.layers)
        twin = working_copy(model, names)
        loaders = data.forget(self.batch_size), data.retain(self.batch_size)
        forget, reference = (importances(twin, names, loader, logit_length, torch.abs) for loader in loaders)
        known, right = (len(loader.examples) for loader in loaders)
        unedited = {name: twin.get_parameter(name).detach().clone() for name in names}
        ratio = torch.cat([(forget[name] / reference[name]).flatten() for name in names])
        ratio = ratio[torch.isfinite(ratio)].sort().values
        first = last = accuracy(twin, loaders[0])
        changed, fraction, tries = unedited, known / (known + right) / 25, 0
        while tries < self.tries and (tries == 0 or last > self.stop * first):
            alpha = top_threshold(ratio, fraction)
            changed = {n: unedited[n] * dampening(forget[n], reference[n], alpha, 1.0) for n in names}
            twin.load_state_dict(changed, strict=False)
            last, fraction, tries = accuracy(twin, loaders[0]), 1.1 * fraction, tries + 1
        found = {"tries": tries, "alpha": alpha, "forget_accuracy": last, "reached": last <= self.stop * first}
        return result(model, changed, start, 3 * sum(v.numel() for v in changed.values()), **found)


def cross_entropy(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy on the given labels."""
    return F.cross_entropy(logits_BK, batch.given_label.to(logits_BK.device))


def logit_length(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Return the mean Euclidean length of the logits."""
    return logits_BK.norm(dim=1).mean()


def importances(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Batch], Tensor],
    size: Callable[[Tensor], Tensor],
) -> Mapping[str, Tensor]:
    """Return the mean over examples of the size of each parameter's gradient on their batch, by parameter name.

    For batches of one size that is the authors' mean over batches; a ragged last one counts for what it holds.

    Args:
        model: the classifier, its named parameters asking for gradients.
        names: of the parameters.
        batches: what to average over.
        loss: of the logits and a batch, a scalar.
        size: square or absolute value.
    """
    parameters = [model.get_parameter(name) for name in names]
    sums, number = [torch.zeros_like(p) for p in parameters], torch.zeros(())
    for batch in batches:
        value = loss(model(batch.image.to(parameters[0].device)), batch)
        for total, gradient in zip(sums, torch.autograd.grad(value, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                total += size(gradient) * len(batch.index)
        number += len(batch.index)
    if not (count := float(all_sum(number))):
        raise ValueError("there are no wrong examples, or none known to be right, to measure importances on")
    return dict(zip(names, [all_sum(total) / count for total in sums], strict=True))


def dampening(forget: Tensor, reference: Tensor, alpha: float, lam: float) -> Tensor:
    """Return by what each parameter is multiplied, in [0, 1].

    Args:
        forget: importances I_f.
        reference: importances I_D of the same shape.
        alpha: selected are the parameters with I_f > alpha I_D.
        lam: those are multiplied by min(lam I_D / I_f, 1).
    """
    return torch.where(forget > alpha * reference, (lam * reference / forget).clamp(max=1), 1.0)


def top_threshold(ordered: Tensor, fraction: float) -> float:
    """Return the value that log(1 + 100 fraction) per cent of the rising ``ordered`` exceed."""
    share = math.log1p(100 * fraction) / 100
    return float(ordered[max(0, math.ceil((1 - share) * len(ordered)) - 1)])
