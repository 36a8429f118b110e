"""What two processes gain on a grid, and what a second call costs: seconds of whole commands, in turn.

    python experiments/bench_jobs.py [--turns 1] [--epochs 60]

The grid: digits, three seeds with their retrained twins, six edits at five strengths. Each turn begins from nothing.
The passes over the data that collected curvature are counted in what the commands print.
"""

import argparse
import collections
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GRID = """
name: grid
data: {{name: digits}}
noise: {{kind: symmetric, rate: 0.1, seed: 0}}
model: {{width: 128, depth: 4, heads: 4, patch: 4}}
train: {{epochs: {epochs}, batch_size: 64, lr: 1e-3, weight_decay: 0.3, warmup_epochs: 5, label_smoothing: 0.05}}
seeds: 0,1,2
references: [retrain]
edits:
  - {{name: kfac, rho: [0.95, 0.9, 0.85, 0.8, 0.75]}}
  - {{name: ekfac, rho: [0.95, 0.9, 0.85, 0.8, 0.75]}}
  - {{id: of_update, name: ekfac, of: update, rho: [0.95, 0.9, 0.85, 0.8, 0.75]}}
  - {{name: svd, keep: [0.3, 0.2, 0.15, 0.1, 0.07]}}
  - {{name: scale, factor: [0.9, 0.8, 0.7, 0.6, 0.5]}}
  - {{name: rewind, keep: [0.9, 0.8, 0.7, 0.6, 0.5]}}
"""


def timed(file: Path, out: Path, jobs: int) -> tuple[float, str]:
    """Run the grid, and return the seconds that it took and what it and the logs of its tasks say."""
    command = [sys.executable, "-m", "vitmem", "run", str(file), f"--out={out}", f"--jobs={jobs}"]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - start
    return seconds, done.stdout + "".join(log.read_text() for log in out.rglob("*.log"))


def main() -> None:
    """Print seconds with one process and two, their ratio, a second call's, and the passes over the data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    ratios = []
    for _ in range(options.turns):
        seconds = {}
        for jobs in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                file, out = Path(folder) / "grid.yaml", Path(folder) / "runs"
                file.write_text(GRID.format(epochs=options.epochs))
                seconds[jobs], said = timed(file, out, jobs)
                again = [timed(file, out, jobs)[0] for _ in range(3)]
            passes = collections.Counter(re.findall(r"curvature of .*?, labels \w+|curvature, second pass", said))
            print(
                f"--jobs {jobs}: {seconds[jobs]:.0f} s; {said.count(': training on ')} trainings; curvature: "
                f"{dict(passes)}; again: {statistics.median(again):.1f} s",
                flush=True,
            )
        ratios.append(seconds[1] / seconds[2])
    print(f"--jobs 2 is {statistics.median(ratios):.2f} times as fast as 1 (median of {len(ratios)} turns)")


if __name__ == "__main__":
    main()
