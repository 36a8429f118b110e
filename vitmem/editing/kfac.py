"""Low-curvature removal in the eigenbasis of Kronecker factors, and its controls: basis x masses x filter x scope.

Legend: I inputs, O outputs.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vitmem.curvature.axes import without_curvature
from vitmem.curvature.cache import Curvature, CurvatureConfig, LayerCurvature
from vitmem.curvature.collect import uncompiled
from vitmem.curvature.filters import graded_filter, hard_masks, smallest_mask
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.spectrum import DenseMass, KroneckerMass, Mass, Target, find_threshold
from vitmem.editing.contract import Edit, EditResult, added
from vitmem.editing.data import EditData
from vitmem.editing.origin import Of, initial_matrices
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers


@dataclass(frozen=True)
class KFAC(CurvatureConfig, Edit):
    """Keep the eigen-pairs of highest curvature, drop or shrink the rest; default rule: Merullo et al. 2025.

    Further options are those of ``CurvatureConfig``.

    Args:
        rho: share of the curvature mass to keep, in (0, 1]; 1 changes nothing.
        fraction: share of the eigen-pairs to keep, in (0, 1]; replaces rho.
        pairs: number of eigen-pairs to keep; replaces rho.
        tau: smallest mass to keep, in loss per squared weight; replaces rho.
        scope: one threshold for each layer, or a global one for all of them together.
        filter: hard (keep or drop) or graded (shrink by P^g / (P^g + tau^g), tau the hard rule's threshold).
        exponent: g of the graded filter; 1 is Wiener's.
        of: what is filtered: the weights, or the update that training made of the initial ones, W - W0.
        masses: by what pairs are ranked: ag (both factors, as ``moments`` says), a (inputs alone, no gradient is
            taken), g (gradients alone), size (the squared coordinate itself) or obd (that times ag: Optimal Brain
            Damage, LeCun et al. 1989).
        permuted: control: deal out each layer's masses to its pairs at random.
        at: where curvature is measured: end (the trained model) or start (the one that training started from).
    """

    search: ClassVar[dict[str, tuple]] = {"rho": ("uniform", 0.4, 0.99)}

    rho: float = 0.75
    fraction: float | None = None
    pairs: int | None = None
    tau: float | None = None
    scope: Literal["layer", "global"] = "layer"
    filter: Literal["hard", "graded"] = "hard"
    exponent: float = 1.0
    of: Of = added("weights")
    masses: Literal["ag", "a", "g", "size", "obd"] = added("ag")
    permuted: bool = added(False)
    at: Literal["end", "start"] = added("end")

    def __post_init__(self):
        super().__post_init__()
        if self.at == "start" and self.basis == "svd":
            raise ValueError("at: start measures in axes of the model at the start; use a basis other than svd")
        if self.moments == "inputs" and self.masses not in ("ag", "a"):
            raise ValueError(f"masses is {self.masses}, which needs gradients; use a, or moments: kfac or ekfac")
        others = [option for option in ("fraction", "pairs", "tau") if getattr(self, option) is not None]
        if len(others) > 1:
            raise ValueError(f"{others[0]} and {others[1]} are both given; give one of rho, fraction, pairs, tau")
        if not (self.exponent > 0 and self.exponent < float("inf")):
            raise ValueError(
                f"exponent is {self.exponent}; it must be positive and finite; for a step use filter: hard"
            )
        _ = self.target

    @property
    def main_option(self) -> str:
        """The option that says how much is kept."""
        return self.target.kind

    @property
    def target(self) -> Target:
        """How much is kept."""
        kind = next((o for o in ("fraction", "pairs", "tau") if getattr(self, o) is not None), "rho")
        return Target(kind, getattr(self, kind))

    @property
    def idle(self) -> frozenset[str]:
        """What another target replaces, and what only the graded filter has."""
        return frozenset({"rho"} - {self.target.kind} | ({"exponent"} if self.filter == "hard" else set()))

    @property
    def sees(self) -> frozenset[str]:
        """Images alone, unless labels or the knowledge which are wrong are asked for."""
        start = {"initial"} if self.of == "update" or self.at == "start" else set()
        if not self.needs_images:
            return frozenset(start)
        if self.split == "validation":
            images = "validation"
        else:
            images = {"included": "unlabeled", "excluded": "retain", "only": "forget"}[self.noisy]
        labels = {"given"} if self.labels == "given" and self.collected.moments != "inputs" else set()
        return frozenset({images} | labels | start)

    @property
    def needs_images(self) -> bool:
        """Axes or masses are measured on images."""
        return self.masses != "size" or self.basis == "kfac"

    @property
    def collected(self) -> CurvatureConfig:
        """What is collected: no pass that the masses do not need."""
        if self.masses in ("ag", "obd"):
            return self
        return dataclasses.replace(self, moments="inputs" if self.masses == "a" else "kfac")

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing, and the class token where there is none."""
        for name, layer in select_layers(model, self.layers).items():
            if self.tokens == "cls" and isinstance(layer, nn.Conv2d):
                raise ValueError(
                    f"tokens: cls cannot be used with {name}: patches have no class token; use tokens: all"
                )
        if self.tokens == "cls" and getattr(model, "global_pool", "token") != "token":
            raise ValueError(
                f"tokens: cls needs a model that classifies by its class token; this one pools by "
                f"{model.global_pool!r}: use tokens: all"
            )

    def weights(self, layers: Mapping[str, LayerCurvature]) -> dict[str, Tensor]:
        """Return by what each coordinate O I of the layers is multiplied: a mask, or a filter in [0, 1]."""
        if self.filter == "hard":
            return self.hard(layers)
        thresholds = [
            (group, find_threshold([layers[n].mass for n in group], self.target)) for group in self.groups(layers)
        ]
        return {
            name: graded_filter(layers[name].mass.dense(), threshold.tau, self.exponent)
            for group, threshold in thresholds
            for name in group
        }

    def groups(self, layers: Mapping[str, LayerCurvature]) -> list[list[str]]:
        """Return the names of the layers that share one threshold."""
        return [[name] for name in layers] if self.scope == "layer" else [list(layers)]

    def hard(self, layers: Mapping[str, LayerCurvature]) -> dict[str, Tensor]:
        """Return the masks of the pairs that reach the target, whatever the filter."""
        masks: dict[str, Tensor] = {}
        for group in self.groups(layers):
            masses = [layers[name].mass for name in group]
            masks |= zip(group, hard_masks(masses, find_threshold(masses, self.target)), strict=True)
        return masks

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return W' = U_G (C * M) U_A^T for each chosen layer; all else stays."""
        model = uncompiled(model)
        self.check(model)
        origin = self.origin(model, data)
        curvature = self.curvature(model, data, origin)
        start = time.perf_counter()
        state, rows = self.edited(model, curvature.layers, generator, origin)
        seconds = {**curvature.seconds, "apply": time.perf_counter() - start}
        return EditResult(state, {"layers": rows, "seconds": seconds, "lumped_trace": curvature.lumped})

    def origin(self, model: nn.Module, data: EditData) -> dict[str, Tensor]:
        """Return, by layer, the matrices O I that what is filtered starts from; none for the weights themselves."""
        return initial_matrices(linear_maps(select_layers(model, self.layers), self.bias), self.of, model, data)

    def curvature(self, model: nn.Module, data: EditData, origin: Mapping[str, Tensor]) -> Curvature:
        """Return axes and masses of the chosen layers, from images if they are needed."""
        if self.needs_images and self.at == "start":
            found = data.curvature(with_weights(model, data.initial(model)), self.collected)
            maps = linear_maps(select_layers(model, self.layers), self.bias)
            moved = {
                n: dataclasses.replace(layer, map=maps[n], coordinates_OI=layer.basis.coordinates(maps[n].matrix()))
                for n, layer in found.layers.items()
            }
            return dataclasses.replace(found, layers=moved)
        if self.needs_images:
            return data.curvature(model, self.collected, origin if self.basis == "svd" else None)
        start = time.perf_counter()
        maps = linear_maps(select_layers(model, self.layers), self.bias)
        matrices = {n: m.matrix() - origin[n] if n in origin else m.matrix() for n, m in maps.items()}
        bases = without_curvature(matrices, self.basis, self.seed)
        layers = {
            n: LayerCurvature(m, b, KroneckerMass(b.lambda_O, b.mu_I), b.coordinates(matrices[n]))
            for (n, m), b in zip(maps.items(), bases.values(), strict=True)
        }
        return Curvature(layers, {"decompose": time.perf_counter() - start}, 0.0)

    def ranked(self, layer: LayerCurvature) -> Mass:
        """Return the masses by which one layer's pairs are ranked."""
        basis, size_OI = layer.basis, layer.coordinates_OI.double().square()
        kinds = {
            "ag": lambda: layer.mass,
            "a": lambda: KroneckerMass(torch.ones_like(basis.lambda_O), basis.mu_I),
            "g": lambda: KroneckerMass(basis.lambda_O, torch.ones_like(basis.mu_I)),
            "size": lambda: DenseMass(size_OI),
            "obd": lambda: DenseMass(size_OI * layer.mass.dense()),
        }
        return kinds[self.masses]()

    def edited(
        self,
        model: nn.Module,
        layers: Mapping[str, LayerCurvature],
        generator: torch.Generator,
        origin: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], list[dict]]:
        """Return the edited weights and the report's rows; only masks and two products per layer are computed.

        Args:
            model: the classifier that the curvature belongs to.
            layers: curvature of the chosen layers.
            generator: for controls that draw.
            origin: as ``origin`` returns it.
        """
        if origin:
            of_update = {n: c.basis.coordinates(c.map.matrix() - origin[n]) for n, c in layers.items()}
            layers = {n: dataclasses.replace(c, coordinates_OI=of_update[n]) for n, c in layers.items()}
        layers = {n: dataclasses.replace(c, mass=self.ranked(c)) for n, c in layers.items()}
        used = layers
        if self.permuted:
            used = {n: dataclasses.replace(c, mass=dealt_out(c.mass, generator)) for n, c in layers.items()}
        state, rows = dict(model.state_dict()), []
        for name, multiplier_OI in self.weights(used).items():
            layer = layers[name]
            kept_OI = filtered(layer.coordinates_OI, multiplier_OI)
            row = layer_row(name, layer, multiplier_OI, kept_OI)
            if row["relative_change"] != 0:
                edited_OI = layer.basis.compose(kept_OI)
                state |= layer.map.state(edited_OI + origin[name] if name in origin else edited_OI)
            rows.append(row)
        return state, rows


@dataclass(frozen=True)
class EKFAC(KFAC):
    """Graded shrinkage of one global spectrum of EK-FAC moments, exact labels (George et al. 2018). Options: kfac."""

    search: ClassVar[dict[str, tuple]] = {"rho": ("uniform", 0.4, 0.99), "exponent": ("uniform", 0.3, 1.5)}

    moments: Literal["kfac", "ekfac", "inputs"] = "ekfac"
    labels: Literal["sampled", "exact", "topk", "given"] = "exact"
    scope: Literal["layer", "global"] = "global"
    filter: Literal["hard", "graded"] = "graded"
    exponent: float = 0.5


@dataclass(frozen=True)
class RandomPairs(KFAC):
    """Control: as many eigen-pairs per layer as K-FAC keeps at this rho, drawn at random. Options as for kfac."""

    permuted: bool = added(True)


@dataclass(frozen=True)
class InputFilter(KFAC):
    """Graded shrinkage of one global spectrum of the layers' inputs: the factor A alone; forward passes, no label.

    Options as for kfac. With one threshold a layer and exponent 1 it is nearly ``sap`` (Kodge et al. 2025).
    """

    search: ClassVar[dict[str, tuple]] = {"rho": ("uniform", 0.4, 0.99), "exponent": ("uniform", 0.3, 1.5)}

    moments: Literal["kfac", "ekfac", "inputs"] = "inputs"
    scope: Literal["layer", "global"] = "global"
    filter: Literal["hard", "graded"] = "graded"
    exponent: float = 0.5


@dataclass(frozen=True)
class TopRemoved(KFAC):
    """Control: as many eigen-pairs per layer as K-FAC removes, but those of highest curvature. Options as for kfac."""

    def weights(self, layers: Mapping[str, LayerCurvature]) -> dict[str, Tensor]:
        """Return the masks of the lowest masses, of K-FAC's sizes."""
        kept = self.hard(layers)
        return {name: smallest_mask(layers[name].mass.dense(), int(mask.sum())) for name, mask in kept.items()}


def dealt_out(mass: Mass, generator: torch.Generator) -> Mass:
    """Return one layer's masses with each given to a pair drawn at random."""
    falling = mass.dense().flatten().sort(descending=True, stable=True).values
    dealt = torch.empty_like(falling)
    dealt[torch.randperm(len(falling), generator=generator).to(falling.device)] = falling
    return DenseMass(dealt.view(mass.shape))


def filtered(c_OI: Tensor, multiplier_OI: Tensor) -> Tensor:
    """Return coordinates times multipliers, or where a mask keeps them."""
    return torch.where(multiplier_OI, c_OI, 0) if multiplier_OI.dtype == torch.bool else c_OI * multiplier_OI.to(c_OI)


def layer_row(name: str, layer: LayerCurvature, multiplier_OI: Tensor, kept_OI: Tensor) -> dict[str, object]:
    """Return one layer's line of the report; ``kept_OI`` are its filtered coordinates.

    ``pairs_kept`` and ``mass_kept`` are sums of the multipliers, so a graded filter keeps fractions of pairs.
    """
    total, is_mask = layer.mass.total, multiplier_OI.dtype == torch.bool
    pairs_kept = multiplier_OI.count_nonzero() if is_mask else multiplier_OI.sum(dtype=torch.float64)
    return {
        "layer": name,
        "pairs": multiplier_OI.numel(),
        "pairs_kept": round(float(pairs_kept), 3),
        "mass_kept": layer.mass.kept(multiplier_OI) / total if total > 0 else 1.0,
        "clamped_a": layer.basis.clamped_a,
        "clamped_g": layer.basis.clamped_g,
        "relative_change": relative_change(layer.coordinates_OI, kept_OI),
    }


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return the Frobenius norm of the difference over that of ``before``."""
    return float((after - before).norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny))
