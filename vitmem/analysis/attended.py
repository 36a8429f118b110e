"""Where the last block attends: attention weights recomputed from queries and keys, and checked against the model.

Fused attention never forms its weights, so they are computed again from what the projections return. What a model adds
besides (rotary or relative positions, windows) is not known here; where the weights times the values are not what the
model itself goes on with, the attention counts as not found.

Legend: B images, S positions, H heads, C channels, N images of all batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.attacks.features import pooling_of
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.models.anatomy import anatomy_of

_HEADS = ("num_heads", "num_attention_heads", "heads")
_FUSED = ("qkv", "in_proj")


@dataclass(frozen=True, eq=False)
class Projections:
    """The projections to queries, keys and values of one attention.

    Args:
        owner: the module that holds them.
        linear: one layer that returns all three, or three.
        heads: H.
    """

    owner: nn.Module
    linear: tuple[nn.Module, ...]
    heads: int


def projections_of(block: nn.Module) -> Projections:
    """Return the projections of a block's attention, the last if there are several.

    Raises:
        ValueError: it has none that is known.
    """
    found = None
    for owner in block.modules():
        heads = next((getattr(owner, name) for name in _HEADS if isinstance(getattr(owner, name, None), int)), None)
        if heads is None:
            continue
        children = {name: child for name, child in owner.named_children() if isinstance(child, nn.Linear)}
        fused = [children[name] for name in _FUSED if name in children]
        apart = [next((c for n, c in children.items() if n.startswith(letter)), None) for letter in "qkv"]
        if fused:
            found = Projections(owner, tuple(fused[:1]), heads)
        elif all(part is not None for part in apart):
            found = Projections(owner, tuple(apart), heads)
    if found is None:
        raise ValueError(f"no projections to queries, keys and values are found in a {type(block).__name__}")
    return found


def weights_of(projected: list[Tensor], parts: Projections) -> tuple[Tensor, Tensor]:
    """Return the attention weights B H S S, and what they make of the values, B S C.

    Args:
        projected: outputs of ``parts.linear``.
        parts: whose they are.
    """
    if len(projected) == 1:
        projected = list(projected[0].chunk(3, -1))
    q, k, v = (part.unflatten(-1, (parts.heads, -1)).transpose(1, 2) for part in projected)  # B H S C/H
    q, k = (getattr(parts.owner, f"{name}_norm", nn.Identity())(part) for name, part in (("q", q), ("k", k)))
    weight = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return weight, (weight @ v).transpose(1, 2).flatten(2)


@torch.no_grad()
def attention_of(model: nn.Module, data: MemorisationData, examples: Examples) -> Tensor:
    """Return where the last block attends, N S: mean over heads, and over the positions that the classifier reads.

    Args:
        model: the classifier, in eval mode; it is left as it was.
        data: serves the images.
        examples: at least one.

    Raises:
        ValueError: its attention is not found, or is more than softmax(q k^T).
    """
    model = uncompiled(model)
    block = model.get_submodule(anatomy_of(model).blocks[-1])
    parts, pooling, found = projections_of(block), None, []
    device = next(model.parameters()).device
    projected: list[Tensor] = []
    inputs: list[Tensor] = []  # of the layers that ran in this block after them
    handles = [layer.register_forward_hook(lambda m, i, output: projected.append(output)) for layer in parts.linear]
    handles += [
        layer.register_forward_pre_hook(lambda m, given: inputs.append(given[0]))
        for layer in block.modules()
        if isinstance(layer, nn.Linear) and layer not in parts.linear
    ]
    try:
        for batch in data.loader(examples):
            image = batch.image.to(device)
            pooling = pooling or pooling_of(model, image[:4])
            projected.clear(), inputs.clear()
            model(image)
            weight, after = _checked(projected, inputs, parts)
            read = pooling.read if len(pooling.read) == after.shape[1] else torch.ones(after.shape[1], dtype=torch.bool)
            found.append(weight.mean(1)[:, read.to(device)].mean(1).double().cpu())
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(found)


def _checked(projected: list[Tensor], inputs: list[Tensor], parts: Projections) -> tuple[Tensor, Tensor]:
    if len(projected) == len(parts.linear) and projected[0].ndim == 3:
        weight, after = weights_of(projected, parts)
        scale = float(after.abs().max())
        for x in inputs:
            if x.shape == after.shape and float((x - after).abs().max()) <= 1e-3 * scale:
                return weight, after
    raise ValueError(
        f"the attention of {type(parts.owner).__name__} is more than softmax(q k^T): its weights cannot be shown"
    )
