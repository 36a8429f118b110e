"""The figures of a finished experiment."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitmem.evaluation.predict import TRAIN
from vitmem.evaluation.tables import usable
from vitmem.experiment.plan import Experiment
from vitmem.experiment.results import seed_folders
from vitmem.figures import SHEET, draw_all, figures, sheet
from vitmem.figures.style import settings
from vitmem.figures.tables import read_results
from vitmem.figures.words import words
from vitmem.runs.evaluate import examples
from vitmem.runs.trained import BASE, TrainedRun


def best_edit(rows: Sequence[dict], seed: int) -> dict | None:
    """Return the edit row with the highest ground-truth accuracy among those that halve memorised accuracy.

    Edits that diverged or left a model at chance do not count.
    """
    base = next((row for row in rows if row["id"] == BASE and row["seed"] == seed), None)
    halved = ((base or {}).get("memorized_accuracy") or 0) / 2
    edits = [row for row in rows if row["seed"] == seed and row["edit"] and usable(row)]
    edits = [row for row in edits if row["memorized_accuracy"] is not None and row["memorized_accuracy"] <= halved]
    return max(edits, key=lambda row: row["ground_truth_accuracy"], default=None)


def draw_figures(experiment: Experiment, out: Path, rows: Sequence[dict]) -> list[Path]:
    """Draw the figures of a finished experiment and return the paths of the images."""
    folder = out / experiment.name
    return draw_all(folder, _sheet_or_why(folder, experiment.seeds[0], rows))


def draw_again(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Draw the figures of a folder of results, as ``style.written_as`` says, and return the paths of the images.

    Args:
        folder: of an experiment, with or without its run folders.
        only: names of the figures to draw; all by default.

    Raises:
        ValueError: there is nothing to draw, or no figure of that name.
    """
    known = [*figures(), SHEET]
    if wrong := [name for name in only if name not in known]:
        raise ValueError(f"no figure is called {wrong[0]!r}; give some of {', '.join(known)}")
    results, seeds = folder / "results.csv", seed_folders(folder)
    rows = read_results(results) if results.is_file() else []
    asked = rows and seeds and (not only or SHEET in only)
    paths = draw_all(folder, _sheet_or_why(folder, min(seeds), rows) if asked else None, only)
    if not paths:
        what = f"none of {', '.join(only)}" if only else "nothing"
        raise ValueError(
            f"{folder} has {what} to draw; give the folder of an experiment, with its results.csv, attacks.csv, "
            "comparison.csv or scorecard.csv, or its folders seed0 and so on"
        )
    return paths


def _sheet_or_why(folder: Path, seed: int, rows: Sequence[dict]) -> dict | None:
    """Return what the sheet of images shows; None, and say why, where there is none."""
    try:
        best = best_edit(rows, seed)
        return _sheet(TrainedRun.open(folder / f"seed{seed}"), best) if best else None
    except (ValueError, OSError) as error:
        print(f"vitmem: no sheet of images is drawn: {error}", file=sys.stderr, flush=True)
        return None


def _sheet(run: TrainedRun, best: dict) -> dict:
    """Return what the sheet of images before and after an edit shows."""
    before, after = (examples(run.path, name) for name in (BASE, best["id"]))
    shown = sheet.ROWS * sheet.COLUMNS
    noisy = np.flatnonzero((before.split == TRAIN) & before.to_forget & (before.true >= 0))[:shown]
    data = run.data.data
    image = data.train_image[before.index[noisy]]
    image = image.permute(0, 2, 3, 1).squeeze(-1).numpy()
    return {
        "image": image / 255.0 if image.dtype == np.uint8 else image,
        "given": before.given[noisy],
        "true": before.true[noisy],
        "before": before.prediction[noisy],
        "after": after.prediction[noisy],
        "class_names": data.class_names,
        "title_after": words(best, settings().labels),
    }
