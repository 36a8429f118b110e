"""Low-curvature removal in the eigenbasis of Kronecker factors, and its controls.

Legend: I inputs, O outputs.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.curvature.cache import CurvatureConfig
from vitmem.curvature.spectrum import Eigenbasis, keep_mass, keep_random, keep_smallest
from vitmem.editing import Edit, EditData, EditResult
from vitmem.models import select_linear


@dataclass(frozen=True)
class KFAC(CurvatureConfig, Edit):
    """Keep the eigen-pairs of highest curvature that hold rho of the mass, drop the rest (Merullo et al. 2025).

    Args:
        layers: glob patterns over layer names, separated by spaces.
        tokens: cls (the class token), all (expand) or mean (reduce).
        labels: sampled from the model, exact (expectation over classes) or given (empirical Fisher).
        draws: labels sampled for each example.
        temperature: of the predicted distribution, positive.
        examples: how many training images, drawn at random; all if there are fewer.
        batch_size: images in one pass; it does not change the factors.
        seed: of the choice of images and of the sampled labels.
        rho: share of the curvature mass to keep, in (0, 1]; 1 changes nothing.
    """

    main_option = "rho"

    rho: float = 0.75

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rho <= 1:
            raise ValueError(f"rho is {self.rho}; it is the share of curvature mass to keep, in (0, 1]")

    @property
    def sees(self) -> frozenset[str]:
        """Images only, unless the given labels are asked for."""
        return frozenset({"given" if self.labels == "given" else "unlabeled"})

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing, and the class token of a model that does not read it."""
        select_linear(model, self.layers)
        if self.tokens == "cls" and getattr(model, "global_pool", "token") != "token":
            raise ValueError(
                f"tokens: cls needs a model that classifies by its class token; this one pools by "
                f"{model.global_pool!r}: use tokens: all"
            )

    def mask(self, basis: Eigenbasis, generator: torch.Generator) -> Tensor:
        """Return which pairs O I of a layer are kept."""
        return keep_mass(basis.mass_OI, self.rho)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return W' = U_G (C * M) U_A^T for each chosen layer; biases and all else stay."""
        self.check(model)
        curvature = data.curvature(model, self)
        start = time.perf_counter()
        state, rows = dict(model.state_dict()), []
        for name, layer in select_linear(model, self.layers).items():
            basis = curvature.layers[name]
            mask_OI = self.mask(basis, generator)
            w_OI = layer.weight.detach()
            if not mask_OI.all():
                state[f"{name}.weight"] = basis.compose(basis.coordinates(w_OI) * mask_OI.to(w_OI))
            rows.append(layer_row(name, w_OI, state[f"{name}.weight"], basis, mask_OI))
        seconds = {
            "collect": curvature.collect_seconds,
            "decompose": curvature.decompose_seconds,
            "apply": time.perf_counter() - start,
        }
        return EditResult(state, {"layers": rows, "seconds": seconds})


@dataclass(frozen=True)
class RandomPairs(KFAC):
    """Control: as many eigen-pairs per layer as K-FAC keeps at this rho, drawn at random. Options as for kfac."""

    def mask(self, basis: Eigenbasis, generator: torch.Generator) -> Tensor:
        """Return a random mask of K-FAC's size."""
        count = int(super().mask(basis, generator).sum())
        return keep_random(basis.mass_OI, count, generator)


@dataclass(frozen=True)
class TopRemoved(KFAC):
    """Control: as many eigen-pairs per layer as K-FAC removes, but those of highest curvature. Options as for kfac."""

    def mask(self, basis: Eigenbasis, generator: torch.Generator) -> Tensor:
        """Return the mask of the pairs with the lowest masses, as many as K-FAC keeps."""
        count = int(super().mask(basis, generator).sum())
        return keep_smallest(basis.mass_OI, count)


def layer_row(name: str, before_OI: Tensor, after_OI: Tensor, basis: Eigenbasis, mask_OI: Tensor) -> dict:
    """Return one layer's line of the report: pairs kept, realised and clamped mass, relative change of the weights."""
    mass_OI = basis.mass_OI
    total = float(mass_OI.sum())
    return {
        "layer": name,
        "pairs": mask_OI.numel(),
        "pairs_kept": int(mask_OI.sum()),
        "mass_kept": float(mass_OI[mask_OI].sum()) / total if total > 0 else 1.0,
        "clamped_a": basis.clamped_a,
        "clamped_g": basis.clamped_g,
        "relative_change": relative_change(before_OI, after_OI),
    }


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return the Frobenius norm of the difference over that of ``before``."""
    return float((after - before).norm() / before.norm().clamp(min=torch.finfo(before.dtype).tiny))
