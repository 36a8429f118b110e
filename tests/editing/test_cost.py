import platform

import pytest
import torch

from vitmem.editing.cost import ExtraMemory


def test_extra_memory_sees_an_allocation():
    with ExtraMemory(torch.device("cpu"), period=0.001) as memory:
        held = torch.ones(16_000_000)  # 61 MiB, written to
    assert memory.bytes > 40 * 2**20
    assert held.sum() == 16_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_memory_that_earlier_work_freed_hides_nothing():
    pieces = [torch.ones(8_000) for _ in range(2_000)]  # 61 MiB in pieces that are not mapped one by one
    wall = torch.ones(8_000)  # above them, so that the top of the heap cannot shrink
    del pieces
    with ExtraMemory(torch.device("cpu"), period=0.001) as memory:
        again = [torch.ones(8_000) for _ in range(2_000)]
    assert memory.bytes > 40 * 2**20
    assert wall.sum() + sum(piece.sum() for piece in again) == 2_001 * 8_000
