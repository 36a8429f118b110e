"""What the results of experiments/replicate.yaml say of smoothness, drawn labels, tails of features and relearning.

Each function takes the run folder of a seed, and returns numbers by name; ``replicate.py`` puts them in its table.
"""

import itertools
import statistics
from pathlib import Path

from scipy.stats import spearmanr

from vitmem.figures.tables import read_results
from vitmem.files import load_json
from vitmem.runs.contents import ATTACK

ACCURACIES = ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")
LEFT = "memorized_unseen_accuracy"
PREFIX = "r_"


def rows_of(run: Path, start: str) -> list[dict]:
    """Return the rows of a seed whose ids start so, from the highest value of their option to the lowest."""
    rows = read_results(run.parent / "results.csv")
    own = [row for row in rows if f"seed{int(row['seed'])}" == run.name and row["id"].startswith(start)]
    return sorted(own, key=lambda row: (row["id"].rpartition("-")[0], -row["value"]))


def smoothness(run: Path) -> dict[str, float]:
    """Along rho from 0.95 to 0.7 in steps of 0.01: the largest fall and rise in a step, and the share that rises."""
    rows, numbers = rows_of(run, "fine-"), {}
    for metric in ("memorized_accuracy", "ground_truth_accuracy", "validation_accuracy"):
        steps = [below[metric] - above[metric] for above, below in itertools.pairwise(rows)]
        numbers |= {
            f"{metric}, from": rows[0][metric],
            f"{metric}, to": rows[-1][metric],
            f"{metric}, largest fall": -min(steps),
            f"{metric}, largest rise": max(steps),
            f"{metric}, share of rises": sum(step > 0 for step in steps) / len(steps),
        }
    return numbers


def drawn(run: Path) -> dict[str, float]:
    """Five draws of one label for each image, rho 0.81: sd and spread over the draws."""
    rows, numbers = rows_of(run, "drawn-"), {}
    for metric in ACCURACIES:
        values = [row[metric] for row in rows]
        numbers[f"{metric}, mean"] = statistics.fmean(values)
        numbers[f"{metric}, sd over draws"] = statistics.stdev(values)
        numbers[f"{metric}, most less least"] = max(values) - min(values)
    return numbers


def tails(run: Path) -> dict[str, float]:
    """Accuracies with the leading share of feature directions, at the classifier and in every block."""
    return {
        f"{row['id'].rpartition('-')[0].removeprefix('tail_')} {row['value']:g}, {metric}": row[metric]
        for row in rows_of(run, "tail_")
        for metric in ACCURACIES
    }


def relearning(run: Path) -> dict[str, float]:
    """What fine-tuning brings back of the wrong labels that no edit knew, and whether distance or barriers tell.

    ``left`` after the edit; ``back``, the most that a step of right labels (with known wrong ones) adds to it;
    ``distance`` to the old weights over their norm; ``undone``, the share of the way back at which half is there.
    """
    numbers: dict[str, float] = {}
    columns: dict[str, list[float]] = {"distance": [], "undone": [], "back": []}
    for folder in (run, run.with_name(f"{run.name}-retrain")):
        for path in sorted(folder.glob("evals/*/attacks/relearn.json")):
            own, edit = path.parent, path.parent.parent.name
            name = "retrain" if folder != run else edit.removeprefix(PREFIX).rpartition("-")[0] or edit
            numbers |= brought_back(name, load_json(path, ATTACK)["rows"])
            if not edit.startswith(PREFIX):
                continue
            way = load_json(own / "connectivity.json", ATTACK)["report"]["paths"]["base"]
            numbers[f"{name}, distance"] = way["distance"]["total"]["relative"]
            numbers[f"{name}, undone"] = way["memory_back"]
            numbers[f"{name}, barrier of validation"] = way["barrier"]["validation_cross_entropy"]
            for column, values in columns.items():
                values.append(numbers[f"{name}, {column}" if column != "back" else f"{name}, back, retain+all"])
    for column in ("distance", "undone") if len(columns["back"]) > 2 else ():
        numbers[f"rank correlation of {column} and back"] = float(spearmanr(columns[column], columns["back"]).statistic)
    return numbers


def brought_back(name: str, rows: list[dict]) -> dict[str, float]:
    """Return what is left at the start of an attack, and the most that each arm adds to it."""
    numbers = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        numbers[f"{name}, left"] = own[0][LEFT]
        numbers[f"{name}, validation"] = own[0]["validation_accuracy"]
        numbers[f"{name}, back, {arm}"] = max(row[LEFT] for row in own) - own[0][LEFT]
        numbers[f"{name}, after, {arm}"] = own[-1][LEFT]
    return numbers
