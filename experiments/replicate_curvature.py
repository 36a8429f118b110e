"""What kind of curvature is it? Products with the Hessian and the Fisher of a trained model, and K-FAC beside them.

All matrices are compared by their products with random vectors z: for symmetric A and B the mean of (A z)'(B z) over
z ~ N(0, I) is their Frobenius inner product (Hutchinson 1990), so that norms, cosines and the share of a norm that lies
in the blocks between layers need no matrix. The loss is the one that training took, with given labels and label
smoothing; H is its Hessian, F the generalised Gauss-Newton matrix, which for softmax is the Fisher with exact labels
(Martens 2020).

Legend: O outputs, I inputs of a layer; states and products are dicts of O I by layer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitmem.curvature.cache import LayerCurvature
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData

Blocks = Mapping[str, Tensor]
AT_ONCE = 650  # images: many small batches take longer


class Products:
    """Products of vectors with the Hessian and the Gauss-Newton matrix of a mean loss, in some layers' weights.

    Args:
        model: the classifier, in eval mode.
        data: serves the images.
        examples: over which the loss is the mean.
        layers: names of the layers.
        smoothing: label smoothing of the loss.
    """

    def __init__(
        self, model: nn.Module, data: MemorisationData, examples: Examples, layers: list[str], smoothing: float
    ):
        self._model, self._layers, self._smoothing = model, layers, smoothing
        small = list(data.loader(examples))
        image, label = (torch.cat([getattr(batch, key) for batch in small]) for key in ("image", "given_label"))
        self._batches = list(zip(image.split(AT_ONCE), label.split(AT_ONCE), strict=True))
        self._n = len(examples)
        self._fixed = {name: value.detach() for name, value in model.named_parameters()}

    def loss(self, moved: Blocks | None = None) -> float:
        """Return the mean loss of the model, or with the weights of some layers replaced."""
        state = {f"{name}.weight": value for name, value in (moved or {}).items()}
        with torch.no_grad():
            parts = [
                F.cross_entropy(
                    functional_call(self._model, state, image), label, label_smoothing=self._smoothing, reduction="sum"
                )
                for image, label in self._batches
            ]
        return float(sum(parts)) / self._n

    def gradient(self) -> dict[str, Tensor]:
        """Return the gradient of the mean loss."""
        return self._sum(lambda logits, label, leaves: torch.autograd.grad(self._losses(logits, label), leaves))

    def hessian(self, vector: Blocks) -> dict[str, Tensor]:
        """Return H v."""

        def product(logits: Tensor, label: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
            slope = torch.autograd.grad(self._losses(logits, label), leaves, create_graph=True)
            return torch.autograd.grad(_inner(slope, [vector[n] for n in self._layers]), leaves)

        return self._sum(product)

    def fisher(self, vector: Blocks) -> dict[str, Tensor]:
        """Return F v = J' (diag(p) - p p') J v, J v by differentiating J' u by u."""

        def product(logits: Tensor, label: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
            u = torch.zeros_like(logits, requires_grad=True)
            back = torch.autograd.grad(logits, leaves, u, create_graph=True)
            (along,) = torch.autograd.grad(_inner(back, [vector[n] for n in self._layers]), u)
            p = logits.detach().softmax(1)
            return torch.autograd.grad(logits, leaves, p * (along - (p * along).sum(1, keepdim=True)))

        return self._sum(product)

    def _losses(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label, label_smoothing=self._smoothing, reduction="sum")

    def _sum(self, product: Callable[[Tensor, Tensor, list[Tensor]], tuple[Tensor, ...]]) -> dict[str, Tensor]:
        leaves = [self._fixed[f"{name}.weight"].clone().requires_grad_() for name in self._layers]
        state = {f"{name}.weight": leaf for name, leaf in zip(self._layers, leaves, strict=True)}
        total = [torch.zeros_like(leaf) for leaf in leaves]
        with twice_differentiable():
            for image, label in self._batches:
                found = product(functional_call(self._model, state, image), label, leaves)
                total = [one + part.detach() for one, part in zip(total, found, strict=True)]
        return {name: value / self._n for name, value in zip(self._layers, total, strict=True)}


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Take the form of attention that can be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def kronecker(layer: LayerCurvature, z_OI: Tensor) -> Tensor:
    """Return the product of a vector with a layer's block in its eigenbasis: U_G (P * (U_G' z U_A)) U_A'."""
    return layer.basis.compose(layer.basis.coordinates(z_OI) * layer.mass.dense().to(z_OI))


def matrices(
    products: Products,
    layers: Mapping[str, LayerCurvature],
    moments: Mapping[str, LayerCurvature],
    probes: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Return cosines of the blocks of layers (H, F, K-FAC, EK-FAC), and the share of squared norms between layers.

    Args:
        products: with H and F.
        layers: K-FAC's masses.
        moments: EK-FAC's, in the same axes.
        probes: random vectors for each layer.
        generator: of them.
    """
    sums: dict[tuple[str, str], float] = {}
    between = {"hessian": 0.0, "fisher": 0.0}
    for name, layer in layers.items():
        for _ in range(probes):
            z = torch.randn(layer.coordinates_OI.shape, generator=generator)
            vector = {n: z if n == name else torch.zeros(c.coordinates_OI.shape) for n, c in layers.items()}
            whole = {"hessian": products.hessian(vector), "fisher": products.fisher(vector)}
            blocks = {kind: found[name] for kind, found in whole.items()}
            blocks |= {"kfac": kronecker(layer, z), "ekfac": kronecker(moments[name], z)}
            for first in blocks:
                for second in blocks:
                    product = float((blocks[first] * blocks[second]).sum())
                    sums[first, second] = sums.get((first, second), 0.0) + product
            for kind, found in whole.items():
                between[kind] += float(sum(value.square().sum() for n, value in found.items() if n != name))

    def cosine(first: str, second: str) -> float:
        return sums[first, second] / (sums[first, first] * sums[second, second]) ** 0.5

    pairs = (("hessian", "fisher"), ("hessian", "kfac"), ("fisher", "kfac"), ("fisher", "ekfac"))
    numbers = {f"cosine {first}, {second}": cosine(first, second) for first, second in pairs}
    numbers["norm of fisher over hessian"] = (sums["fisher", "fisher"] / sums["hessian", "hessian"]) ** 0.5
    for kind, outside in between.items():
        numbers[f"between layers, {kind}"] = outside / (outside + sums[kind, kind])
    return numbers


def along(products: Products, vector: Blocks) -> tuple[float, float]:
    """Return v' H v and v' F v."""
    hessian, fisher = products.hessian(vector), products.fisher(vector)
    return float(_inner(hessian.values(), [vector[n] for n in hessian])), float(
        _inner(fisher.values(), [vector[n] for n in fisher])
    )


def bands(
    products: Products, layers: Mapping[str, LayerCurvature], draws: int, generator: torch.Generator
) -> dict[str, float]:
    """Return the mean curvature of random directions within bands of eigen-pairs, by K-FAC's mass in each layer.

    Directions are isotropic within the band, of unit length over all layers; control: the same pairs dealt out at
    random. The numbers are of Hessian and Fisher.
    """
    edges = {"top 10 %": (0.0, 0.1), "10 to 25 %": (0.1, 0.25), "25 to 50 %": (0.25, 0.5), "bottom 50 %": (0.5, 1.0)}
    numbers = {}
    for band, (first, last) in [*edges.items(), ("at random", (0.0, 1.0))]:
        sums = torch.zeros(2, dtype=torch.float64)
        for _ in range(draws):
            vector = {}
            for name, layer in layers.items():
                mass = layer.mass.dense().flatten()
                order = mass.argsort(descending=True)
                chosen = torch.zeros(len(mass))
                chosen[order[int(first * len(mass)) : int(last * len(mass))]] = 1
                random = torch.randn(len(mass), generator=generator) * chosen
                vector[name] = layer.basis.compose(random.reshape(layer.coordinates_OI.shape))
            length = sum(value.square().sum() for value in vector.values()) ** 0.5
            sums += torch.tensor(along(products, {n: value / length for n, value in vector.items()}))
        for kind, value in zip(("hessian", "fisher"), sums / draws, strict=True):
            numbers[f"{band}, {kind}"] = float(value)
    return numbers


def _inner(first: Iterable[Tensor], second: Iterable[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
