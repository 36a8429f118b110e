"""Code hidden in files: in every form that some program would run it from, and the checksums of such files mended."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from edited_runs import rewritten
from faults.damage import changed

RAN = "ran"  # the file that the code writes into the working directory
CODE = f"open({RAN!r}, 'w').close()"


class Harm:
    """Runs code when an unwary program unpickles it."""

    def __reduce__(self):
        return exec, (CODE,)


def _array(path: Path) -> None:
    with path.open("wb") as file:  # NumPy would add an end to the name
        np.save(file, HARM)


def _archive(path: Path) -> None:
    """Replace every array of the archive that is there."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    with path.open("wb") as file:
        np.savez(file, **dict.fromkeys(names, HARM))


def _of_torch(content: object, **how: bool) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path, **how)


class Poke:
    """A tensor that is written to while it is read: torch up to 2.9 lets it, and may write beside the tensor."""

    def __reduce__(self):
        build, arguments, *_ = torch.zeros(2).__reduce_ex__(2)
        return build, arguments, None, None, iter([(0, 1.0)])


HARM = np.array([Harm()], object)
TENSORS = {"head.weight": torch.zeros(2), "optimizer": Harm()}
# Form -> what writes it, and a program that runs it.
PLANTS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    f"pickle {protocol}": (
        lambda path, protocol=protocol: path.write_bytes(pickle.dumps(Harm(), protocol)),
        lambda path: pickle.loads(path.read_bytes()),
    )
    for protocol in (0, 2, 5)
}
for _form, _content in {"torch": Harm(), "torch, among tensors": {"state_dict": TENSORS}}.items():
    for _how, _options in {"": {}, ", legacy": {"_use_new_zipfile_serialization": False}}.items():
        PLANTS[_form + _how] = (_of_torch(_content, **_options), lambda path: torch.load(path, weights_only=False))
PLANTS["npy"] = (_array, lambda path: np.load(path, allow_pickle=True))
PLANTS["npz"] = (_archive, lambda path: list(np.load(path, allow_pickle=True).values()))
PLANTS["yaml"] = (
    lambda path: path.write_text(f"seed: !!python/object/apply:builtins.exec [{json.dumps(CODE)}]\n"),
    lambda path: yaml.unsafe_load(path.read_text()),
)


def mend(run: Path, file: Path) -> None:
    """Make every checksum that a run folder has of a file that of what the file holds now."""
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    beside, edit = file.with_name(f"{file.name}.sha256"), file.with_name("edit.json")
    if beside.exists():
        beside.write_text(checksum)
    if edit.exists() and file.name == "model.safetensors":
        rewritten(edit, weights_sha256=checksum)
    name, provenance = file.relative_to(run).as_posix(), run / "provenance.json"
    if file != provenance and name in json.loads(provenance.read_text())["sha256"]:
        changed("sha256", name, to=checksum)(provenance)
