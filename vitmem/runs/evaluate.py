"""Measuring a run's model and its edits, and storing it in the run folder."""

import dataclasses
import json

from vitmem.evaluation import metrics
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.files import digest, provenance, read_json, to_json, write_atomically
from vitmem.runs.folder import diverged, read_edit_json
from vitmem.runs.trained import BASE, TrainedRun


def measured(run: TrainedRun, edit_id: str, weights: str, share: float | None = None) -> dict | None:
    """Return what ``metrics.json`` holds if it belongs to these weights, data and known examples; the last by default.

    Args:
        run: the run.
        edit_id: which weights; ``base`` for the unedited model.
        weights: what tells them from others, as ``TrainedRun.weights_digest``.
        share: of the wrong labels that are known; the run's own by default.
    """
    found = read_json(run.path / "evals" / edit_id / "metrics.json", ("inputs", "metrics", "at_chance"))
    return found if found and found["inputs"] == evaluation_inputs(run, weights, share) else None


def evaluation_inputs(run: TrainedRun, weights: str, share: float | None = None) -> str:
    """Return what tells a measurement of some weights from those with other data or other known examples."""
    known = run.known_noisy(share).nonzero()[:, 0].tolist()
    data = {"noise": run.noise_sha256, "data": run.manifest.data_fingerprint, "known": known}
    return digest({"weights": weights, **data})


def stored(run: TrainedRun, edit_id: str = BASE) -> dict | None:
    """Return the stored measurement of the base model or an edit, if it holds; as ``evaluate`` does it."""
    if edit_id == BASE:
        return measured(run, BASE, run.weights_sha256, run.known)
    return stored_edit(run, edit_id, read_edit_json(run.path / "edits" / edit_id))


def stored_edit(run: TrainedRun, edit_id: str, content: dict) -> dict | None:
    """Return the stored measurement of an edit, as ``stored``, from what its ``edit.json`` holds."""
    if diverged(content):
        return {"id": edit_id, "metrics": {}, "at_chance": False}
    told = content.get("known")
    weights = content["weights_sha256"] or content["inputs"]
    return measured(run, edit_id, weights, told["share"] if told else run.known)


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
    if known and (not force or not known["metrics"]):
        return known
    share, weights = run.share_known(edit_id), run.weights_digest(edit_id)
    loaders = dict(zip((TRAIN, VALIDATION), run.data.val_dataloader(), strict=True))
    table = predict(run.model_of(edit_id), loaders, run.device, run.known_noisy(share))
    folder = run.path / "evals" / edit_id
    found = {name: dataclasses.asdict(metric) for name, metric in metrics.compute(table).items()}
    folder.mkdir(parents=True, exist_ok=True)
    table.save(folder / "examples.npz")
    content = {
        "id": edit_id,
        "inputs": evaluation_inputs(run, weights, share),
        "known": share,
        "metrics": found,
        "at_chance": metrics.at_chance(table),
        "provenance": provenance(),
    }
    write_atomically(folder / "metrics.json", to_json(content))
    return json.loads(to_json(content))
