"""Does a training that is killed at any moment end with the same bytes? SIGKILL at random moments of a digits run.

An uninterrupted run is the reference. Then a run is started and killed, over and over, until it finishes; then another,
until there were enough kills. Every other kill waits for a checkpoint that is being written. Every finished run's
model.safetensors and metrics.csv must be, byte for byte, those of the reference. Exits with 1 if one is not.

    python experiments/kill_test.py [--kills 20] [--seed 0]
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import timm  # noqa: F401, so that forked processes need not load it

from vitmem.cli import main as vitmem
from vitmem.runs import train  # noqa: F401, likewise

OPTIONS = [
    "--model.width=32", "--model.depth=2", "--model.heads=2", "--model.patch=4", "--model.dropout=0.1",
    "--train.epochs=20", "--train.batch_size=50", "--train.warmup_epochs=2", "--train.eval_every=4",
    "--train.checkpoint_minutes=0.002", "--trainer.accelerator=cpu",
]  # fmt: skip
RESULTS = ("model.safetensors", "metrics.csv")


def start(out: Path) -> ForkProcess:
    """Start, or go on with, the training in a folder; a fork has the libraries loaded."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(out,))
    process.start()
    return process


def _train(out: Path) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        code = vitmem(["train", f"--out={out}", *OPTIONS])
    sys.exit(code)


def results(out: Path) -> list[bytes]:
    """Return the bytes of a finished run."""
    return [(out / "default" / "seed0" / name).read_bytes() for name in RESULTS]


def unfinished(folder: Path) -> set[Path]:
    """Return the checkpoints of a run that are half-written."""
    return set((folder / "checkpoints").glob("*.partial"))


def kill(process: ForkProcess, folder: Path, seconds: float, while_saving: bool) -> bool:
    """Kill a training some seconds after its first sign of life, or in its next write of a checkpoint after that.

    Returns:
        Whether it was killed; it may have finished before.
    """
    sign, half = folder / "checkpoints" / "last.ckpt", unfinished(folder)
    before = sign.stat().st_mtime_ns if sign.exists() else 0

    def moving() -> bool:
        try:
            return (sign.exists() and sign.stat().st_mtime_ns != before) or unfinished(folder) > half
        except FileNotFoundError:  # renamed between the two looks at it
            return True

    while process.is_alive() and not moving():
        time.sleep(0.001)
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end:
        time.sleep(0.001)
    while process.is_alive() and while_saving and not unfinished(folder) - half:
        pass  # a write takes milliseconds: no sleep
    process.kill()
    process.join()
    return process.exitcode < 0


def main() -> None:
    """Print one line per kill and the count of runs that ended alike."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    kills = in_a_write = runs = different = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        start(reference).join()
        expected = results(reference)
        while kills < options.kills:
            out = Path(folder) / f"run{runs}"
            run = out / "default" / "seed0"
            while kills < options.kills and kill(process := start(out), run, 2 * draw.random(), kills % 2 == 1):
                kills += 1
                left = bool(unfinished(run))
                in_a_write += left
                print(f"kill {kills}{': a half-written checkpoint is left' if left else ''}", flush=True)
            if process.exitcode < 0:  # enough kills: let it finish
                process = start(out)
                process.join()
            same = process.exitcode == 0 and results(out) == expected
            runs, different = runs + 1, different + (not same)
            print(f"run {runs} finished: {'the same bytes' if same else 'DIFFERENT'}", flush=True)
    print(f"{kills} kills, {in_a_write} of them in the middle of a checkpoint; {runs - different} of {runs} runs alike")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
