"""Pickles that do harm when an unwary program reads them."""

import pickle
from pathlib import Path

import numpy as np
import torch


class Harm:
    """Runs a command when an unwary program unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def plant(path: Path, form: str, sign: Path) -> None:
    """Put a harmful pickle in the place of a file.

    Args:
        path: the file.
        form: how it is written: pickle, zip or legacy (of torch.save), npy or npz (arrays of objects).
        sign: the file that appears when it has done its harm.
    """
    harm = {"state_dict": {"head.weight": Harm(sign)}, "clean_label": Harm(sign)}
    with path.open("wb") as file:
        if form == "pickle":
            pickle.dump(harm, file)
        elif form == "npy":
            np.save(file, np.array([Harm(sign)]), allow_pickle=True)
        elif form == "npz":
            array = np.array([Harm(sign)])
            names = ("x_train", "y_train", "x_test", "y_test", "label", "prediction", "kept", "phi", "correct", "split")
            np.savez(file, **dict.fromkeys(names, array))
        else:
            torch.save(harm, file, _use_new_zipfile_serialization=form == "zip")
