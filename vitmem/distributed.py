"""Several processes under ``torchrun``: who writes, who has which share, and sums over all of them.

Without a process group there is one process, and every function here is the identity.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave, at the end, the process group that the work joined: one that lives on can abort the process at exit."""
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


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
    with leaving_group():
        yield


def share() -> tuple[int, int]:
    """Return this process's rank and the number of processes: example k belongs to process k mod number."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return share()[0] == 0 and not _is_child()


def _is_child() -> bool:
    """Tell whether Lightning's launcher started this process beside the main one: unlike torchrun, it sets no RANK."""
    return "RANK" not in os.environ and int(os.environ.get("LOCAL_RANK", "0")) > 0


def on_main(work: Callable[[], T]) -> T | None:
    """Do work in the main process; every process gets its result, or raises its error.

    Returns:
        The result; None in a process that Lightning's launcher started, since the main one did the work before.
    """
    if _is_child():
        return None
    if share()[1] == 1:
        return work()
    outcome: list = [None, None]
    if is_main():
        try:
            outcome[0] = work()
        except (ValueError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


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
