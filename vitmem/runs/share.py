"""Finished trainings by what they depend on: an equal one, of another experiment, is taken over and not made again.

``OUT/.trained/DIGEST`` names the run folder that holds the training of a digest; whoever takes it over links its files,
so that it takes no room and either folder may be removed.
"""

import contextlib
import os
import shutil
from pathlib import Path

from vitmem.files import digest, unfinished, write_atomically
from vitmem.registry import plugins
from vitmem.runs.config import RunConfig, comparable
from vitmem.runs.folder import PROVENANCE, RunFolder
from vitmem.runs.start import make_data
from vitmem.runs.train import check_there, is_occupied

INDEX = ".trained"
_ALSO = ("epochs", "factors")  # folders beside the sealed files


def training_digest(config: RunConfig, fingerprint: str, pretrained: str | None = None, labels: str = "") -> str:
    """Return what tells a training from all others.

    Args:
        config: of the run.
        fingerprint: of its data.
        pretrained: SHA-256 of the weights that it starts from.
        labels: SHA-256 of its labels, where they are from a file.
    """
    return digest([comparable(config).to_dict(), fingerprint, pretrained, plugins(), *([labels] if labels else [])])


def remember(out: Path, its_digest: str, path: Path) -> None:
    """Record where the finished training of a digest is."""
    index = out / INDEX
    index.mkdir(parents=True, exist_ok=True)
    write_atomically(index / its_digest, os.path.relpath(path.resolve(), index.resolve()) + "\n")


def take_over(out: Path, its_digest: str, config: RunConfig, path: Path) -> Path | None:
    """Fill an absent run folder with the equal training of another one, and return that; None if there is none.

    Args:
        out: folder of all experiments.
        its_digest: as ``training_digest``.
        config: of the run.
        path: the run folder, which its caller holds.

    Raises:
        ValueError: the place of the run folder is taken by something else.
    """
    if is_occupied(path):
        return None
    with contextlib.suppress(OSError, ValueError):
        told = (out / INDEX / its_digest).read_text().strip()
        other = Path(os.path.normpath((out / INDEX).resolve() / told))
        if other == path.resolve() or not is_occupied(other):
            return None
        check_there(config, other, make_data(config))
        folder = RunFolder(other)
        if folder.is_trained and "adopted" not in folder.read_provenance():
            _link(other, path)
            return other
    return None


def _link(other: Path, path: Path) -> None:
    files = [Path(name) for name in (*RunFolder(other).read_provenance()["sha256"], PROVENANCE)]
    files += [p.relative_to(other) for name in _ALSO for p in sorted((other / name).rglob("*")) if p.is_file()]
    with unfinished(path) as new:
        for name in files:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(other / name, new / name)
            except OSError:  # on another disk, or a file system without links
                shutil.copyfile(other / name, new / name)
        if path.is_dir():
            path.rmdir()
        new.replace(path)
