"""Freeing disk in run folders: what can be made again goes, and every result still counts.

Nothing goes but regular files that vitmem has under these names, in the folder itself and not behind a link.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vitmem.curvature.kept import digest_file
from vitmem.editing import edits
from vitmem.files import file_digest, write_json
from vitmem.progress import size
from vitmem.runs.evaluate import stored_edit
from vitmem.runs.folder import EDIT_FILE, WEIGHTS
from vitmem.runs.trained import REFERENCES, TrainedRun
from vitmem.training.kept import KEPT, LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, kept_epochs

KINDS = ("checkpoints", "epochs", "weights", "factors")
_SUMS = re.compile(r"[0-9a-f]{16}(-\d+-\d+)?\.safetensors(\.sha256)?")


@dataclass
class Freed:
    """What goes of one kind, in bytes and files, and what stays, with the reason.

    Args:
        kind: one of ``KINDS``.
        size: bytes.
        files: how many.
        kept: what stays, in words.
    """

    kind: str
    size: int = 0
    files: int = 0
    kept: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return it in words."""
        return f"{self.kind}: {size(self.size)} in {self.files} file{'' if self.files == 1 else 's'}"


def clean(run: TrainedRun, kinds: Iterable[str], *, dry_run: bool = False) -> list[Freed]:
    """Remove what can be made again from a finished run folder, and return what went.

    Args:
        run: the run, which the caller holds.
        kinds: of ``KINDS``: ``checkpoints`` of its training, ``epochs`` (weights along the way), ``weights`` of its
            edits, ``factors`` of its curvature.
        dry_run: only tell.
    """
    clean_one = {"checkpoints": _checkpoints, "epochs": _epochs, "weights": _weights, "factors": _factors}
    return [clean_one[kind](run, dry_run) for kind in kinds]


def _checkpoints(run: TrainedRun, dry_run: bool) -> Freed:
    freed = Freed("checkpoints")
    files = _own(run, [run.path / name for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)])
    _remove(freed, files, dry_run)
    return freed


def _epochs(run: TrainedRun, dry_run: bool) -> Freed:
    freed = Freed("epochs")
    _remove(freed, _own(run, kept_epochs(run.path).values()), dry_run)
    return freed


def _factors(run: TrainedRun, dry_run: bool) -> Freed:
    """Remove sums, each before its checksum, which speaks for nothing else; spectra are results, and stay."""
    freed = Freed("factors")
    names = {path.name.removesuffix(".sha256") for path in run.path.glob("factors/*") if _SUMS.fullmatch(path.name)}
    sums = [run.path / "factors" / name for name in sorted(names)]
    _remove(freed, _own(run, [file for path in sums for file in (path, digest_file(path))]), dry_run)
    return freed


def _weights(run: TrainedRun, dry_run: bool) -> Freed:
    """Remove the weights of edits that were measured and can be made again.

    ``edit.json`` says it before a file goes: a command that is killed leaves an edit without weights, and perhaps a
    file that nothing reads, which the same command removes.
    """
    freed = Freed("weights")
    for edit_id in run.edited():
        folder = run.edit_folder(edit_id)
        files = _own(run, [folder / WEIGHTS, folder / "model.json"])
        if not files:
            continue
        try:
            content = run.edit(edit_id)
            _check_removable(run, content, folder)
        except ValueError as error:
            freed.kept.append(f"{edit_id}: {' '.join(str(error).split())}")
            continue
        if content["weights_sha256"] is not None and not dry_run:
            write_json(
                folder / EDIT_FILE, content | {"weights_sha256": None, "removed_sha256": content["weights_sha256"]}
            )
        _remove(freed, files, dry_run)
    return freed


def _check_removable(run: TrainedRun, content: dict, folder: Path) -> None:
    """Raise ValueError, saying why, unless the weights of an edit are those that it tells of, and are not needed."""
    if content["weights_sha256"] is None:
        left, removed = folder / WEIGHTS, content.get("removed_sha256")
        if removed is None or (left.exists() and file_digest(left) != removed):
            raise ValueError(f"{EDIT_FILE} tells of no such weights; whoever put them there knows what they are")
        return
    if edits().get(content["name"]) is None:
        raise ValueError(f"the edit {content['name']} is not installed here, so it could not be made again")
    if (to := content["options"].get("to")) in REFERENCES:
        run.reference(to)  # says it if the model is gone, without which it could not be made again
    if stored_edit(run, content["id"], content) is None:
        raise ValueError(f"it is not measured; `vitmem eval {run.path} --edits {content['id']}` does it")


def _own(run: TrainedRun, files: Iterable[Path]) -> list[Path]:
    """Return those of the files that are regular ones, and lie in the run folder itself."""
    root = run.path.resolve()
    return [file for file in files if file.is_file() and file.resolve() == root / file.relative_to(run.path)]


def _remove(freed: Freed, files: list[Path], dry_run: bool) -> None:
    for file in files:
        freed.size += file.stat().st_size
        freed.files += 1
        if not dry_run:
            file.unlink()
    for folder in {file.parent for file in files}:
        if not dry_run and folder.name in (LAST_CHECKPOINT.parent.name, KEPT) and not any(folder.iterdir()):
            folder.rmdir()
