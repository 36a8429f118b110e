"""Making an edit of a run's model, and storing it in the run folder."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from vitmem.datamodules.batch import keyed_generator
from vitmem.distributed import is_main
from vitmem.editing.attempt import Attempt, attempt
from vitmem.editing.contract import Edit, completed, identity
from vitmem.editing.data import EditData
from vitmem.files import Damaged, check_name, provenance, read_json, sealed_json, to_json, write_json, write_together
from vitmem.models.weights import model_files, read_description
from vitmem.registry import is_outdated
from vitmem.runs.contents import EDIT
from vitmem.runs.evaluate import measured
from vitmem.runs.folder import EDIT_FILE, difference, diverged, weights_digest
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun


def make_edit(
    run: TrainedRun,
    edit: Edit,
    name: str,
    edit_id: str,
    *,
    force: bool = False,
    replace: bool = False,
    save: bool = True,
    cleaned: bool = False,
    tuned: dict | None = None,
    keep_going: bool = False,
) -> dict:
    """Apply an edit and store the weights; do nothing if the same edit is there.

    An edit that diverges leaves an ``edit.json`` that says so, and no weights.

    Args:
        run: whose model is edited.
        edit: the options.
        name: registered name.
        edit_id: name of the result in the folder.
        force: do it again even so.
        replace: do it again if the folder holds another edit of that id, instead of refusing.
        save: store the weights; without them, the edit must be evaluated before the next one.
        cleaned: an edit whose weights were stored, measured and cleaned away is there, too.
        tuned: how its options were chosen, for ``edit.json``.
        keep_going: treat an edit that cannot be made, for whatever reason, as one that diverged.

    Returns:
        What ``edit.json`` holds.

    Raises:
        ValueError: the edit cannot be applied to this model, or the folder holds another edit of that id.
    """
    if edit_id in (BASE, *REFERENCES):
        raise ValueError(f"--id is {edit_id!r}, which is the name of a reference row; give another")
    folder = run.path / "edits" / check_name("--id", edit_id)
    inputs = edit_inputs(run, edit, name)
    there = None if force else _there(run, folder, name)
    if there is not None and there["inputs"] == inputs and is_finished(run, there, save=save, cleaned=cleaned):
        if tuned is not None and there.get("tuned") != tuned:  # the same choice, made in another way
            return write_json(folder / EDIT_FILE, {**there, "tuned": tuned})
        return there
    edit.check(run.model)
    if there is not None and there["inputs"] != inputs and not replace:
        raise ValueError(
            f"{folder} holds an edit with other options ({_difference(run, edit, name, there)}); give another --id, or "
            "--force to replace it"
        )
    made = None if force else dict(run.latest.values()).get(inputs)
    if made is None:
        data = EditData(lambda: run.data, edit.sees, run.cache, run.known_noisy(), run.start)
        made = attempt(edit, run.model, data, keyed_generator(run.config.seed, 5), keep_going=keep_going)
    run.latest.clear()
    if made.result is not None:
        run.latest[edit_id] = (inputs, made)
    if not is_main():
        return {"id": edit_id, "status": made.status, "report": _report(made)}
    return _store(run, edit, name, folder, inputs, made, save=save, tuned=tuned)


def _there(run: TrainedRun, folder: Path, name: str) -> dict | None:
    """Return what the ``edit.json`` of a folder holds; None if there is none, or it is damaged or outdated."""
    if not (folder / EDIT_FILE).exists():
        return None
    try:
        there = run.edit(folder.name)
        if there["name"] != name or not is_outdated("vitmem.edits", name, there.get("provenance")):
            return there
        print(f"{folder} was made by another version of the plug-in; it is made again", flush=True)
        return None
    except Damaged as error:
        print(f"{error}; it is made again", flush=True)
        return None


def _difference(run: TrainedRun, edit: Edit, name: str, there: dict) -> str:
    old = {"edit": there["name"], **there["options"]}
    new = {"edit": name, **dataclasses.asdict(edit)}
    return difference(old, new) or f"known: {run.known:g} asked for"


def edit_inputs(run: TrainedRun, edit: Edit, name: str) -> str:
    """Return what tells an edit of this run from those with other options, weights, labels or known examples."""
    return run.edit_inputs(name, identity(edit), run.known if "forget" in edit.sees else None)


def is_finished(run: TrainedRun, content: dict, *, save: bool = True, cleaned: bool = False) -> bool:
    """Tell whether an edit need not be made again: it has weights, or diverged, or was measured and none are wanted.

    Args:
        run: the run.
        content: what ``edit.json`` holds.
        save: weights are wanted.
        cleaned: but not those that were cleaned away.
    """
    finished = content["weights_sha256"] is not None or diverged(content)
    wanted = save and not (cleaned and content.get("removed_sha256"))
    return finished or (not wanted and measured(run, content["id"], weights_digest(content)) is not None)


def free_id(run: TrainedRun, edit: Edit, name: str) -> str:
    """Return the name of a result: the edit's with its main option, and what differs from a result that has that name.

    Of a result that is there with the same options, its name.
    """
    folder, shown = run.path / "edits", [edit.main_option] if edit.main_option else []
    while True:
        edit_id = result_id(name, edit, shown)
        there = read_json(folder / edit_id / EDIT_FILE, EDIT)
        if there is None or there["inputs"] == edit_inputs(run, edit, name):
            return edit_id
        options, old = json.loads(to_json(dataclasses.asdict(edit))), completed(type(edit), there["options"])
        differ = [o for o, value in options.items() if old.get(o) != value and o not in shown]
        if not differ:  # known examples, say: whoever asks must give a name
            return edit_id
        shown += differ


def result_id(prefix: str, edit: Edit, shown: Sequence[str] = ()) -> str:
    """Return the name of a result: a prefix with the shown options, or with the edit's main option."""
    options = shown or ((edit.main_option,) if edit.main_option else ())
    return "-".join([cleaned(prefix), *(labelled(option, getattr(edit, option)) for option in options)])


def labelled(option: str, value: object) -> str:
    """Return an option with its value as part of a name, such as ``rho0.9``."""
    return cleaned(f"{option}{value:g}" if isinstance(value, float) else f"{option}{value}")


def cleaned(text: str) -> str:
    """Return a text with nothing in it that a name must not have."""
    return re.sub(r"[^\w.+-]", "_", text)


def _report(made: Attempt) -> dict:
    return {"layers": [], "seconds": {"apply": made.seconds}} if made.result is None else made.result.report


def _store(
    run: TrainedRun, edit: Edit, name: str, folder: Path, inputs: str, made: Attempt, *, save: bool, tuned: dict | None
) -> dict:
    """Write the weights and ``edit.json``, which makes them valid, and return what it holds."""
    report, known = _report(made), run.known_noisy()
    first = read_json(folder / EDIT_FILE, EDIT)
    files: dict[str, str | bytes | None] = {"model.safetensors": None, "model.json": None}
    if save and made.result is not None:
        files = dict(model_files(made.result.state_dict, read_description(run.path)))
    weights = files["model.safetensors"]
    cost = {
        "passes": made.passes,
        "seconds": sum(report.get("seconds", {"apply": made.seconds}).values()),
        "extra_memory_bytes": made.extra_memory,
        "extra_parameters": report.get("extra_parameters"),
    }
    if first and first["inputs"] == inputs and first.get("cost"):  # the same weights, made again
        cost = first["cost"]
    content = {
        "id": folder.name,
        "name": name,
        "main_option": edit.main_option,
        "options": dataclasses.asdict(edit),
        "sees": sorted(edit.sees),
        "track": edit.track,
        "known": {"share": run.known, "examples": int(known.sum())} if "forget" in edit.sees else None,
        "tuned": tuned,
        "status": made.status,
        "inputs": inputs,
        "report": report,
        "cost": cost,
        "weights_sha256": None if weights is None else hashlib.sha256(weights).hexdigest(),
        "provenance": provenance(),
    }
    write_together(folder, {**files, EDIT_FILE: sealed_json(content)})
    return json.loads(to_json(content))  # as a later command will read it
