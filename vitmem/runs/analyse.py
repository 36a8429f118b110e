"""Analyses of the model of a run folder and of its edits: made once, stored beside their evaluation, read again."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vitmem.analysis import analyses
from vitmem.analysis.contract import EVERYTHING, Analysis, AnalysisData, MadeEdit
from vitmem.analysis.others import SEEDS
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.evaluation.predict import ExampleTable
from vitmem.evaluation.tables import OK
from vitmem.files import (
    Damaged,
    cache_key,
    check_name,
    file_digest,
    provenance,
    read_json,
    sealed_json,
    to_json,
    write_together,
)
from vitmem.registry import is_outdated
from vitmem.runs.beside import belongs, digest_of, other_seeds, run_of, subject_of
from vitmem.runs.contents import ANALYSIS
from vitmem.runs.evaluate import evaluate, evaluation_folder, evaluation_inputs, examples, status_of, stored
from vitmem.runs.folder import RunFolder, diverged, held
from vitmem.runs.trained import BASE, TrainedRun
from vitmem.shapes import NAME
from vitmem.training.kept import kept_epochs, read_losses

VERSION = 1  # of what all analyses share; raise it when they find something else with the same options
_ARRAYS = "arrays/"  # what names of arrays other than scores begin with


def perform(
    run: TrainedRun, analysis: Analysis, name: str, analysis_id: str, edit_id: str = BASE, *, force: bool = False
) -> dict:
    """Analyse the base model or an edit and store what was found; do nothing if that was done.

    Args:
        run: the base model's run, or a reference's.
        analysis: the options.
        name: registered name.
        analysis_id: name of the result.
        edit_id: which weights; ``base`` for the run's own model.
        force: do it again even so.

    Returns:
        What ``evals/<edit_id>/analyses/<analysis_id>.json`` holds.

    Raises:
        ValueError: the analysis cannot be made of this model.
    """
    if is_analysed(run, analysis, name, analysis_id, edit_id) and not force:
        return stored_analysis(run, analysis_id, edit_id)
    model, start = run.model_of(edit_id), time.perf_counter()
    asked: dict[str, str | None] = {}
    data, listed = analysis_data(run, edit_id, asked)
    with held((run_of(run, BASE)[0] or run).path):
        result = analysis.apply(model, data, keyed_generator(run.config.seed, 12))
    path = _file(run, analysis_id, edit_id)
    arrays = {name: value.float().numpy() for name, value in result.scores.items()}
    arrays |= {_ARRAYS + name: value.cpu().numpy() for name, value in result.arrays.items()}
    packed = packed_arrays(arrays)
    options = json.loads(to_json(dataclasses.asdict(analysis)))
    content = {
        "id": data.subject,
        "analysis": analysis_id,
        "name": name,
        "options": options,
        "settings": list(analysis.settings),
        "inputs": _inputs(run, edit_id, name, options),
        "references": asked,
        "edits": listed[-1] if listed else None,
        "rows": result.rows,
        "report": result.report,
        "seconds": round(time.perf_counter() - start, 3),
        "scores_sha256": hashlib.sha256(packed).hexdigest() if arrays else None,
        "provenance": provenance(),
    }
    files = {f"{analysis_id}.npz": packed if arrays else None, path.name: sealed_json(content)}
    write_together(path.parent, files)
    return json.loads(to_json(content))


def analysis_data(run: TrainedRun, edit_id: str, asked: dict[str, str | None]) -> tuple[AnalysisData, list[list[str]]]:
    """Return what an analysis may look at.

    Args:
        run: the run.
        edit_id: which weights.
        asked: is filled with the weights of the other models that the analysis asks for.

    Returns:
        The data, and a list to which the ids of the edits are added when they are asked for.
    """
    base = run_of(run, BASE)[0] or run
    listed: list[list[str]] = []

    def reference(of: str) -> nn.Module | None:
        its_run, its_id = run_of(run, of)
        if its_run is None or (its_id != BASE and not its_run.has_weights(its_id)):
            return None
        asked[of] = digest_of(run, of)
        return its_run.model_of(its_id)

    @functools.cache  # which files are whole is told once for each model
    def table(of: str) -> ExampleTable | None:
        its_run, its_id = run_of(run, of)
        if its_run is None:
            return None
        if stored(its_run, its_id) is None and not its_run.has_weights(its_id):
            return None
        asked[of] = digest_of(run, of)
        evaluate(its_run, its_id)
        return examples(its_run.path, its_id)

    @functools.cache
    def edits() -> dict[str, MadeEdit]:
        found = usable_edits(base)
        listed.append(sorted(found))
        return found

    def seeds() -> dict[int, nn.Module]:
        asked[SEEDS] = digest_of(run, SEEDS)
        return _other_seeds(base)

    data = AnalysisData(
        data=run.data,
        subject=subject_of(run, edit_id),
        seed=run.config.seed,
        seen=EditData(run.data, EVERYTHING, run.cache, run.data.train_examples.to_forget, base.start),
        reference=reference,
        table=table,
        edits=edits,
        losses=lambda: read_losses(base.path),
        epochs=lambda: {epoch: _reader(path) for epoch, path in kept_epochs(base.path).items()},
        seeds=seeds,
        trained=None if base.is_adopted else _epochs_of(run),
    )
    return data, listed


def usable_edits(base: TrainedRun) -> dict[str, MadeEdit]:
    """Return the edits that were measured and neither diverged nor left a model at chance."""
    found = {}
    for edit_id in base.edited():
        content = base.edit(edit_id)
        measured = None if diverged(content) else stored(base, edit_id)
        if measured is not None and status_of(measured) == OK:
            option = content["main_option"] or ""
            value = content["options"][option] if option else float("nan")
            number = float(value) if isinstance(value, (int, float)) else float("nan")
            found[edit_id] = MadeEdit(content["name"], option, number, frozenset(content.get("sees", ())))
    return found


def _epochs_of(run: TrainedRun) -> int:
    """Return after how many epochs the weights of a run are those that training ended with."""
    last = RunFolder(run.path).read_provenance().get("epoch")  # counted from 0; the best one, where it was chosen
    return last + 1 if isinstance(last, int) else run.config.train.epochs


def _reader(path: Path) -> Callable[[], dict[str, Tensor]]:
    def read() -> dict[str, Tensor]:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise Damaged(f"{path} cannot be read ({error}); remove it, or train again with --force") from error

    return read


def _other_seeds(base: TrainedRun) -> dict[int, nn.Module]:
    """Return the base models of the other finished seeds beside a run, by seed."""
    found = {}
    for seed, path in other_seeds(base).items():
        with contextlib.suppress(ValueError):  # damaged
            found[seed] = TrainedRun.open(path, place=base.place).model
    return found


def is_analysed(run: TrainedRun, analysis: Analysis, name: str, analysis_id: str, edit_id: str = BASE) -> bool:
    """Tell whether the result of an analysis with these options is stored and still holds."""
    known = stored_analysis(run, analysis_id, edit_id)
    options = json.loads(to_json(dataclasses.asdict(analysis)))
    if known is None or is_outdated("vitmem.analyses", name, known.get("provenance")):
        return False
    return (known["name"], known["options"]) == (name, options)


def stored_analysis(run: TrainedRun, analysis_id: str, edit_id: str = BASE) -> dict | None:
    """Return the stored result of an analysis, unless what it was found on, or which edits there are, has changed."""
    path = _file(run, analysis_id, edit_id)
    known = read_json(path, ANALYSIS)
    if known is None or known["analysis"] != analysis_id or not belongs(run, known, edit_id):
        return None
    if known["inputs"] != _inputs(run, edit_id, known["name"], known["options"]):
        return None
    if known["edits"] is not None and known["edits"] != sorted(usable_edits(run_of(run, BASE)[0] or run)):
        return None
    scores = path.with_suffix(".npz")
    if known["scores_sha256"] and not (scores.is_file() and file_digest(scores) == known["scores_sha256"]):
        return None
    return known


def stored_analyses(run: TrainedRun, edit_id: str = BASE) -> list[dict]:
    """Return all stored results of analyses of the base model or an edit that still hold."""
    folder = evaluation_folder(run.path, edit_id) / "analyses"
    names = sorted(path.stem for path in folder.glob("*.json") if NAME.fits(path.stem))
    return [known for name in names if (known := stored_analysis(run, name, edit_id))]


def stored_scores(run: TrainedRun, analysis_id: str, edit_id: str = BASE) -> dict[str, np.ndarray]:
    """Return the scores N of the training examples that an analysis stored, by name; NaN where there is none.

    Raises:
        Damaged: the file cannot be read.
    """
    return _read(_file(run, analysis_id, edit_id).with_suffix(".npz"), lambda name: not name.startswith(_ARRAYS))


def stored_arrays(run: TrainedRun, analysis_id: str, edit_id: str = BASE) -> dict[str, np.ndarray]:
    """Return what an analysis stored for its figure besides rows and scores, by name; nothing where it stored none.

    Raises:
        Damaged: the file cannot be read.
    """
    path = _file(run, analysis_id, edit_id).with_suffix(".npz")
    found = _read(path, lambda name: name.startswith(_ARRAYS)) if path.is_file() else {}
    return {name.removeprefix(_ARRAYS): array for name, array in found.items()}


def _read(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if wanted(name)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Damaged(f"{path} cannot be read ({error}); analyse again with --force") from error


def _file(run: TrainedRun, analysis_id: str, edit_id: str) -> Path:
    return (
        evaluation_folder(run.path, edit_id) / "analyses" / f"{check_name('the id of an analysis', analysis_id)}.json"
    )


def _inputs(run: TrainedRun, edit_id: str, name: str, options: dict) -> str:
    measured = evaluation_inputs(run, run.weights_digest(edit_id), run.share_known(edit_id))
    own = {"its_version": version} if (version := getattr(analyses().get(name), "version", 0)) else {}
    return cache_key(VERSION, measured=measured, name=name, options=options, seed=run.config.seed, **own)


def packed_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as an NPZ; the same ones give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
