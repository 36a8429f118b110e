"""Methods at matched strength, paired over seeds, from the results table of an experiment with ``tuner: bisect``.

    python experiments/contest.py runs/digits_contest/results.csv [--against scale,rewind] [--points 0.2] [--only a,b]

Prints Markdown, a table for each operating point: ground truth and memorised accuracy of the wrong labels that no trial
saw, clean training images, the half of validation that no trial saw, and the differences in ground truth and validation
to each reference method: mean, 95 % t interval paired over seeds, the verdict, with Holm's correction over all methods
of the table, and the true difference that so many seeds detect with power 0.8. A method that came no nearer than 0.05
to a memorised accuracy on the tuning half has not reached it in that seed. Of what was not tuned (the pretrained model,
references) the row stands in every table. With ``--interpolate`` each method is read where its frontier over the
reported examples crosses the memorised accuracy, which takes out what the two halves of the wrong labels differ by.
"""

import argparse
import math
from pathlib import Path

from compare_frontiers import cell, differences

from vitmem.evaluation.frontier import at_memorized, unreached
from vitmem.evaluation.tables import usable
from vitmem.experiment.tuning import read_trials
from vitmem.figures import strength
from vitmem.figures.tables import read_results, seed_folders

POINTS = ("0.4", "0.3", "0.2", "0.1", "best")
METRICS = {
    "memorized_unseen_accuracy": "memorized",
    "ground_truth_unseen_accuracy": "ground truth",
    "clean_train_accuracy": "clean train",
    "validation_held_out_accuracy": "validation",
}
COMPARED = ("ground_truth_unseen_accuracy", "validation_held_out_accuracy")
MISSING = dict.fromkeys(METRICS, math.nan)


def at_point(rows: list[dict], point: str) -> dict[str, dict[int, dict[str, float]]]:
    """Return the measurements of each method at an operating point, by seed; NaN where it was not reached.

    Args:
        rows: of ``results.csv``.
        point: a memorised accuracy, or best.
    """
    label = point if point == "best" else f"at{point}"
    found: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        if row["point"] != label:
            continue
        values = {metric: row[metric] for metric in METRICS}
        method = row["id"].removesuffix(f"-{label}")
        found.setdefault(method, {})[int(row["seed"])] = values if usable(row) and not unreached(row) else MISSING
    return found


def interpolated(rows: list[dict], point: str) -> dict[str, dict[int, dict[str, float]]]:
    """Return the measurements of each method where its reported frontier crosses a memorised accuracy, by seed.

    The frontier joins the five strengths that trials chose, measured on the examples that no trial saw: what the halves
    differ by is taken out, and nothing but the choice of five strengths comes from the tuning half.

    Args:
        rows: of ``results.csv``.
        point: a memorised accuracy.
    """
    frontiers: dict[str, dict[int, list[dict]]] = {}
    for row in rows:
        if row["point"]:
            own = {**row, "memorized_accuracy": row["memorized_unseen_accuracy"]}
            method = row["id"].removesuffix(f"-{row['point']}")
            frontiers.setdefault(method, {}).setdefault(int(row["seed"]), []).append(own)
    return {
        method: {
            seed: at_memorized(sorted(own, key=lambda row: -row["value"]), float(point), tuple(METRICS))
            for seed, own in by_seed.items()
        }
        for method, by_seed in frontiers.items()
    }


def table(rows: list[dict], point: str, against: list[str], margin: float, read_at=at_point) -> list[str]:
    """Return the Markdown table of an operating point, the best ground truth first."""
    points = read_at(rows, point)
    title = f"memorized {point}" if point != "best" else "best ground truth with validation at most 0.01 below base"
    lines = [f"### At {title}", ""]
    references = [reference for reference in against if reference in points]
    header = ["method", *METRICS.values()]
    compared = []
    for reference in references:
        header += [
            f"Δ ground truth to `{reference}`",
            "detectable",
            "verdict",
            f"Δ validation to `{reference}`",
            "verdict",
        ]
        truth, validation = (differences(points, reference, metric, margin) for metric in COMPARED)
        compared.append({method: (*truth[method], *validation[method][::2]) for method in truth})
    lines += [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for method, by_seed in sorted(points.items(), key=lambda item: -_mean(item[1], COMPARED[0])):
        cells = [cell([values[metric] for values in by_seed.values()]) for metric in METRICS]
        cells += [text for column in compared for text in column.get(method, ("",) * 5)]
        lines.append(f"| {' | '.join([method, *cells])} |")
    fixed: dict[str, list[dict]] = {}
    for row in rows:
        if not row["point"]:
            fixed.setdefault(row["id"], []).append(row)
    for name, same in fixed.items():
        cells = [cell([row[metric] for row in same]) for metric in METRICS] + [""] * (len(header) - 1 - len(METRICS))
        lines.append(f"| *{name}* | {' | '.join(cells)} |")
    return [*lines, ""]


def trials_of(folder: Path, method: str) -> list[list[dict]]:
    """Return the trials of a method, checked, of each seed of an experiment folder that has any."""
    files = [path / "tuning" / f"{method}.jsonl" for path in seed_folders(folder).values()]
    return [read_trials(file)[1] for file in files if file.exists()]


def _mean(by_seed: dict[int, dict[str, float]], metric: str) -> float:
    known = [values[metric] for values in by_seed.values() if not math.isnan(values[metric])]
    return sum(known) / len(known) if known else -math.inf


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--against", default="scale,rewind", help="reference methods, comma-separated")
    parser.add_argument("--points", default=",".join(POINTS), help=f"of {', '.join(POINTS)}")
    parser.add_argument("--margin", type=float, default=0.02, help="difference that does not matter")
    parser.add_argument("--only", default="", help="methods to show; all by default. Holm counts these alone")
    parser.add_argument(
        "--interpolate", action="store_true", help="read each memorised accuracy off the reported points"
    )
    parser.add_argument("--figure", type=Path, help="write STEM.png, .pdf and .csv: accuracies against strength")
    parser.add_argument("--drawn", default="scale,rewind", help="methods of the figure")
    options = parser.parse_args()
    rows = read_results(options.results)
    only = [name for name in options.only.split(",") if name]
    if only:
        rows = [row for row in rows if not row["point"] or row["id"].rpartition("-")[0] in only]
    print(f"Plan {rows[0]['plan']}, {len({row['seed'] for row in rows})} seeds.\n")
    if options.figure:
        trials = {method: trials_of(options.results.parent, method) for method in options.drawn.split(",")}
        strength.draw(trials, options.figure.parent, options.figure.name)
    for point in options.points.split(","):
        read_at = interpolated if options.interpolate and point != "best" else at_point
        print("\n".join(table(rows, point, options.against.split(","), options.margin, read_at)))


if __name__ == "__main__":
    main()
