"""Measuring a run's model and its edits, and storing it in the run folder."""

import contextlib
import dataclasses
import zipfile
from pathlib import Path

from vitmem.datamodules.manifest import TEST_FINGERPRINT
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import ExampleTable, predict
from vitmem.evaluation.tables import check_added
from vitmem.files import Damaged, cache_key, check_name, file_digest, load_json, provenance, read_json, write_json
from vitmem.runs.contents import MEASURED
from vitmem.runs.folder import diverged, weights_digest
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun, path_beside

VERSION = 1  # of what is measured; raise it when a metric or the pass over the data changes: all is measured again
MEASUREMENT, EXAMPLES = "metrics.json", "examples.npz"


def evaluation_folder(run_path: Path, edit_id: str) -> Path:
    """Return where the measurements of the base model or an edit lie.

    Raises:
        ValueError: the id is no name.
    """
    folder = run_path / "evals"
    return folder / check_name(f"an edit in {folder}", edit_id)


def measured(run: TrainedRun, edit_id: str, weights: str, share: float | None = None) -> dict | None:
    """Return what ``metrics.json`` holds if it belongs to these weights, data and known examples; the last by default.

    Args:
        run: the run.
        edit_id: which weights; ``base`` for the unedited model.
        weights: what tells them from others, as ``TrainedRun.weights_digest``.
        share: of the wrong labels that are known; the run's own by default.
    """
    found = read_json(evaluation_folder(run.path, edit_id) / MEASUREMENT, MEASURED)
    return found if found and found["inputs"] == evaluation_inputs(run, weights, share) else None


def evaluation_inputs(run: TrainedRun, weights: str, share: float | None = None) -> str:
    """Return what tells a measurement of some weights from those with other data, known examples or code."""
    known = run.known_noisy(share).nonzero()[:, 0].tolist()
    data = {"noise": run.noise_sha256, "data": run.manifest.data_fingerprint, "known": known}
    if test := run.manifest.details.get(TEST_FINGERPRINT):
        data["test"] = test
    return cache_key(VERSION, weights=weights, **data)


def stored(run: TrainedRun, edit_id: str = BASE) -> dict | None:
    """Return the stored measurement of the base model or an edit, if it holds; as ``evaluate`` does it."""
    if edit_id == BASE:
        return measured(run, BASE, run.weights_sha256, run.known)
    return stored_edit(run, edit_id, run.edit(edit_id))


def stored_edit(run: TrainedRun, edit_id: str, content: dict) -> dict | None:
    """Return the stored measurement of an edit, as ``stored``, from what its ``edit.json`` holds."""
    if diverged(content):
        return {"id": edit_id, "metrics": {}, "at_chance": False}
    told = content.get("known")
    return measured(run, edit_id, weights_digest(content), told["share"] if told else run.known)


def evaluate(run: TrainedRun, edit_id: str = BASE, *, force: bool = False) -> dict:
    """Evaluate the base model or an edit; do nothing if that was done.

    Args:
        run: the run.
        edit_id: which weights; ``base`` for the unedited model.
        force: do it again even so.

    Returns:
        What ``metrics.json`` holds; no metrics for an edit that diverged.
    """
    known = stored(run, edit_id)
    folder = evaluation_folder(run.path, edit_id)
    check_added(metrics.added())
    if known and (not force or not known["metrics"]):
        if not known["metrics"] or metrics.has_added(known.get("added", {})):
            return known
        with contextlib.suppress(Damaged):  # what the model said is there
            return _with_added(folder, known, examples(run.path, edit_id))
    if (folder / MEASUREMENT).is_dir():  # before anything is written
        raise ValueError(f"{folder / MEASUREMENT} is a folder, not a file of vitmem's; remove it")
    share, weights = run.share_known(edit_id), run.weights_digest(edit_id)
    loaders = run.data.evaluation_loaders()
    table = predict(run.model_of(edit_id), loaders, run.device, run.known_noisy(share))
    found = {name: dataclasses.asdict(metric) for name, metric in metrics.compute(table).items()}
    folder.mkdir(parents=True, exist_ok=True)
    table.save(folder / EXAMPLES)
    content = {
        "id": edit_id,
        "inputs": evaluation_inputs(run, weights, share),
        "known": share,
        "metrics": found,
        **({"added": added} if (added := metrics.compute_added(table)) else {}),
        "at_chance": metrics.at_chance(table),
        "status": metrics.status(table),
        "examples_sha256": file_digest(folder / EXAMPLES),
        "provenance": provenance(),
    }
    return write_json(folder / MEASUREMENT, content)


def _with_added(folder: Path, known: dict, table: ExampleTable) -> dict:
    """Store the metrics of plug-ins beside a measurement that was made without them, or by other versions of them."""
    added = {**known.get("added", {}), **metrics.compute_added(table)}
    return write_json(folder / MEASUREMENT, {**known, "added": added, "provenance": provenance()})


def examples(run_path: Path, edit_id: str = BASE) -> ExampleTable:
    """Return what the base model or an edit says about every example, as it was measured last.

    Raises:
        Damaged: it was not measured, or the file was changed since.
    """
    folder = evaluation_folder(run_path, edit_id)
    expected = load_json(folder / MEASUREMENT, MEASURED).get("examples_sha256")
    file = folder / EXAMPLES
    again = f"measure it again: vitmem eval {run_path} --edits {edit_id} --force"
    if not file.is_file() or (expected is not None and file_digest(file) != expected):
        raise Damaged(f"{file} is missing, or was changed or damaged after it was written; {again}")
    try:
        return ExampleTable.load(file)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:  # one without a checksum
        raise Damaged(f"{file} cannot be read ({error}); {again}") from error


def examples_of(base_path: Path, model_id: str) -> ExampleTable:
    """Return what a model of an experiment says about every example, as ``examples``.

    Args:
        base_path: run folder of the base model.
        model_id: ``base``, a reference beside it, or an edit.
    """
    if model_id in REFERENCES:
        return examples(path_beside(base_path, model_id))
    return examples(base_path, model_id)


def metrics_of(found: dict) -> dict[str, dict]:
    """Return all metrics of a measurement, ours and those of plug-ins, by name: the fields of ``Metric``.

    Args:
        found: what ``metrics.json`` holds.
    """
    return {**found.get("added", {}), **found["metrics"]}


def status_of(found: dict) -> str:
    """Return the status of the model that a measurement is of, as ``metrics.status``.

    Args:
        found: what ``metrics.json`` holds.
    """
    return found.get("status") or (metrics.AT_CHANCE if found["at_chance"] else metrics.OK)  # there was none at first
