"""What ``vitmem analyse`` left in an experiment or a run folder; all that the report knows of its files is here."""

import zipfile
from pathlib import Path

import numpy as np

from vitmem.files import Damaged
from vitmem.runs.evaluate import evaluation_folder
from vitmem.runs.trained import BASE

FOLDER = "analyses"
FIGURE = "analysis_"  # what the names of its figures start with
_INDEX = "index"


def tables(folder: Path) -> list[Path]:
    """Return the tables of analyses, one for each, by name."""
    return sorted((folder / FOLDER).glob("*.csv"))


def scores(run_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the detection scores of a run's unedited model: indices of training examples, and their scores.

    Args:
        run_path: the run folder.

    Returns:
        By ``ANALYSIS: SCORE``, N training indices and N floats, of which a higher one is more suspect.

    Raises:
        Damaged: a file cannot be read, or holds something else.
    """
    found = {}
    for file in sorted((evaluation_folder(run_path, BASE) / FOLDER).glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                index_N = arrays[_INDEX]
                named = {name: arrays[name] for name in arrays.files if name != _INDEX}
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise Damaged(f"{file} cannot be read ({error}); make the analysis again") from error
        if index_N.ndim != 1 or index_N.dtype.kind not in "iu":
            raise Damaged(f"{file} holds no training indices; make the analysis again")
        for name, score in named.items():
            if score.shape == index_N.shape and score.dtype.kind == "f":
                found[f"{file.stem}: {name}"] = (index_N.astype(np.int64), score.astype(np.float64))
    return found
