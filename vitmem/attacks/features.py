"""What the blocks of a model say of images: features, pooled as the classifier reads them.

Legend: B images, S positions, C channels, N examples, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import frozen, uncompiled
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.models.anatomy import anatomy_of

HEAD = "head"


@dataclass(frozen=True, eq=False)
class Pooling:
    """Which positions of a block's output the classifier reads.

    Args:
        read: S, bool: positions of the last block's output on which the logits depend.
        channels_last: channels are the last axis of an output with a grid of positions.
    """

    read: Tensor
    channels_last: bool = True

    def __call__(self, output: Tensor) -> Tensor:
        """Return the mean B C over the positions that are read; over all of an output that has others."""
        if output.ndim == 2:
            return output
        tokens_BSC = self.tokens(output)
        if len(self.read) != tokens_BSC.shape[1]:
            return tokens_BSC.mean(1)
        first, count = int(self.read.int().argmax()), int(self.read.sum())
        if self.read[first : first + count].all():
            tokens_BSC = tokens_BSC[:, first : first + count]
        else:
            tokens_BSC = tokens_BSC[:, self.read]
        return tokens_BSC[:, 0] if count == 1 else tokens_BSC.mean(1)

    def moved(self, output: Tensor, by_BC: Tensor) -> Tensor:
        """Return an output moved by a vector for each image, at every position that is read."""
        if output.ndim == 2:
            return output + by_BC
        tokens_BSC = self.tokens(output)
        read = self.read if len(self.read) == tokens_BSC.shape[1] else torch.ones(tokens_BSC.shape[1], dtype=torch.bool)
        tokens_BSC = tokens_BSC + by_BC[:, None] * read.to(by_BC)[:, None]
        if self.channels_last or output.ndim == 3:
            return tokens_BSC.view(output.shape)
        return tokens_BSC.transpose(1, 2).reshape(output.shape)

    def tokens(self, output: Tensor) -> Tensor:
        """Return an output as B S C."""
        return output.flatten(1, -2) if self.channels_last or output.ndim == 3 else output.flatten(2).transpose(1, 2)


def pooling_of(model: nn.Module, image_BCHW: Tensor) -> Pooling:
    """Return which positions the classifier reads, found by one pass forward and back: where a gradient arrives.

    Args:
        model: the classifier; it is left as it was.
        image_BCHW: some images.
    """
    anatomy = anatomy_of(model)
    width = model.get_submodule(anatomy.head).weight.shape[1]
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: object) -> None:
        seen.append(_tensor(output))

    handle = model.get_submodule(anatomy.blocks[-1]).register_forward_hook(keep)
    try:
        with frozen(model), torch.enable_grad():
            logits_BK = model(image_BCHW.clone().requires_grad_())
            (gradient,) = torch.autograd.grad(logits_BK.square().sum(), seen[:1])
    finally:
        handle.remove()
    shape = gradient.shape
    channels_last = gradient.ndim != 4 or (shape[-1] == width and shape[1] != width)
    if gradient.ndim == 2:
        return Pooling(torch.ones(1, dtype=torch.bool))
    plain = Pooling(torch.empty(0, dtype=torch.bool), channels_last)
    read_S = plain.tokens(gradient).abs().sum((0, 2)).gt(0).cpu()
    return Pooling(read_S if read_S.any() else torch.ones_like(read_S), channels_last)


def _tensor(output: object) -> Tensor:
    """Return the features among what a block returns: the first of several things."""
    return output[0] if isinstance(output, (tuple, list)) else output


@contextmanager
def watched(model: nn.Module, pooling: Pooling) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that every forward pass fills with pooled features B D by place; afterwards no hook is left.

    Places are ``blocks.0`` and so on, and ``head``, the classifier's input.

    Args:
        model: the classifier.
        pooling: of the outputs of blocks.
    """
    seen: dict[str, Tensor] = {}
    anatomy = anatomy_of(model)

    def keep_block(name: str):
        def hook(module, inputs, output) -> None:
            seen[name] = pooling(_tensor(output))

        return hook

    def keep_input(module, inputs) -> None:
        seen[HEAD] = inputs[0].flatten(1)

    handles = [
        model.get_submodule(block).register_forward_hook(keep_block(f"blocks.{i}"))
        for i, block in enumerate(anatomy.blocks)
    ]
    handles.append(model.get_submodule(anatomy.head).register_forward_pre_hook(keep_input))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def steered(model: nn.Module, pooling: Pooling, block: int, by_NC: Tensor) -> Iterator[None]:
    """Move what a block says of each image that passes the model, by a vector of its own; afterwards no hook is left.

    Args:
        model: the classifier.
        pooling: of the outputs of blocks.
        block: number of the block.
        by_NC: vectors of the N images in the order in which they will pass.
    """
    passed = 0

    def move(module: nn.Module, inputs: tuple, output: object) -> object:
        nonlocal passed
        seen = _tensor(output)
        by_BC = by_NC[passed : passed + len(seen)]
        passed += len(seen)
        moved = pooling.moved(seen, by_BC.to(seen))
        return (moved, *output[1:]) if isinstance(output, (tuple, list)) else moved

    handle = model.get_submodule(anatomy_of(model).blocks[block]).register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def features_of(model: nn.Module, data: MemorisationData, examples: Examples) -> dict[str, Tensor]:
    """Return pooled features N D of a model in eval mode, by place; empty without examples."""
    model, parts = uncompiled(model), []
    device = next(model.parameters()).device
    pooling = None
    for batch in data.loader(examples):
        pooling = pooling or pooling_of(model, batch.image[:4].to(device))
        with watched(model, pooling) as seen:
            model(batch.image.to(device))
        parts.append(seen)
    return {place: torch.cat([part[place] for part in parts]) for place in (parts[0] if parts else ())}
