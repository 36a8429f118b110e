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
        By ``ANALYSIS: SCORE``, N training indices (all in order, where the file has none) and N floats, of which a
        higher one is more suspect.

    Raises:
        Damaged: a file cannot be read, or holds something else.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for file in sorted((evaluation_folder(run_path, BASE) / FOLDER).glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                index_N = arrays.get(_INDEX)
                named = {name: arrays[name] for name in arrays.files if name != _INDEX}
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise Damaged(f"{file} cannot be read ({error}); make the analysis again") from error
        for name, score in named.items():
            if "/" in name or score.ndim != 1 or score.dtype.kind != "f":  # for figures
                continue
            own_N = np.arange(len(score)) if index_N is None else index_N
            if own_N.shape != score.shape or own_N.dtype.kind not in "iu":
                raise Damaged(f"{file}: {name} and the training indices do not fit; make the analysis again")
            found[f"{file.stem}: {name}"] = (own_N.astype(np.int64), score.astype(np.float64))
    return found
