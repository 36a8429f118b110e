"""Do components of low curvature answer to memorised images, and those of high curvature to clean ones?

Components of a layer are ordered and cut into bands: the top 10 %, 10 to 25 %, 25 to 50 %, and the bottom half. The
strength of a band on an image is the root mean square, over tokens, of the layer's input along its components
(``input``), or of the band's part of the layer's output (``output``). The ratio is the mean strength on memorised
images over that on clean ones.

Legend: B images, T tokens, I inputs, O outputs, N images of a group, K bands.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.analysis.resample import ends, permuted_ratios, resampled_ratios, two_sided
from vitmem.curvature.cache import CurvatureConfig, LayerCurvature
from vitmem.curvature.collect import sweep_inputs, uncompiled
from vitmem.curvature.moments import Tokens
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.kfac import dealt_out

BANDS = {"top 10 %": (0.0, 0.1), "10-25 %": (0.1, 0.25), "25-50 %": (0.25, 0.5), "bottom 50 %": (0.5, 1.0)}
NORM = "norm"  # the whole input or output: what a band must differ from


@dataclass(frozen=True)
class Bands(CurvatureConfig, Analysis):
    """Response of components, by bands of curvature, to memorised against clean images (Merullo et al. 2025, figure 2).

    Orders: ``curvature`` (eigen-pairs by mass), ``svd`` (singular vectors by singular value), ``random`` (the same
    pairs with masses dealt out at random). Row ``norm`` is the whole input or output: a band whose ratio is that of the
    norm says nothing of its own, and ``ratio_over_norm`` is what is left. Null control: ``null`` is the mean ratio when
    images are dealt to the two groups at random, ``p`` how often it is as far off. Further options are those of
    ``CurvatureConfig``.

    Args:
        images: memorised and clean ones, at most so many of each.
        resamples: of the bootstrap over images.
        permutations: of the groups.
    """

    settings = ("layer", "order", "definition", "band")

    images: int = 1000
    resamples: int = 1000
    permutations: int = 200

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "images", "resamples", "permutations")
        if self.moments == "inputs":
            raise ValueError("moments is inputs, which orders no eigen-pairs by gradients; use kfac or ekfac")

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each layer, order, definition and band."""
        start = time.perf_counter()
        model = uncompiled(model)
        memorised, clean = data.groups(self.images, generator)
        layers = data.curvature(model, self).layers
        filters = {name: band_filters(layer, generator) for name, layer in layers.items()}
        found = [strengths(model, data.data, part, layers, filters, self.tokens) for part in (memorised, clean)]
        keys = list(found[0])
        first, second = (torch.stack([part[key] for key in keys], 1) for part in found)
        ratio = (first.mean(0) / second.mean(0))[None]
        drawn = resampled_ratios(first, second, self.resamples, generator)
        null = permuted_ratios(first, second, self.permutations, generator)
        rows = [
            dict(zip(self.settings, key, strict=True))
            | {"memorised": float(first[:, i].mean()), "clean": float(second[:, i].mean())}
            | _numbers(ratio[:, i], drawn[:, i], null[:, i], _norm(keys, ratio, key), _norm(keys, drawn, key))
            for i, key in enumerate(keys)
        ]
        for key in dict.fromkeys(key[1:] for key in keys):  # geometric means over layers
            own = [i for i, other in enumerate(keys) if other[1:] == key]
            norm = [keys.index((*keys[i][:3], NORM)) for i in own]
            parts = [part[:, which].log().mean(1).exp() for which in (own, norm) for part in (ratio, drawn, null)]
            row = dict(zip(self.settings, ("all", *key), strict=True))
            rows.append(row | _numbers(*parts[:3], *parts[3:5]))
        report = {"seconds": time.perf_counter() - start, "memorised": len(memorised), "clean": len(clean)}
        return AnalysisResult(rows, report)


def _norm(keys: list[tuple], part_RQ: Tensor, key: tuple) -> Tensor:
    return part_RQ[:, keys.index((*key[:3], NORM))]


def _numbers(ratio: Tensor, drawn_R: Tensor, null_R: Tensor, norm: Tensor, norm_drawn_R: Tensor) -> dict[str, float]:
    """Return a ratio with its interval, what is left of it over the norm's, and what the null gives."""
    found = {"ratio": ratio, "ratio_over_norm": ratio / norm}
    intervals = {"ratio": drawn_R, "ratio_over_norm": drawn_R / norm_drawn_R}
    numbers = {}
    for name, value in found.items():
        low, high = ends(intervals[name])
        numbers |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return numbers | {"null": float(null_R.mean()), "p": float(two_sided(ratio, null_R[:, None]))}


def band_masks(order_P: Tensor) -> dict[str, Tensor]:
    """Return, by band, the mask P of the components in it.

    Args:
        order_P: components from the strongest to the weakest.
    """
    number, masks = len(order_P), {}
    for band, (first, last) in BANDS.items():
        mask_P = torch.zeros(number, dtype=torch.bool, device=order_P.device)
        mask_P[order_P[round(first * number) : round(last * number)]] = True
        masks[band] = mask_P
    return masks


@dataclass(frozen=True, eq=False)
class Filter:
    """One band of a layer.

    Args:
        axes_IR: directions of the layer's inputs, in columns.
        times_R: how many of the band's components have each.
        output_RO: what the band makes of the coordinates along them.
    """

    axes_IR: Tensor
    times_R: Tensor
    output_RO: Tensor


def band_filters(layer: LayerCurvature, generator: torch.Generator) -> dict[tuple[str, str], Filter]:
    """Return the bands of a layer, by order and band, float32."""
    basis, mass_OI = layer.basis, layer.mass.dense()
    to_output = basis.u_g_OO.float().T
    filters = {}
    for order, masses_OI in {"curvature": mass_OI, "random": dealt_out(layer.mass, generator).dense()}.items():
        by_mass = masses_OI.flatten().sort(descending=True, stable=True).indices
        for band, mask in band_masks(by_mass).items():
            mask_OI = mask.view(mass_OI.shape)
            kept_OI = layer.coordinates_OI.float() * mask_OI
            filters[order, band] = Filter(basis.u_a_II.float(), mask_OI.sum(0).float(), kept_OI.T @ to_output)
    u_OR, size_R, vt_RI = torch.linalg.svd(layer.map.matrix().float(), full_matrices=False)
    for band, mask_R in band_masks(torch.arange(len(size_R), device=size_R.device)).items():
        kept_R = mask_R.float()
        filters["svd", band] = Filter(vt_RI.T, kept_R, (kept_R * size_R)[:, None] * u_OR.T)
    return filters


def strengths(
    model: nn.Module,
    data: MemorisationData,
    examples: Examples,
    layers: Mapping[str, LayerCurvature],
    filters: Mapping[str, Mapping[tuple[str, str], Filter]],
    tokens: Tokens,
) -> dict[tuple[str, str, str, str], Tensor]:
    """Return the strengths N, float64, by layer, order, definition and band; the norm stands as a band of its own."""
    found: dict[tuple[str, str, str, str], list[Tensor]] = {}
    maps = {name: layer.map for name, layer in layers.items()}

    def on_input(name: str, a_BTI: Tensor) -> None:
        squares = layer_strengths(a_BTI, maps[name].matrix(), filters[name])
        for key, square_B in squares.items():
            found.setdefault((name, *key), []).append(square_B.sqrt().double().cpu())

    sweep_inputs(model, data.loader(examples), maps, tokens, on_input)
    return {key: torch.cat(parts) for key, parts in found.items()}


def layer_strengths(
    a_BTI: Tensor, w_OI: Tensor, filters: Mapping[tuple[str, str], Filter]
) -> dict[tuple[str, str, str], Tensor]:
    """Return the mean squares B of one layer's responses by order, definition and band."""
    found, axes, projected = {}, None, a_BTI
    for (order, band), part in filters.items():
        if part.axes_IR is not axes:
            axes, projected = part.axes_IR, a_BTI @ part.axes_IR.to(a_BTI)
        found[order, "input", band] = (projected.square() @ part.times_R.to(a_BTI)).mean(1)
        found[order, "output", band] = (projected @ part.output_RO.to(a_BTI)).square().sum(2).mean(1)
    norms = {"input": a_BTI, "output": a_BTI @ w_OI.T.to(a_BTI)}
    for order in dict.fromkeys(order for order, _ in filters):
        for kind, whole in norms.items():
            found[order, kind, NORM] = whole.square().sum(2).mean(1)
    return found
