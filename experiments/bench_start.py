"""How soon a command answers: seconds and peak memory of each verb, as ratios to ``import torch`` in the same minutes.

    python experiments/bench_start.py [RUN]

With a finished run folder of digits, ``edit`` of it is timed too: once an edit that is there already, and once one that
is made again and whose own work (0.1 s) is next to nothing. Every command is run in turn with ``import torch``, five
times; medians are printed. Targets: 1.3 for help and list, 2.5 for edit.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 5
TORCH = ["-c", "import torch"]
VERBS = ["list", "train --help", "edit --help", "edit kfac --help", "eval --help", "run --help"]


def measure(arguments: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak memory in MB of one Python process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1000


def main() -> None:
    """Print a line for each command."""
    commands = {verb: ["-m", "vitmem", *verb.split()] for verb in VERBS}
    for run in sys.argv[1:]:
        edit = ["-m", "vitmem", "edit", "svd", run, "--keep", "0.1"]
        measure(edit)
        commands["edit, made before"] = edit
        commands["edit, made again"] = [*edit, "--force"]
    print(f"{'command':<24} {'seconds':>8} {'MB':>7} {'to import torch':>16}")
    for name, command in commands.items():
        pairs = [(measure(command), measure(TORCH)) for _ in range(ROUNDS)]
        seconds = statistics.median(ours[0] for ours, _ in pairs)
        ratio = statistics.median(ours[0] / torch[0] for ours, torch in pairs)
        print(f"{name:<24} {seconds:>8.2f} {max(ours[1] for ours, _ in pairs):>7.0f} {ratio:>16.2f}", flush=True)


if __name__ == "__main__":
    main()
