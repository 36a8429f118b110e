"""Ways back to the start that ask more than one number: the mean with a filter of the update, a strength of each block.

Legend: I inputs, O outputs.
"""

import dataclasses
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.curvature.cache import LayerCurvature
from vitmem.curvature.collect import uncompiled
from vitmem.curvature.filters import graded_filter
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC
from vitmem.editing.parameters import result
from vitmem.editing.shrink import Rewind, block_of
from vitmem.models.build import with_weights
from vitmem.options import check_counts

_HALVINGS = 40  # of the interval of log tau


@dataclass(frozen=True)
class FilteredRewind(EKFAC):
    """The mean of a way back to the start and of a graded filter of what was learnt, both at one strength.

    W0 + (1 - mix) keep (W - W0) + mix F(W - W0): the filter's one global tau is the one at which F keeps the share
    ``keep`` of the update's norm. Parameters that the filter leaves alone go back by (1 - mix) (1 - keep). Further
    options are those of ``ekfac``; rho and what replaces it have no effect.

    Args:
        keep: share of the update, and of its norm after the filter, that is kept, in [0, 1]; 1 changes nothing.
        mix: weight of the filter, in [0, 1].
    """

    main_option: ClassVar[str] = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.2, 1.0)}

    keep: float = 0.5
    mix: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        for option in ("keep", "mix"):
            if not 0 <= getattr(self, option) <= 1:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be in [0, 1]")
        for option in ("permuted", "scope", "filter"):
            if (given := getattr(self, option)) != getattr(EKFAC, option):
                raise ValueError(f"{option} is {given!r}; this edit has one graded filter of all layers: leave it out")

    @property
    def idle(self) -> frozenset[str]:
        """What ``keep`` replaces."""
        return frozenset({"rho"})

    @property
    def sees(self) -> frozenset[str]:
        """Images, and the initial weights."""
        return super().sees | {"initial"}

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the mean of both."""
        model = uncompiled(model)
        self.check(model)
        start = time.perf_counter()
        back = Rewind(keep=self.keep).apply(model, data, generator)
        if self.keep == 1:
            return back
        update = dataclasses.replace(self, of="update")
        origin = update.origin(model, data)
        curvature = update.curvature(model, data, origin)
        learnt = {n: c.basis.coordinates(c.map.matrix() - origin[n]) for n, c in curvature.layers.items()}
        layers = {n: dataclasses.replace(c, coordinates_OI=learnt[n]) for n, c in curvature.layers.items()}
        layers = {n: dataclasses.replace(c, mass=self.ranked(c)) for n, c in layers.items()}
        tau, changed = tau_of_norm(layers, self.keep, self.exponent), {}
        for name, layer in layers.items():
            filtered_OI = layer.coordinates_OI * filter_of(layer, tau, self.exponent)
            changed |= layer.map.state(origin[name] + layer.basis.compose(filtered_OI))
        states = back.state_dict, dict(model.state_dict()) | changed
        mixed = {n: torch.lerp(states[0][n], states[1][n], self.mix) for n, _ in model.named_parameters()}
        found = result(model, mixed, start, back.report["extra_parameters"])
        seconds = {**curvature.seconds, **found.report["seconds"]}
        return EditResult(found.state_dict, {**found.report, "seconds": seconds})


def filter_of(layer: LayerCurvature, tau: float, exponent: float) -> Tensor:
    """Return by what each coordinate O I of a layer is multiplied."""
    return graded_filter(layer.mass.dense(), tau, exponent).to(layer.coordinates_OI)


def tau_of_norm(layers: Mapping[str, LayerCurvature], share: float, exponent: float) -> float:
    """Return the tau at which a graded filter of all layers together keeps a share of the norm, by bisection.

    Args:
        layers: with coordinates of what is filtered.
        share: in [0, 1); 0 gives infinity.
        exponent: of the filter.
    """
    if share == 0:
        return float("inf")
    masses = [layer.mass.dense() for layer in layers.values()]
    squares = [layer.coordinates_OI.double().square() for layer in layers.values()]
    whole = sum(float(part.sum()) for part in squares)

    def kept(log_tau: float) -> float:
        tau = float(torch.tensor(log_tau, dtype=torch.float64).exp())
        parts = zip(masses, squares, strict=True)
        return sum(float((graded_filter(m, tau, exponent).square() * s).sum()) for m, s in parts)

    positive = torch.cat([mass[mass > 0] for mass in masses])
    low, high = float(positive.min().log()) - 20 / exponent, float(positive.max().log()) + 20 / exponent
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle) >= share**2 * whole else (low, middle)
    return float(torch.tensor(low, dtype=torch.float64).exp())


@dataclass(frozen=True)
class RewindByBlock(Edit):
    """Go back towards the start by a strength of each block, chosen on validation: block l keeps keep^e_l.

    The exponents start at 1 and keep their sum: in each round, the exchange of ``step`` between two blocks that lowers
    the mean cross-entropy of the validation half that edits may see the most is made, until none does. What lies
    before or after the blocks goes with the first or the last.

    Args:
        keep: geometric mean over blocks of the share of the update that is kept, in [0, 1]; 1 changes nothing.
        rounds: exchanges at most, at least 1.
        step: of an exchange, in (0, 1].
        batch_size: images in one step.
    """

    sees: ClassVar[frozenset[str]] = frozenset({"initial", "validation"})
    main_option: ClassVar[str] = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.2, 1.0)}

    keep: float = 0.5
    rounds: int = 4
    step: float = 0.5
    batch_size: int = 250

    def __post_init__(self):
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it must be in [0, 1]")
        check_counts(self, "rounds", "batch_size")
        if not 0 < self.step <= 1:
            raise ValueError(f"step is {self.step}; it must be in (0, 1]")

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the weights with the exponents that were found; the report holds them."""
        start = time.perf_counter()
        model = uncompiled(model)
        trained, initial = dict(model.named_parameters()), data.initial(model)
        if self.keep == 1:
            return result(model, {}, start, 0)
        place = block_of(model)
        exponents = [1.0] * (max(place.values(), default=0) + 1)

        def moved(tried: list[float]) -> dict[str, Tensor]:
            keep = {name: self.keep ** tried[block] for name, block in place.items()}
            return {n: torch.lerp(initial[n], trained[n].detach(), keep[n]) for n in trained}

        loss = self.loss(model, moved(exponents), data)
        for _ in range(self.rounds):
            exchanges = []
            for more, less in itertools.permutations(range(len(exponents)), 2):
                tried = list(exponents)
                tried[more], tried[less] = tried[more] + self.step, tried[less] - self.step
                if tried[less] >= 0:
                    exchanges.append((self.loss(model, moved(tried), data), tried))
            best = min(exchanges, default=(loss, exponents))
            if not best[0] < loss:
                break
            loss, exponents = best
        numbers = sum(value.numel() for value in initial.values())
        return result(model, moved(exponents), start, numbers, exponents=exponents, validation_loss=loss)

    @torch.no_grad()
    def loss(self, model: nn.Module, changed: Mapping[str, Tensor], data: EditData) -> float:
        """Return the mean cross-entropy, in nats, of the validation half that edits may see."""
        tried, total, number = with_weights(model, dict(model.state_dict()) | dict(changed)).eval(), 0.0, 0
        device = next(model.parameters()).device
        for batch in data.validation(self.batch_size):
            logits_BK = tried(batch.image.to(device)).double()
            total += float(F.cross_entropy(logits_BK, batch.true_label.to(device), reduction="sum"))
            number += len(batch.index)
        return total / max(1, number)
