"""How alike are two models? CKA of their features, and principal angles between their curvature's leading subspaces.

Legend: N images, D features, O outputs or inputs of a layer, k directions, R draws.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.analysis.others import SEEDS, others, split
from vitmem.analysis.resample import null_numbers
from vitmem.attacks.features import features_of
from vitmem.curvature.cache import Curvature, CurvatureConfig
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples

ALL = "all"
FACTORS = ("inputs", "gradients")  # A and G
_GROUPS = 20  # of images, of which the jackknife leaves out one at a time
_Z = 1.959963984540054


@dataclass(frozen=True)
class Similarity(CurvatureConfig, Analysis):
    """CKA of features and principal angles between curvature bases, of a model against others.

    Rows of ``measure: cka``: linear CKA (Kornblith et al. 2019) of the pooled features at each block and at the head,
    of memorised, clean and validation images; ``estimator: unbiased`` takes the unbiased HSIC (Song et al. 2012), whose
    value for unrelated features is 0 however few the images, ``biased`` that of the paper. The interval is a
    jackknife's over images. Null control: ``null``, the mean when the images are permuted between the two models.
    Rows of ``measure: angles``: for each layer the mean squared cosine of the principal angles between the two models'
    leading eigenvectors, of A (``inputs``) and of G (``gradients``), as many as ``share`` of the dimension. Null
    control: random subspaces of equal dimension, whose expectation is ``expected``, k / d. ``ceiling`` is what the
    model reaches against itself, its curvature collected again with another seed. Models of other seeds have other
    axes, so that their angles are a null of their own. Further options are those of ``CurvatureConfig``.

    Args:
        against: comma-separated: base, retrain, clean, early_stop, initial, seeds (base models of other seeds), epochs
            or epoch<number> of the weights that training kept, and ids or names of edits, as glob patterns.
        estimator: of CKA.
        share: of a basis that leads, in (0, 1).
        images: of each kind, at most so many.
        permutations: of the images, and random subspaces.
    """

    settings = ("measure", "against", "place", "kind")

    against: str = "retrain,clean,initial,seeds"
    estimator: Literal["unbiased", "biased"] = "unbiased"
    share: float = 0.1
    images: int = 500
    permutations: int = 100

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "images", "permutations")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}; it is the share of a basis that leads, in (0, 1)")

    @property
    def looks_across(self) -> bool:
        """It is asked to compare with other seeds."""
        return SEEDS in split(self.against)

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each other model, place and kind of image or factor.

        Raises:
            ValueError: there is no other model.
        """
        start = time.perf_counter()
        model, skipped = uncompiled(model), {}
        parts = self._images(data, skipped, generator)
        features = {kind: _features(model, data, part) for kind, part in parts.items()}
        own = data.curvature(model, self)
        again = data.curvature(model, dataclasses.replace(self, seed=self.seed + 1), keep=False)
        nulls: dict[tuple[int, int], Tensor] = {}
        rows: list[dict] = []
        for name, other in others(self.against, model, data):
            if isinstance(other, str):
                skipped[name] = other
                continue
            for kind, part in parts.items():
                theirs = _features(other, data, part)
                rows += [
                    {"measure": "cka", "against": name, "place": place, "kind": kind}
                    | self.cka(x_ND, theirs[place], generator)
                    for place, x_ND in features[kind].items()
                ]
            try:
                found = data.curvature(other, self, keep=False)
            except ValueError as error:  # no curvature at all, say
                skipped[f"angles of {name}"] = str(error)
                continue
            angles = self.angles(own, found, again, nulls, generator)
            rows += [{"measure": "angles", "against": name} | row for row in angles]
        told = [f"{name}: {why}" for name, why in skipped.items()]
        if not rows:
            raise ValueError(f"against chooses no other model that is there ({'; '.join(told) or self.against})")
        report = {"seconds": time.perf_counter() - start, "images": {kind: len(part) for kind, part in parts.items()}}
        return AnalysisResult(rows, report | {"skipped": told})

    def _images(self, data: AnalysisData, skipped: dict[str, str], generator: torch.Generator) -> dict[str, Examples]:
        parts = {"validation": data.drawn(data.data.validation_examples, self.images)}
        try:
            memorised, clean = data.groups(self.images, generator)
            parts = {"memorised": memorised, "clean": clean} | parts
        except ValueError as error:
            skipped["memorised and clean images"] = str(error)
        few = {kind: part for kind, part in parts.items() if len(part) < 4}
        skipped |= {f"{kind} images": f"CKA needs at least 4; there are {len(part)}" for kind, part in few.items()}
        return {kind: part for kind, part in parts.items() if kind not in few}

    def cka(self, x_ND: Tensor, y_ND: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Return the CKA of two models' features of the same images, with its interval, null and p-value."""
        unbiased = self.estimator == "unbiased"
        k_NN, l_NN = (part_ND @ part_ND.T for part_ND in (x_ND, y_ND))
        first, second = centred(k_NN, unbiased), centred(l_NN, unbiased)
        value = alignment(first, second)
        number = len(k_NN)
        group_N = torch.arange(number) % min(_GROUPS, max(2, number // 4))
        left_G = []
        for group in range(int(group_N.max()) + 1):
            kept = (group_N != group).nonzero()[:, 0]
            left_G.append(alignment(*(centred(gram[kept][:, kept], unbiased) for gram in (k_NN, l_NN))))
        left = torch.tensor(left_G, dtype=torch.float64)
        error = float(((len(left) - 1) * left.var(correction=0)).sqrt())
        orders = [torch.randperm(number, generator=generator) for _ in range(self.permutations)]
        null_R = torch.tensor([alignment(first, second[order][:, order]) for order in orders], dtype=torch.float64)
        interval = {"value_low": value - _Z * error, "value_high": value + _Z * error}
        return {"value": value} | interval | null_numbers(value, null_R)

    def angles(
        self,
        own: Curvature,
        other: Curvature,
        again: Curvature,
        nulls: dict[tuple[int, int], Tensor],
        generator: torch.Generator,
    ) -> list[dict]:
        """Return a row for each layer and factor, and for the mean over the layers."""
        rows = []
        for factor in FACTORS:
            found, drawn = [], []
            for name in own.layers:
                bases = [_axes(which.layers[name].basis, factor) for which in (own, other, again)]
                size = len(bases[0])
                kept = max(1, round(self.share * size))
                if (size, kept) not in nulls:
                    nulls[size, kept] = random_overlaps(size, kept, self.permutations, generator)
                first, second, third = (basis[:, :kept] for basis in bases)
                numbers = {"expected": kept / size, "ceiling": overlap(first, third), "directions": kept}
                found.append((name, overlap(first, second), numbers))
                drawn.append(nulls[size, kept])
            rows += [
                {"place": name, "kind": factor, "value": value} | null_numbers(value, null_R) | numbers
                for (name, value, numbers), null_R in zip(found, drawn, strict=True)
            ]
            mean = sum(value for _, value, _ in found) / len(found)
            numbers = {key: sum(n[key] for _, _, n in found) / len(found) for key in ("expected", "ceiling")}
            shuffled = [null_R[torch.randperm(len(null_R), generator=generator)] for null_R in drawn]  # layers apart
            row = {"place": ALL, "kind": factor, "value": mean}
            rows.append(row | null_numbers(mean, torch.stack(shuffled).mean(0)) | numbers)
        return rows


def _features(model: nn.Module, data: AnalysisData, part: Examples) -> dict[str, Tensor]:
    return {place: x_ND.double().cpu() for place, x_ND in features_of(model, data.data, part).items()}


def _axes(basis, factor: str) -> Tensor:
    return (basis.u_a_II if factor == "inputs" else basis.u_g_OO).double().cpu()


def centred(k_NN: Tensor, unbiased: bool) -> Tensor:
    """Return a Gram matrix centred, so that HSIC is the inner product of two such, up to a factor of N alone.

    Args:
        k_NN: symmetric, float64.
        unbiased: as the unbiased estimator has it: without the diagonal (Szekely & Rizzo 2014, U-centring).
    """
    if not unbiased:
        return k_NN - k_NN.mean(0) - k_NN.mean(1, keepdim=True) + k_NN.mean()
    number = len(k_NN)
    k_NN = k_NN.clone().fill_diagonal_(0)
    row_N = k_NN.sum(1) / (number - 2)
    whole = k_NN.sum() / ((number - 1) * (number - 2))
    return (k_NN - row_N - row_N[:, None] + whole).fill_diagonal_(0)


def alignment(k_NN: Tensor, l_NN: Tensor) -> float:
    """Return the cosine of two centred Gram matrices, which is CKA; NaN where one of them is 0."""
    size = k_NN.norm() * l_NN.norm()
    return float((k_NN * l_NN).sum() / size) if float(size) > 0 else float("nan")


def overlap(u_Ok: Tensor, v_Ok: Tensor) -> float:
    """Return the mean squared cosine of the principal angles between two subspaces, orthonormal in columns."""
    return float((u_Ok.T @ v_Ok).square().sum() / u_Ok.shape[1])


def random_overlaps(size: int, kept: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return the overlaps R of a subspace with uniformly random ones of its dimension; all subspaces have the same."""
    found = []
    for _ in range(draws):
        drawn = torch.randn(size, kept, generator=generator, dtype=torch.float64)
        found.append(torch.linalg.qr(drawn).Q[:kept].square().sum() / kept)
    return torch.stack(found)
