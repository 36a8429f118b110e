"""Which images do single components answer to, and where does the model look, before and after an edit?

Legend: N images, B images of a batch, T tokens, I inputs, O outputs, R components of a layer, C chosen ones, n the
strongest images, S positions.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.analysis.answers import answers_of
from vitmem.analysis.attended import attention_of
from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.analysis.others import REFERENCES, chosen_edits, memory
from vitmem.analysis.resample import ends, null_numbers, permuted_ratios, resampled_mean, two_sided
from vitmem.analysis.responses import Means, responses, share_of
from vitmem.curvature.cache import CurvatureConfig, LayerCurvature
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData

ALL = "all"
BASE = "base"
KINDS = ("top", "bottom", "differs", "random")
PIXELS = 32  # of the longer side of a small image
SHOWN = 6  # images of each outcome whose attention is kept for the figure
_ZERO = 1e-6  # of the largest curvature; what lies below is rounding


@dataclass(frozen=True)
class Directions(CurvatureConfig, Analysis):
    """The training images that single components answer to most, and attention before and after an edit.

    Rows of ``measure: component``: a component is an eigenvector u of G and its response to an image the mean over
    tokens of (u^T W a)^2 (``of: outputs``), or an eigenvector v of A and the mean of (v^T a)^2 (``inputs``); its
    curvature is the sum of the masses of its pairs. Kinds: ``top`` and ``bottom`` curvature (above rounding),
    ``differs`` (the largest difference between memorised and clean images, in standard errors) and ``random``
    (orthonormal directions). ``image_1``, ... are the images of strongest response, by training index, and ``share`` is
    how many of them are memorised, beside its null: the share in the sample, with hypergeometric interval and
    two-sided p-value. Components are chosen on one half of the images and their images found in the other. Rows of
    layer ``all`` have the mean share over a kind, whose null deals the labels ``memorised`` out at random.
    Rows of ``measure: attention``: where the last block attends, mean over heads and over the positions that the
    classifier reads, before and after an edit, on memorised images that it flips and, as a control, on those that it
    does not: entropy in nats, and ``overlap``, the sum of the smaller of the two weights, whose null is the overlap
    with another image's; ``p_*`` compare the flipped with the others by permutation. Further options are those of
    ``CurvatureConfig``.

    Args:
        of: outputs or inputs of a layer.
        components: of each kind, at most so many for each layer.
        strongest: images of strongest response.
        images: memorised and clean ones, at most so many of each.
        edit: ids or names of edits, as glob patterns separated by commas; empty: of those that halve memorised accuracy
            the one with the best ground truth.
        permutations: of labels and outcomes, and resamples of the bootstrap.
    """

    settings = ("measure", "layer", "kind", "component", "edit")

    of: Literal["outputs", "inputs"] = "outputs"
    components: int = 4
    strongest: int = 16
    images: int = 1000
    edit: str = ""
    permutations: int = 1000

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "components", "strongest", "images", "permutations")
        if self.moments == "inputs" and self.of == "outputs":
            raise ValueError("moments is inputs, which orders no outputs; use of: inputs, or moments: kfac or ekfac")

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each layer and component, and for each edit and outcome."""
        start = time.perf_counter()
        model, skipped = uncompiled(model), {}
        groups = data.groups(self.images, generator)
        rows, shown = self.answered(model, data, groups, generator)
        maps: dict[str, Tensor] = {}
        for edit_id, before, after in self._edited(model, data, skipped):
            try:
                found = self.attended(before, after, data, groups[0], generator)
            except ValueError as error:
                skipped[f"attention after {edit_id}"] = str(error)
                continue
            rows += [{"measure": "attention", "edit": edit_id} | row for row in found[0]]
            maps = maps or found[1]
        shown |= set(maps["attention_index"].tolist()) if maps else set()
        rows = [dict.fromkeys(self.settings, "") | row for row in rows]
        report = {"seconds": time.perf_counter() - start, "memorised": len(groups[0]), "clean": len(groups[1])}
        report |= {"skipped": [f"{what}: {why}" for what, why in skipped.items()]}
        return AnalysisResult(rows, report, arrays=pictures(data.data, shown) | maps)

    def answered(
        self, model: nn.Module, data: AnalysisData, groups: tuple[Examples, Examples], generator: torch.Generator
    ) -> tuple[list[dict], set[int]]:
        """Return the rows of components, and the indices of their images.

        Raises:
            ValueError: there are fewer than 4 memorised or clean images.
        """
        if (few := min(map(len, groups))) < 4:
            raise ValueError(f"there are {few} images of one kind; components are chosen on half of them: 4 are needed")
        orders = [torch.randperm(len(part), generator=generator) for part in groups]
        choosing, showing = (
            [part.subset(order[first::2].sort().values) for part, order in zip(groups, orders, strict=True)]
            for first in (0, 1)
        )
        layers = data.curvature(model, self).layers
        maps = {name: layer.map for name, layer in layers.items()}
        axes = {name: self.axes(layer) for name, layer in layers.items()}
        means = [Means(), Means()]
        for part, mean in zip(choosing, means, strict=True):
            responses(model, data.data, part, maps, axes, self.tokens, mean.add)
        chosen = {name: self.chosen(layer, *(m.of(name) for m in means)) for name, layer in layers.items()}
        picked = {
            name: torch.cat([axes[name][:, [i for _, i, _ in chosen[name]]], self.random_axes(layer, generator)], 1)
            for name, layer in layers.items()
        }
        found: dict[str, list[Tensor]] = {name: [] for name in layers}
        shown = Examples.concatenate(showing)
        responses(model, data.data, shown, maps, picked, self.tokens, lambda name, r_BC: found[name].append(r_BC))
        is_memorised_N = torch.arange(len(shown)) < len(showing[0])
        return self._rows({n: torch.cat(parts) for n, parts in found.items()}, chosen, shown, is_memorised_N, generator)

    def _rows(
        self,
        found: Mapping[str, Tensor],
        chosen: Mapping[str, list[tuple[str, int, float]]],
        shown: Examples,
        is_memorised_N: Tensor,
        generator: torch.Generator,
    ) -> tuple[list[dict], set[int]]:
        rows, strongest = [], {}
        for name, response_NC in found.items():
            more = response_NC.shape[1] - len(chosen[name])
            named = [*chosen[name], *(("random", number, None) for number in range(more))]
            for (kind, number, curvature), response_N in zip(named, response_NC.T, strict=True):
                top = response_N.sort(descending=True, stable=True).indices[: self.strongest]
                row = {"measure": "component", "layer": name, "kind": kind, "component": str(number)}
                row |= ({} if curvature is None else {"curvature": curvature}) | share_of(top, is_memorised_N)
                for what, mask in {"memorised": is_memorised_N, "clean": ~is_memorised_N}.items():
                    row[f"response_{what}"] = float(response_N[mask].mean())
                rows.append(row | {f"image_{i}": int(index) for i, index in enumerate(shown.index[top], 1)})
                strongest.setdefault(kind, []).append(top)
        for kind, tops in strongest.items():
            share = self._share_of_all(torch.cat(tops), is_memorised_N, generator)
            rows.append({"measure": "component", "layer": ALL, "kind": kind} | share)
        return rows, {int(i) for tops in strongest.values() for i in shown.index[torch.cat(tops)]}

    def random_axes(self, layer: LayerCurvature, generator: torch.Generator) -> Tensor:
        """Return as ``axes`` what random directions answer to, orthonormal where the components are, I C."""
        basis = layer.basis.u_a_II if self.of == "inputs" else layer.basis.u_g_OO
        drawn = torch.randn(len(basis), min(self.components, len(basis)), generator=generator)
        random = torch.linalg.qr(drawn).Q.to(basis.device)
        return random if self.of == "inputs" else layer.map.matrix().float().T @ random

    def axes(self, layer: LayerCurvature) -> Tensor:
        """Return what takes a layer's inputs to the responses of its components, I R."""
        if self.of == "inputs":
            return layer.basis.u_a_II.float()
        return layer.map.matrix().float().T @ layer.basis.u_g_OO.float()

    def chosen(self, layer: LayerCurvature, memorised: tuple, clean: tuple) -> list[tuple[str, int, float]]:
        """Return the chosen components of a layer: kind, number and curvature."""
        curvature_R = layer.mass.dense().double().sum(1 if self.of == "outputs" else 0).cpu()
        order_R = curvature_R.sort(descending=True, stable=True).indices
        real = order_R[curvature_R[order_R] > _ZERO * float(curvature_R.max())]
        (first_R, first_error_R), (second_R, second_error_R) = memorised, clean
        apart_R = (first_R - second_R).abs() / (first_error_R.square() + second_error_R.square()).sqrt()
        apart_R = apart_R.nan_to_num(nan=0.0, posinf=0.0)
        apart_R[curvature_R <= _ZERO * float(curvature_R.max())] = -1
        most = {
            "top": real[: self.components],
            "bottom": real[-self.components :].flip(0),
            "differs": apart_R.sort(descending=True, stable=True).indices[: self.components],
        }
        return [(kind, int(i), float(curvature_R[i])) for kind, numbers in most.items() for i in numbers]

    def _share_of_all(self, top: Tensor, is_memorised_N: Tensor, generator: torch.Generator) -> dict[str, float]:
        count = len(is_memorised_N)
        null_R = torch.stack([
            is_memorised_N[torch.randperm(count, generator=generator)][top].double().mean()
            for _ in range(self.permutations)
        ])  # fmt: skip
        share = float(is_memorised_N[top].double().mean())
        return {"share": share} | null_numbers(share, null_R)

    def _edited(self, model: nn.Module, data: AnalysisData, skipped: dict[str, str]):
        """Yield ids of edits, each with the models before and after; of an edit, itself after its base."""
        if data.subject in REFERENCES[1:]:
            skipped["attention"] = "edits are of the base model"
        elif data.subject != BASE:
            before = data.reference(BASE)
            if before is None:
                skipped["attention"] = "the base model is not beside it"
            else:
                yield data.subject, before, model
        else:
            ids = [*chosen_edits(data, self.edit)] if self.edit else best_edits(data)
            if self.edit and not ids:
                raise ValueError(f"edit is {self.edit!r}, which no usable edit of this run fits")
            for edit_id in ids:
                if (after := data.reference(edit_id)) is None:
                    skipped[f"attention after {edit_id}"] = "its weights are not at hand"
                    continue
                yield edit_id, model, after
                if not self.edit:
                    return
            if not self.edit:
                skipped["attention"] = "no usable edit whose weights are at hand halves the memory"

    def attended(
        self, before: nn.Module, after: nn.Module, data: AnalysisData, memorised: Examples, generator: torch.Generator
    ) -> tuple[list[dict], dict[str, Tensor]]:
        """Return the rows of attention before and after an edit, and the maps that the figure shows.

        Raises:
            ValueError: attention is not found, or fewer than 2 labels are flipped, or stay.
        """
        flipped_N = answers_of(after, data.data, memorised).prediction != memorised.given_label
        outcomes = {"flipped": flipped_N, "unflipped": ~flipped_N}
        if few := [name for name, mask in outcomes.items() if int(mask.sum()) < 2]:
            raise ValueError(f"fewer than 2 memorised labels are {few[0]}")
        first_NS, second_NS = (attention_of(which, data.data, memorised) for which in (before, after))
        overlap_N = torch.minimum(first_NS, second_NS).sum(1)
        entropies = {"before": entropy(first_NS), "after": entropy(second_NS)}
        compared = {"overlap": overlap_N, "entropy": entropies["after"] / entropies["before"].clamp(min=1e-12)}
        p = {}
        for name, value_N in compared.items():
            parts = [value_N[mask][:, None] for mask in outcomes.values()]
            null = permuted_ratios(*parts, self.permutations, generator)
            p[f"p_{name}"] = float(two_sided(parts[0].mean(0) / parts[1].mean(0), null))
        layer, rows = "last block", []
        for kind, mask in outcomes.items():
            values = {"overlap": overlap_N, **{f"entropy_{when}": value_N for when, value_N in entropies.items()}}
            row = {"layer": layer, "kind": kind, "count": int(mask.sum())} | p
            for name, value_N in values.items():
                low, high = ends(resampled_mean(value_N[mask][:, None], self.permutations, generator))
                row |= {name: float(value_N[mask].mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
            own = second_NS[mask]
            other = torch.minimum(first_NS[mask], own.roll(1, 0)).sum(1)
            rows.append(row | {"overlap_null": float(other.mean())})
        grid = grid_of(first_NS.shape[1], data.data.data.image_shape[1:])
        if grid is None:
            return rows, {}
        at = torch.cat([mask.nonzero()[:SHOWN, 0] for mask in outcomes.values()])
        maps = {f"attention_{when}": part[at][:, -grid[0] * grid[1] :].unflatten(1, grid).float()
                for when, part in (("before", first_NS), ("after", second_NS))}  # fmt: skip
        return rows, maps | {"attention_index": memorised.index[at], "attention_flipped": flipped_N[at]}


def best_edits(data: AnalysisData) -> list[str]:
    """Return the edits that halve memorised accuracy, those with the best ground truth first."""
    base = memory(data, BASE)
    if base is None:
        return []
    found = {edit_id: memory(data, edit_id) for edit_id in data.edits()}
    halved = {i: m[1].value for i, m in found.items() if m is not None and m[0].value <= base[0].value / 2}
    return sorted(halved, key=halved.__getitem__, reverse=True)


def entropy(p_NS: Tensor) -> Tensor:
    """Return the entropies N of distributions, in nats."""
    return -torch.special.xlogy(p_NS, p_NS).sum(1)


def grid_of(positions: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of the patches among positions, of which the first may be tokens; None if none fit.

    Args:
        positions: S.
        size: height and width of the image.
    """
    height, width = size
    for patch in range(1, min(size) + 1):
        rows, columns = height // patch, width // patch
        if height % patch == width % patch == 0 and 0 <= positions - rows * columns <= min(5, rows * columns):
            return rows, columns
    return None


def pictures(data: MemorisationData, indices: set[int]) -> dict[str, Tensor]:
    """Return small images of training examples, with their labels.

    Args:
        data: serves them.
        indices: in the training set.

    Returns:
        ``index`` M, ``image`` M H W C uint8, ``given`` and ``true`` M, ``memorised`` M, whether it is to be forgotten.
    """
    examples = data.train_examples.subset(torch.tensor(sorted(indices), dtype=torch.int64))
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in data.mean_std)
    parts = []
    for batch in data.loader(examples):
        image = (batch.image.cpu() * std + mean).clamp(0, 1)
        longer = max(image.shape[-2:])
        if longer > PIXELS:
            size = [max(1, round(side * PIXELS / longer)) for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="area")
        parts.append((image * 255).round().to(torch.uint8).permute(0, 2, 3, 1))
    return {
        "index": examples.index,
        "image": torch.cat(parts),
        "given": examples.given_label,
        "true": examples.true_label,
        "memorised": examples.to_forget,
    }
