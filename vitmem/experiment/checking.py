"""What is wrong in a run or an experiment folder: every file that vitmem reads there, read as the verbs read it.

Nothing is written, and nothing is measured.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vitmem.attacks.shadows import Shadow
from vitmem.curvature.kept import digest_file, is_intact
from vitmem.experiment.results import check_seed, open_measured
from vitmem.experiment.tuning import read_trials
from vitmem.figures.tables import read_spectra
from vitmem.files import leftovers, load_json
from vitmem.models.weights import load_model, read_description
from vitmem.registry import explained
from vitmem.runs.analyse import stored_analysis
from vitmem.runs.attack import stored_attack
from vitmem.runs.contents import ANALYSIS, ATTACK, MEASURED
from vitmem.runs.evaluate import MEASUREMENT, evaluation_inputs, examples
from vitmem.runs.folder import EDIT_FILE, WEIGHTS, RunFolder, in_use
from vitmem.runs.named import read_edit
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun, path_beside, saved_config, saved_manifest


def check_experiment(path: Path, counts: Counter, *, data: bool = False) -> Iterator[str]:
    """Yield what is wrong in an experiment folder: in all its runs, and with the names of their folders.

    Args:
        path: the folder, which holds folders ``seed0`` and so on.
        counts: what was read is added here, by kind.
        data: load the data, too, and compare them.
    """
    for folder in _folders(path, "seed*"):
        yield from check_run(folder, counts, data=data)
    replaced = [left for left in sorted(path.glob(".seed*.replaced")) if not in_use(_replacing(left))]
    for left in [*leftovers(path, inside=False), *replaced]:
        yield _left(left)


def check_run(path: Path, counts: Counter, *, data: bool = False) -> Iterator[str]:
    """Yield what is wrong in a run folder, each with what to do.

    Args:
        path: the folder.
        counts: what was read is added here, by kind.
        data: load the data, too, and compare them.
    """
    user = in_use(path)
    if user:
        yield f"{path} is in use by {user}, so that files may look unfinished; check it again when that has ended"
    counts["run"] += 1
    bad = [*_damages(path)]
    yield from bad
    for file in [] if user else [*leftovers(path), *sorted(path.rglob("*.work"))]:
        yield _left(file)
    if bad:
        return
    if not RunFolder(path).is_trained:
        counts["unfinished run"] += 1
        return
    run = open_measured(path, TrainedRun(path).known)
    yield from _raised(lambda: _check_model(run.model))
    if data:
        yield from _raised(lambda: run.data)
    yield from _references(run)
    edits = [*_edits(run, counts)]
    yield from (why for _, whys in edits for why in whys)
    readable = [name for name, whys in edits if not whys]
    for folder in _folders(path / "evals"):
        yield from _evaluation(run, folder, readable, counts)
    for file in sorted(path.glob("tuning/*.jsonl")):
        counts["file of trials"] += 1
        yield from _raised(lambda file=file: read_trials(file), "the same command tunes again")
    for file in sorted(path.glob("factors/*.safetensors")):
        counts["file of curvature"] += 1
        yield from _raised(lambda file=file: _check_factors(file), "remove it: it is collected again")
    for file in sorted(path.glob("factors/*.npz")):
        counts["file of spectra"] += 1
        yield from _raised(lambda file=file: read_spectra(file))
    for file in sorted(path.glob("attacks/shadows-*/*.npz")):
        counts["shadow model"] += 1
        yield from _raised(lambda file=file: _check_shadow(file), "remove it: it is trained again")


def _left(path: Path) -> str:
    return f"{path} was left by a command that was killed; give the command again, or remove it"


def _replacing(replaced: Path) -> Path:
    """Return the run that is trained in the place of one that is kept until then."""
    return replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))


def _folders(path: Path, pattern: str = "*") -> list[Path]:
    return sorted(folder for folder in path.glob(pattern) if folder.is_dir())


def _raised(read: Callable[[], object], then: str = "") -> Iterator[str]:
    """Yield why something cannot be read, if so."""
    try:
        read()
    except (OSError, ValueError) as error:
        yield " ".join(str(error).split()) + (f"; {then}" if then else "")


def _damages(path: Path) -> Iterator[str]:
    """Yield what makes a run unusable: sealed files that were changed, settings that cannot be read."""

    def fingerprint() -> None:
        told = RunFolder(path).read_provenance().get("data_fingerprint")
        if told not in (None, saved_manifest(path).data_fingerprint):
            raise ValueError(f"{path / 'noise.json'} is of other data than provenance.json says; restore both")

    try:
        sealed = [*RunFolder(path).damages()]
    except ValueError as error:
        yield str(error)
        return
    yield from sealed
    for read in () if sealed else (lambda: saved_config(path), fingerprint):
        yield from _raised(read)
    if not sealed and path.name.removeprefix("seed").isdigit():
        yield from _raised(lambda: check_seed(path))


def _check_model(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} is not finite")


def _references(run: TrainedRun) -> Iterator[str]:
    for kind in REFERENCES:
        beside = path_beside(run.path, kind)
        if run.kind == BASE and (beside / "model.safetensors").exists():
            yield from _raised(lambda beside=beside: run.check_beside(TrainedRun.open(beside)))


def _edits(run: TrainedRun, counts: Counter) -> Iterator[tuple[str, list[str]]]:
    """Yield each edit's id, with what is wrong with it."""
    for folder in _folders(run.path / "edits"):
        if (folder / EDIT_FILE).exists():
            counts["edit"] += 1
            yield folder.name, [*_raised(lambda folder=folder: _check_edit(run, folder))]
        else:
            yield (
                folder.name,
                [f"{folder} holds no {EDIT_FILE}: its command was killed; give it again, or remove the folder"],
            )


def _check_edit(run: TrainedRun, folder: Path) -> None:
    content = run.edit(folder.name)
    with explained(content.get("provenance")):
        read_edit(content["name"], content["options"])
    if content["weights_sha256"] is not None:
        _check_model(load_model(folder, described=run.path))
        if read_description(folder) != read_description(run.path):
            raise ValueError(
                f"{folder / 'model.json'} is not the run's own, which describes the edit; replace it by a copy of that"
            )
    elif (folder / WEIGHTS).exists():
        raise ValueError(
            f"{folder / WEIGHTS} is there, and {EDIT_FILE} says that it is not stored: `vitmem clean --weights` was "
            "killed; give it again, or remove the file"
        )


def _evaluation(run: TrainedRun, folder: Path, edits: list[str], counts: Counter) -> Iterator[str]:
    edit_id = folder.name
    if edit_id != BASE and edit_id not in edits:
        if not (run.path / "edits" / edit_id / EDIT_FILE).exists():
            yield f"{folder} holds measurements of an edit that is gone; remove it"
        return
    again = f"measure it again: vitmem eval {run.path} --edits {edit_id}"
    if (folder / MEASUREMENT).exists():
        counts["measurement"] += 1
        found = [*_raised(lambda: _check_measurement(run, folder), again)]
        yield from found or _raised(lambda: examples(run.path, edit_id))
    for file in sorted(folder.glob("attacks/*.json")):
        counts["attack"] += 1
        yield from _raised(lambda file=file: _check_attack(run, file, edit_id), f"{again} --attacks ...")
    for file in sorted(folder.glob("analyses/*.json")):
        counts["analysis"] += 1
        yield from _raised(lambda file=file: _check_analysis(run, file, edit_id), f"vitmem analyse {run.path} ...")


def _check_measurement(run: TrainedRun, folder: Path) -> None:
    found = load_json(folder / MEASUREMENT, MEASURED)
    share = found.get("known") or run.share_known(folder.name)
    if found["inputs"] != evaluation_inputs(run, run.weights_digest(folder.name), share):
        raise ValueError(f"{folder / MEASUREMENT} is of other weights or data, or of another version of vitmem")


def _check_analysis(run: TrainedRun, file: Path, edit_id: str) -> None:
    load_json(file, ANALYSIS)
    if stored_analysis(run, file.stem, edit_id) is None:
        raise ValueError(f"{file} is of other weights, data or edits, of another version of vitmem, or damaged")


def _check_attack(run: TrainedRun, file: Path, edit_id: str) -> None:
    load_json(file, ATTACK)
    if stored_attack(run, file.stem, edit_id) is None:
        raise ValueError(f"{file} is of other weights, data or reference models, or of another version of vitmem")


def _check_factors(file: Path) -> None:
    if digest_file(file).exists() and not is_intact(file):
        raise ValueError(f"{file} was changed or damaged after it was written")
    try:
        with safe_open(file, framework="pt") as sums:
            key = (sums.metadata() or {}).get("key", "")
            finite = all(torch.isfinite(sums.get_tensor(name)).all() for name in sums.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())[:100]}") from error
    if not finite or not key.startswith(file.name[:16]):
        raise ValueError(f"{file} holds sums that are not finite" if not finite else f"{file} is of another name")


def _check_shadow(file: Path) -> None:
    try:
        kept = Shadow.load(file)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not np.isfinite(kept.phi).all():
        raise ValueError(f"{file} holds confidences that are not finite")
