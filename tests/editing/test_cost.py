import platform
import resource
import threading

import pytest
import torch

from vitmem.editing.cost import ExtraMemory, resident


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


def test_memory_is_looked_at_in_the_end_too():
    with ExtraMemory(torch.device("cpu"), period=60) as memory:  # nothing is sampled in between
        held = torch.ones(16_000_000)
    assert 40 * 2**20 < memory.bytes < 200 * 2**20
    assert held.sum() == 16_000_000


def test_a_peak_in_between_is_seen(monkeypatch):
    sizes, sampled = [100, 700, 300], threading.Event()  # before, sampled, from then on

    def found():
        if len(sizes) == 1:
            sampled.set()
        return sizes.pop(0) if len(sizes) > 1 else sizes[0]

    monkeypatch.setattr("vitmem.editing.cost.resident", found)
    with ExtraMemory(torch.device("cpu"), period=0.001) as memory:
        assert sampled.wait(60)
    assert memory.bytes == 600


def test_resident_memory_is_in_bytes():
    found = resident()
    assert 20 * 2**20 < found < 2**40
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert found <= 1.1 * (peak if platform.system() == "Darwin" else peak * 1024)
