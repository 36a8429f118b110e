"""What a forward pass keeps for the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def saved_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Count the bytes that autograd saves for the backward pass, each storage once and parameters never.

    Yields:
        A list whose one number is the count.
    """
    count = [0]
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[Tensor] = []  # a storage that were freed could come back as another one

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            count[0] += storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count
