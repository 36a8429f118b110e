"""What a forward pass keeps for the backward pass, and how it shows that there is no memory for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_SAID = ("out of memory", "can't allocate", "cannot allocate", "not enough memory", "alloc_failed", "bad_alloc")


class OutOfMemory(MemoryError):
    """Work was refused since the memory that it takes is not free."""


def ran_out(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it was raised from, is about memory, of a GPU or of the host.

    Such an error says nothing of the method that met it: it is never a method's result.
    """
    while error is not None:
        told = isinstance(error, (RuntimeError, OSError)) and any(said in str(error).lower() for said in _SAID)
        if told or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        error = error.__cause__
    return False


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
