"""A process of several that was told to end does end, also where another one never answers."""

import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

STUCK = """
import datetime, os, sys, time
from types import SimpleNamespace
import torch
import torch.distributed as dist
from vitmem.training.watch import Watch

silent, processes = float(sys.argv[1]), int(sys.argv[2])
store = dist.FileStore(sys.argv[3], 2)  # of two processes, the other of which never comes
watch = Watch(silent)
launcher = SimpleNamespace(procs=[])
with watch.over(SimpleNamespace(world_size=processes, strategy=SimpleNamespace(launcher=launcher))):
    print("begun", flush=True)
    store.wait(["never"], datetime.timedelta(seconds=100))  # in C++, where no handler of Python's runs
"""


def stuck(tmp_path, silent, processes):
    """Start a process that waits for another in a call that holds up Python's handlers."""
    ignoring = "import signal; signal.signal(signal.SIGTERM, lambda *a: None)\n"
    arguments = ["-c", ignoring + STUCK, str(silent), str(processes), str(tmp_path / "store")]
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_process_that_waits_for_another_ends_when_told(tmp_path):
    process = stuck(tmp_path, 0.3, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.count("\n") == 1
    assert "another process does not answer" in errors


def test_alone_nobody_watches(tmp_path):
    process = stuck(tmp_path, 0.3, 1)
    try:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)
    finally:
        process.kill()
        process.communicate()


def test_signs_of_life_and_the_end_of_the_training_keep_it(monkeypatch):
    from types import SimpleNamespace

    from vitmem.training import watch as module

    ended = []
    monkeypatch.setattr(module, "end", lambda trainer, number: ended.append(number))
    previous = signal.signal(signal.SIGTERM, lambda *a: None)
    try:
        watch = module.Watch(0.5)
        with watch.over(SimpleNamespace(world_size=2)):
            signal.raise_signal(signal.SIGTERM)
            for _ in range(10):
                time.sleep(0.1)
                watch.sign()
            watch.sign(saving=True)
            time.sleep(0.6)
        assert ended == []
        with watch.over(SimpleNamespace(world_size=2)):
            watch.sign()
            signal.raise_signal(signal.SIGTERM)
            for _ in range(100):
                time.sleep(0.05)
                if ended:
                    break
        assert ended == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, previous)
