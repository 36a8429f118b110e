"""Whose curvature is it? The curvature that single examples have along each component, and how it adds up.

With the given labels an example's gradient in a layer is G_n = sum_t g_t a_t^T; its curvature along the eigen-pair
(i, j) is c_n = (u_i^T G_n v_j)^2. Of a memorised label, Merullo et al. 2025 (section 7) say that it is large but along
directions of its own, so that it cancels in the average and lies outside of the pairs that are kept.

Legend: B images, T tokens, I inputs, O outputs, N examples.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.analysis.answers import answers_of
from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.analysis.others import chosen_edits
from vitmem.analysis.resample import auroc, auroc_interval, ends, permuted_ratios, resampled_mean, two_sided
from vitmem.curvature.cache import LayerCurvature
from vitmem.curvature.collect import sweep_batches, uncompiled
from vitmem.curvature.moments import LabelRule, Tokens
from vitmem.datamodules.batch import Examples
from vitmem.editing.kfac import EKFAC

ALL = "all"
_FEWEST = 10  # labels that an edit must remove, and leave
_TOGETHER = 16  # examples whose gradients are held at a time


@dataclass(frozen=True)
class Ownership(EKFAC, Analysis):
    """Single examples' curvature outside the kept pairs, participation, coherence; does it tell what an edit removes?

    Rows of ``measure: layer``: mean ``outside`` (share of an example's curvature outside the kept pairs), ``coherence``
    (squared norm of the mean gradient over the mean squared norm: 1 where all gradients are one direction, 1 / n where
    they cancel), ``participation`` (how evenly the examples share a pair's curvature: (sum c)^2 / (n sum c^2), mean
    over pairs weighted by their curvature) of memorised and of clean examples, as many of each. Null controls:
    ``outside_random``, of as many pairs dealt out at random; ``p``, how often dealing the examples to two groups at
    random sets the mean ``outside`` as far apart.
    Rows of ``measure: edit``, of the base model: for each edit that removes and leaves at least 10 memorised labels,
    the area under the ROC curve with which a score, taken on the unedited model, tells those that it removes:
    ``outside``, ``outside_random``, ``curvature`` (the trace), ``loss``, ``margin``, ``summed_loss``; null:
    ``auroc_permuted``, of permuted scores. Further options are those of ``ekfac``.

    Args:
        images: memorised and clean ones, at most so many of each.
        resamples: of the bootstrap and of the permutations.
        edits: names or ids of edits, as glob patterns separated by commas.
    """

    settings = ("measure", "layer", "edit", "score")

    rho: float = 0.9
    images: int = 1000
    resamples: int = 500
    edits: str = "*"

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "images", "resamples")

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each layer, and for each edit and score."""
        start = time.perf_counter()
        model = uncompiled(model)
        memorised, clean = data.groups(self.images, generator)
        most = min(len(memorised), len(clean))
        parts = [part.subset(torch.randperm(len(part), generator=generator)[:most].sort().values)
                 for part in (memorised, clean)]  # fmt: skip
        curvature = data.curvature(model, self)
        kept = self.hard(curvature.layers)
        random = {n: _dealt(mask, generator) for n, mask in kept.items()}
        seen = [owned(model, data, part, curvature.layers, kept, random, self.tokens) for part in parts]
        rows = [self._layer_row(name, *seen, generator) for name in (*curvature.layers, ALL)]
        rows += self._edit_rows(model, data, parts[0], seen[0], generator)
        scores = {name: torch.full((len(data.data.train_examples),), math.nan) for name in ("outside", "curvature")}
        for part, found in zip(parts, seen, strict=True):
            scores["outside"][part.index] = found.outside(ALL).float()
            scores["curvature"][part.index] = found.trace(ALL).float()
        pairs = sum(int(mask.sum()) for mask in kept.values()) / sum(mask.numel() for mask in kept.values())
        report = {"seconds": time.perf_counter() - start, "examples": most, "pairs_kept": pairs}
        return AnalysisResult(rows, report, scores)

    def _layer_row(self, name: str, memorised: "Owned", clean: "Owned", generator: torch.Generator) -> dict:
        numbers: dict[str, float] = {}
        for what, part in {"memorised": memorised, "clean": clean}.items():
            outside_N = part.outside(name)[:, None]
            low, high = ends(resampled_mean(outside_N, self.resamples, generator))
            numbers |= {
                f"outside_{what}": float(outside_N.mean()),
                f"outside_{what}_low": float(low),
                f"outside_{what}_high": float(high),
                f"outside_random_{what}": float(part.outside(name, random=True).mean()),
                f"coherence_{what}": part.coherence(name),
                f"participation_{what}": part.participation(name),
            }
        first, second = (part.outside(name)[:, None] for part in (memorised, clean))
        null = permuted_ratios(first, second, self.resamples, generator)
        numbers["p"] = float(two_sided(first.mean(0) / second.mean(0), null))
        return dict(zip(self.settings, ("layer", name, "", ""), strict=True)) | numbers

    def _edit_rows(
        self, model: nn.Module, data: AnalysisData, memorised: Examples, seen: "Owned", generator: torch.Generator
    ) -> list[dict]:
        """Return how well each score tells the memorised labels that an edit removes from those that stay."""
        said = answers_of(model, data.data, memorised)
        scores = {
            "outside": seen.outside(ALL),
            "outside_random": seen.outside(ALL, random=True),
            "curvature": seen.trace(ALL),
            "loss": said.loss(memorised.given_label),
            "margin": -said.margin(memorised.given_label),
        }
        if (losses_EN := data.losses()) is not None:
            scores["summed_loss"] = losses_EN[:, memorised.index].nansum(0)
        rows = []
        for edit_id in chosen_edits(data, self.edits) if data.subject == "base" else ():
            table = data.training_table(edit_id)
            if table is None:
                continue
            removed_N = torch.from_numpy(table.prediction)[memorised.index] != memorised.given_label
            if not _FEWEST <= int(removed_N.sum()) <= len(removed_N) - _FEWEST:
                continue
            for score, value_N in scores.items():
                area, low, high = auroc_interval(value_N, removed_N, self.resamples, generator)
                rows.append(
                    dict(zip(self.settings, ("edit", "", edit_id, score), strict=True))
                    | {"auroc": area, "auroc_low": low, "auroc_high": high, "removed": int(removed_N.sum())}
                    | {"auroc_permuted": auroc(value_N[torch.randperm(len(value_N), generator=generator)], removed_N)}
                )
        return rows


class LayerOwned:
    """What single examples' curvature adds up to in one layer.

    Args:
        kept_OI: which pairs are kept, bool.
        random_OI: as many pairs dealt out at random.
        number: N, how many examples there will be.

    Attributes:
        sum_OI: of c over the examples.
        squares_OI: of c squared.
        gradient_OI: sum of the gradients, in the eigenbasis.
        shares_3N: of each example, trace of its curvature, its part in the kept pairs, and in the random ones.
    """

    def __init__(self, kept_OI: Tensor, random_OI: Tensor, number: int):
        zeros = {"dtype": torch.float64, "device": kept_OI.device}
        self.sum_OI, self.squares_OI, self.gradient_OI = (torch.zeros(kept_OI.shape, **zeros) for _ in range(3))
        self.masks_3P = torch.stack([torch.ones_like(kept_OI), kept_OI, random_OI]).flatten(1).double()
        self.shares_3N, self.seen = torch.zeros(3, number, **zeros), 0

    def add(self, gradient_BOI: Tensor) -> None:
        """Add the gradients of some examples, in the eigenbasis."""
        c_BOI = gradient_BOI.double().square()
        self.sum_OI += c_BOI.sum(0)
        self.squares_OI += c_BOI.square().sum(0)
        self.gradient_OI += gradient_BOI.sum(0)
        after = self.seen + len(c_BOI)
        self.shares_3N[:, self.seen : after] = self.masks_3P @ c_BOI.flatten(1).T
        self.seen = after


class Owned:
    """What single examples' curvature adds up to, layer by layer, and in all of them (``ALL``).

    Args:
        layers: by name.
    """

    def __init__(self, layers: Mapping[str, LayerOwned]):
        self.layers = layers

    def _summed(self, name: str, part: int) -> Tensor:
        chosen = self.layers.values() if name == ALL else [self.layers[name]]
        return torch.stack([layer.shares_3N[part] for layer in chosen]).sum(0).cpu()

    def trace(self, name: str) -> Tensor:
        """Return the trace N of each example's curvature."""
        return self._summed(name, 0)

    def outside(self, name: str, random: bool = False) -> Tensor:
        """Return the share N of each example's curvature outside the kept pairs, or outside random ones."""
        return 1 - self._summed(name, 2 if random else 1) / self.trace(name).clamp(min=1e-300)

    def coherence(self, name: str) -> float:
        """Return the squared norm of the mean gradient over the mean squared norm."""
        chosen = self.layers.values() if name == ALL else [self.layers[name]]
        number = len(self.trace(name))
        mean = sum(float((layer.gradient_OI.double() / number).square().sum()) for layer in chosen)
        return mean / max(float(self.trace(name).mean()), 1e-300)

    def participation(self, name: str) -> float:
        """Return (sum c)^2 / (N sum c^2), the mean over pairs weighted by their curvature."""
        chosen = self.layers.values() if name == ALL else [self.layers[name]]
        number, total, weighted = len(self.trace(name)), 0.0, 0.0
        for layer in chosen:
            ratio_OI = layer.sum_OI.square() / (number * layer.squares_OI).clamp(min=1e-300)
            total += float(layer.sum_OI.sum())
            weighted += float((ratio_OI * layer.sum_OI).sum())
        return weighted / max(total, 1e-300)


def owned(
    model: nn.Module,
    data: AnalysisData,
    examples: Examples,
    layers: Mapping[str, LayerCurvature],
    kept: Mapping[str, Tensor],
    random: Mapping[str, Tensor],
    tokens: Tokens,
) -> Owned:
    """Return what the curvature of single examples at their given labels adds up to.

    Each example's gradient is taken as it is: no share of it depends on its size.

    Args:
        model: the classifier; it is left as it was.
        data: serves the images.
        examples: whose curvature.
        layers: eigenbases and masses.
        kept: by layer, the pairs O I that are kept, bool.
        random: by layer, as many pairs dealt out at random.
        tokens: as of the curvature; for ``mean`` all of them.
    """
    maps = {name: layer.map for name, layer in layers.items()}
    weight = next(model.parameters())
    u_a = {name: layer.basis.u_a_II.to(weight) for name, layer in layers.items()}
    u_g = {name: layer.basis.u_g_OO.to(weight) for name, layer in layers.items()}
    where = weight.device
    found = {n: LayerOwned(mask.to(where), random[n].to(where), len(examples)) for n, mask in kept.items()}
    seen: dict[str, Tensor] = {}

    def on_input(name: str, a_BTI: Tensor) -> None:
        seen[name] = a_BTI @ u_a[name]

    def on_gradient(name: str, g_BTO: Tensor) -> None:
        found[name].add(torch.bmm((g_BTO @ u_g[name]).mT, seen[name]))

    tokens = "all" if tokens == "mean" else tokens
    batches = data.data.loader(examples, _TOGETHER)
    sweep_batches(model, batches, maps, tokens, LabelRule("given"), on_input, on_gradient)
    return Owned(found)


def _dealt(mask_OI: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many pairs as a mask has, dealt out at random."""
    order = torch.randperm(mask_OI.numel(), generator=generator).to(mask_OI.device)
    return mask_OI.flatten()[order].view(mask_OI.shape)
