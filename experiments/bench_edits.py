"""What edits cost: seconds and passes of each from nothing, in turn, on one trained model.

    python experiments/bench_edits.py runs/digits_contest/seed0 [--turns 3]

Every turn makes every edit once, with curvature collected anew; medians are printed, with ratios to graded EK-FAC.
"""

import argparse
import statistics
from pathlib import Path

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.attempt import attempt
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC, KFAC, InputFilter
from vitmem.editing.shrink import Rewind, Scale
from vitmem.editing.svd import SVD
from vitmem.runs.trained import TrainedRun

EDITS = {
    "graded EK-FAC, exact labels": EKFAC(rho=0.8),
    "graded EK-FAC, one sampled label": EKFAC(rho=0.8, labels="sampled"),
    "published rule, one draw": KFAC(rho=0.8),
    "published rule, eight draws": KFAC(rho=0.8, draws=8),
    "inputs alone": InputFilter(rho=0.8),
    "graded SVD": SVD(keep=0.2, filter="graded"),
    "graded SVD of the update": SVD(keep=0.2, filter="graded", of="update"),
    "rewind": Rewind(),
    "scale": Scale(),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    run = TrainedRun.open(options.run)
    initial = run.initial_state
    seconds: dict[str, list[float]] = {name: [] for name in EDITS}
    passes = {}
    for _ in range(options.turns):
        for name, edit in EDITS.items():
            data = EditData(run.data, edit.sees, CurvatureCache(), initial=lambda: initial)
            made = attempt(edit, run.model, data, keyed_generator(0))
            seconds[name].append(made.seconds)
            passes[name] = made.passes
    whole = statistics.median(seconds[next(iter(EDITS))])
    print("| edit | passes | seconds | ratio |\n|---|---|---|---|")
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"| {name} | {passes[name]:.3g} | {median:.3g} | {median / whole:.3f} |")


if __name__ == "__main__":
    main()
