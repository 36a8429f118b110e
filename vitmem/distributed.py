"""Several processes under ``torchrun``: who writes, who has which share, and sums over all of them.

Without a process group there is one process, and every function here is the identity.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group that ``torchrun`` describes, if it started this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share() -> tuple[int, int]:
    """Return this process's rank and the number of processes: example k belongs to process k mod number."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return share()[0] == 0


def all_sum(tensor: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if share()[1] == 1:
        return tensor
    device = tensor.device
    if dist.get_backend() == "nccl":
        tensor = tensor.cuda()
    dist.all_reduce(tensor)
    return tensor.to(device)


def agreed(flag: bool) -> bool:
    """Return the main process's answer in every process, so that all go the same way."""
    return bool(all_sum(torch.tensor(int(flag and is_main()))))
