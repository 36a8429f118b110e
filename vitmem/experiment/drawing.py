"""The figures of a finished experiment."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitmem.evaluation.predict import TRAIN
from vitmem.evaluation.tables import usable
from vitmem.experiment.plan import Experiment
from vitmem.figures import draw_all, sheet
from vitmem.files import Damaged
from vitmem.runs.evaluate import examples
from vitmem.runs.start import make_data
from vitmem.runs.trained import BASE


def best_edit(rows: Sequence[dict], seed: int) -> dict | None:
    """Return the edit row with the highest ground-truth accuracy among those that halve memorised accuracy.

    Edits that diverged or left a model at chance do not count.
    """
    base = next(row for row in rows if row["id"] == BASE and row["seed"] == seed)
    halved = (base["memorized_accuracy"] or 0) / 2
    edits = [row for row in rows if row["seed"] == seed and row["edit"] and usable(row)]
    edits = [row for row in edits if row["memorized_accuracy"] is not None and row["memorized_accuracy"] <= halved]
    return max(edits, key=lambda row: row["ground_truth_accuracy"], default=None)


def draw_figures(experiment: Experiment, out: Path, rows: Sequence[dict]) -> list[Path]:
    """Draw the figures of a finished experiment and return the paths of the images."""
    folder, seed = out / experiment.name, experiment.seeds[0]
    best, shown = best_edit(rows, seed), None
    if best is not None:
        try:
            shown = _sheet(experiment, folder / f"seed{seed}", best["id"])
        except Damaged as error:
            print(f"vitmem: no sheet of images is drawn: {error}", file=sys.stderr, flush=True)
    return draw_all(folder, shown)


def _sheet(experiment: Experiment, run_path: Path, edit_id: str) -> dict:
    """Return what the sheet of images before and after an edit shows."""
    data = make_data(experiment.run)
    before, after = (examples(run_path, name) for name in (BASE, edit_id))
    shown = sheet.ROWS * sheet.COLUMNS
    noisy = np.flatnonzero((before.split == TRAIN) & before.to_forget & (before.true >= 0))[:shown]
    image = data.data.train_image[before.index[noisy]]
    image = image.permute(0, 2, 3, 1).squeeze(-1).numpy()
    return {
        "image": image / 255.0 if image.dtype == np.uint8 else image,
        "given": before.given[noisy],
        "true": before.true[noisy],
        "before": before.prediction[noisy],
        "after": after.prediction[noisy],
        "class_names": data.data.class_names,
        "title_after": edit_id,
    }
