"""Does a training that is killed at any moment end with the same bytes? SIGKILL at random moments of a digits run.

An uninterrupted run is the reference. Then a run is started and killed, over and over, until it finishes; then another,
until there were enough kills. Every other kill waits for a checkpoint that is being written. Every finished run's
model.safetensors and metrics.csv must be, byte for byte, those of the reference. Exits with 1 if one is not.

    python experiments/kill_test.py [--kills 20] [--seed 0]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = [
    "--model.width=32", "--model.depth=2", "--model.heads=2", "--model.patch=4", "--model.dropout=0.1",
    "--train.epochs=40", "--train.batch_size=50", "--train.warmup_epochs=2", "--train.eval_every=4",
    "--train.checkpoint_minutes=0.002", "--trainer.accelerator=cpu",
]  # fmt: skip
RESULTS = ("model.safetensors", "metrics.csv")


def start(out: Path) -> subprocess.Popen:
    """Start, or go on with, the training in a folder."""
    command = [sys.executable, "-m", "vitmem", "train", f"--out={out}", *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def results(out: Path) -> list[bytes]:
    """Return the bytes of a finished run."""
    return [(out / "default" / "seed0" / name).read_bytes() for name in RESULTS]


def kill(process: subprocess.Popen, folder: Path, seconds: float, while_saving: bool) -> bool:
    """Kill a training some seconds after its first sign of life, or in its next write of a checkpoint after that.

    Returns:
        Whether it was killed; it may have finished before.
    """
    signs = [folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "last.partial"]
    before = [sign.stat().st_mtime_ns if sign.exists() else 0 for sign in signs]

    def alive() -> bool:
        return any(path.exists() and path.stat().st_mtime_ns != b for path, b in zip(signs, before, strict=True))

    def moving() -> bool:
        try:
            return alive()
        except FileNotFoundError:  # renamed between the two looks at it
            return True

    while process.poll() is None and not moving():
        time.sleep(0.001)
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    while process.poll() is None and while_saving and not signs[1].exists():
        pass  # a write takes milliseconds: no sleep
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def main() -> None:
    """Print one line per kill and the count of runs that ended alike."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    draw = random.Random(options.seed)
    kills = in_a_write = runs = different = 0
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        start(reference).wait()
        expected = results(reference)
        while kills < options.kills:
            out = Path(folder) / f"run{runs}"
            run = out / "default" / "seed0"
            while kills < options.kills and kill(process := start(out), run, 2 * draw.random(), kills % 2 == 1):
                kills += 1
                left = (run / "checkpoints" / "last.partial").exists()
                in_a_write += left
                print(f"kill {kills}{': a half-written checkpoint is left' if left else ''}", flush=True)
            if process.returncode == -signal.SIGKILL:  # enough kills: let it finish
                process = start(out)
                process.wait()
            if process.returncode:
                print(process.stderr.read(), file=sys.stderr)
            same = process.returncode == 0 and results(out) == expected
            runs, different = runs + 1, different + (not same)
            print(f"run {runs} finished: {'the same bytes' if same else 'DIFFERENT'}", flush=True)
    print(f"{kills} kills, {in_a_write} of them in the middle of a checkpoint; {runs - different} of {runs} runs alike")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
