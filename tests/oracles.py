"""Slow, explicit versions of what vitmem computes; they share no code with it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def dense_factors(
    model: nn.Module, image: Tensor, labels: Tensor, weights: Tensor, layers: list[str], tokens: str
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Return (sum a a^T, sum g g^T, positions) by one example, one label and one token at a time.

    Args:
        model: classifier in eval mode.
        image: N C H W.
        labels: N L, the labels at which each example's loss is taken.
        weights: N L, weight of the outer products of each.
        layers: names.
        tokens: cls, all or mean.
    """
    sums = {}
    for name in layers:
        layer = model.get_submodule(name)
        square = (torch.zeros(size, size, dtype=torch.float64) for size in (layer.in_features, layer.out_features))
        sums[name] = [*square, 0]
    for n in range(len(image)):
        seen = {}
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name, seen=seen: seen.update({name: (inputs[0].detach(), output)})
            )
            for name in layers
        ]
        logits = model(image[n : n + 1])
        for handle in handles:
            handle.remove()
        for name in layers:
            for a in rows_of(seen[name][0], tokens, mean=True):
                sums[name][0] += torch.outer(a, a)
                sums[name][2] += 1
        for label, weight in zip(labels[n], weights[n], strict=True):
            loss = F.cross_entropy(logits, label[None], reduction="sum")
            gradients = torch.autograd.grad(loss, [seen[name][1] for name in layers], retain_graph=True)
            for name, gradient in zip(layers, gradients, strict=True):
                for g in rows_of(gradient, tokens, mean=False):
                    sums[name][1] += weight * torch.outer(g, g)
    return {name: tuple(layer_sums) for name, layer_sums in sums.items()}


def rows_of(x: Tensor, tokens: str, mean: bool):
    """Yield the vectors of one example that enter a factor."""
    rows = [x[0]] if x.ndim == 2 else list(x[0])
    if tokens == "cls":
        return rows[:1]
    if tokens == "all":
        return rows
    total = sum(rows[1:], rows[0])
    return [total / len(rows) if mean else total]


def brute_force_selection(mass: Tensor, rho: float) -> set[tuple[int, int]]:
    """Return the pairs of the smallest prefix, by falling mass and then row order, that reaches rho of the total."""
    pairs = [(i, j) for i in range(mass.shape[0]) for j in range(mass.shape[1])]
    pairs.sort(key=lambda ij: (-float(mass[ij]), ij))
    total = sum(float(mass[ij]) for ij in pairs)
    kept, reached = set(), 0.0
    for pair in pairs:
        kept.add(pair)
        reached += float(mass[pair])
        if reached >= rho * total:
            break
    return kept
