"""At which weight decay are the base's labels no longer readable after fine-tuning? A table from attacks.csv.

    python experiments/imprint.py runs/digits_imprint [--margin 0.1] [--place head]

Prints Markdown and writes `imprint.csv` into the folder: for each model and weight decay of the attack `imprint` the
share of the wrong labels that a probe finds (mean over seeds), its excess over retrain at the same decay with a 95 % t
interval, and a verdict: readable where the interval lies above the margin, not readable where it lies below, else open;
and network gone where a new head's accuracy on validation images is more than 0.05 below that at the least decay.
"""

import argparse
import csv
import math
import statistics
from collections import defaultdict
from pathlib import Path

from vitmem.evaluation.statistics import interval_of_differences

DROP = 0.05  # of a new head's accuracy on validation images, beyond which the network is gone, not its labels alone
COLUMNS = ("id", "weight_decay", "seeds", "found", "excess", "low", "high", "verdict", "validation", "task")


def verdict(low: float, high: float, margin: float) -> str:
    """Return what an interval of the excess says: readable, not readable or open."""
    return "readable" if low > margin else "not readable" if high < margin else "open"


def table(rows: list[dict], place: str, margin: float) -> list[dict]:
    """Return one row for each model and weight decay.

    Args:
        rows: of attacks.csv.
        place: whose probes count: head (the classifier's input), or a block.
        margin: of the excess over retrain.
    """
    cells: dict[tuple, dict[str, float]] = defaultdict(dict)  # by what, model and decay: seed -> value
    for row in rows:
        kind = (row["probe"], row["place"], row["metric"])
        names = {
            ("given", place, "accuracy"): "found",
            ("head", "head", "validation_accuracy"): "validation",
            ("task", "head", "accuracy"): "task",
        }
        if row["name"] == "imprint" and kind in names and row["value"]:
            cells[names[kind], row["id"], float(row["weight_decay"])][row["seed"]] = float(row["value"])
    lines = []
    for _, name, decay in [key for key in cells if key[0] == "found"]:
        found, control = cells["found", name, decay], cells["found", "retrain", decay]
        excess = interval_of_differences([found[seed] - control[seed] for seed in found if seed in control])
        mean = {what: statistics.fmean(cells[what, name, decay].values()) for what in ("found", "validation", "task")}
        least = min(other for what, its, other in cells if (what, its) == ("validation", name))
        gone = mean["validation"] < statistics.fmean(cells["validation", name, least].values()) - DROP
        said = "control" if name == "retrain" else verdict(excess.low, excess.high, margin)
        said = "network gone" if gone else said
        line = {"id": name, "weight_decay": decay, "seeds": len(found), "verdict": said, **mean}
        line |= {"excess": excess.mean, "low": excess.low, "high": excess.high}
        lines.append({column: line[column] for column in COLUMNS})
    return lines


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--margin", type=float, default=0.1)
    parser.add_argument("--place", default="head")
    given = parser.parse_args()
    with (given.folder / "attacks.csv").open(newline="") as file:
        lines = table(list(csv.DictReader(file)), given.place, given.margin)
    rounded = [
        {name: round(value, 4) if isinstance(value, float) else value for name, value in line.items()} for line in lines
    ]
    with (given.folder / "imprint.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rounded)
    print("| model | weight decay | found | excess over retrain | verdict | validation, new head | task |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        interval = "" if math.isnan(line["low"]) else f" [{line['low']:+.3f}, {line['high']:+.3f}]"
        excess = "" if line["id"] == "retrain" else f"{line['excess']:+.3f}{interval}"
        print(
            f"| {line['id']} | {line['weight_decay']:g} | {line['found']:.3f} | {excess} | "
            f"{line['verdict']} | {line['validation']:.3f} | {line['task']:.3f} |"
        )


if __name__ == "__main__":
    main()
