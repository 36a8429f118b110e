"""Attacks on the model of a run folder and on its edits: made once, stored beside their evaluation, read again."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from vitmem.attacks import attacks
from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.attempt import applied
from vitmem.editing.contract import EditDiverged, EditResult, identity
from vitmem.editing.data import EditData
from vitmem.files import cache_key, check_name, provenance, read_json, to_json, write_json
from vitmem.models.memory import ran_out
from vitmem.registry import explained, is_outdated
from vitmem.runs.beside import belongs, run_of, subject_of
from vitmem.runs.contents import ATTACK
from vitmem.runs.evaluate import evaluation_folder, evaluation_inputs
from vitmem.runs.folder import held
from vitmem.runs.fresh import recipe_of
from vitmem.runs.named import read_edit
from vitmem.runs.trained import BASE, TrainedRun
from vitmem.shapes import NAME
from vitmem.training.errors import TrainingDiverged

VERSION = 2  # of what all attacks share; raise it when they measure something else with the same options


def perform(
    run: TrainedRun,
    attack: Attack,
    name: str,
    attack_id: str,
    edit_id: str = BASE,
    *,
    force: bool = False,
    keep_going: bool = False,
) -> dict:
    """Attack the base model or an edit and store what was measured; do nothing if that was done.

    Args:
        run: the base model's run, or a reference's.
        attack: the options.
        name: registered name.
        attack_id: name of the result.
        edit_id: which weights; ``base`` for the run's own model.
        force: do it again even so.
        keep_going: if it fails, store why; it then counts as not made.

    Returns:
        What ``evals/<edit_id>/attacks/<attack_id>.json`` holds.

    Raises:
        ValueError: the attack failed.
    """
    options = json.loads(to_json(identity(attack)))
    if is_attacked(run, attack, name, attack_id, edit_id) and not force:
        return stored_attack(run, attack_id, edit_id)
    model, start = run.model_of(edit_id), time.perf_counter()
    data, asked = _attack_data(run, edit_id)
    with held(data.folder.parent):  # of the base model: what its references are attacked with lies there, too
        try:
            result = attack.apply(model, data, keyed_generator(run.config.seed, 6))
        except (ValueError, RuntimeError, EditDiverged, TrainingDiverged) as error:
            if ran_out(error):  # which says nothing of the attack
                raise
            why = " ".join(str(error).split())[:300] or type(error).__name__
            if not keep_going:
                raise ValueError(f"{run.path}: {attack_id} on {edit_id} failed: {why}") from error
            result = AttackResult([], {"failed": why})
    content = {
        "id": data.subject,
        "attack": attack_id,
        "name": name,
        "options": options,
        "settings": list(attack.settings),
        "inputs": _inputs(run, edit_id, name, options),
        "references": asked,
        "rows": result.rows,
        "report": result.report,
        "seconds": round(time.perf_counter() - start, 3),
        "provenance": provenance(),
    }
    path = _file(run, attack_id, edit_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_json(path, content)


def _attack_data(run: TrainedRun, edit_id: str) -> tuple[AttackData, dict[str, str | None]]:
    """Return what an attack may use, and a table of the weights of the models that it will have asked for."""
    asked: dict[str, str | None] = {}

    def reference(of: str) -> nn.Module | None:
        its_run, its_id = run_of(run, of)
        asked[of] = its_run.weights_digest(its_id) if its_run else None
        return its_run.model_of(its_id) if its_run else None

    base, share = run_of(run, BASE)[0] or run, run.share_known(edit_id)
    data = AttackData(
        run.data,
        subject_of(run, edit_id),
        reference,
        base.path / "attacks",
        run.config.seed,
        _repeated(run, edit_id),
        run.known_noisy(share) if share < 1 else None,
        None if base.is_adopted else recipe_of(base.config, base.data),
    )
    return data, asked


def is_attacked(run: TrainedRun, attack: Attack, name: str, attack_id: str, edit_id: str = BASE) -> bool:
    """Tell whether the result of an attack with these options is stored and still holds."""
    known = stored_attack(run, attack_id, edit_id)
    options = json.loads(to_json(identity(attack)))
    made = known is not None and "failed" not in known["report"]
    outdated = made and is_outdated("vitmem.attacks", name, known.get("provenance"))
    return made and not outdated and (known["name"], known["options"]) == (name, options)


def stored_attack(run: TrainedRun, attack_id: str, edit_id: str = BASE) -> dict | None:
    """Return the stored result of an attack, unless what it was measured on has changed since."""
    known = read_json(_file(run, attack_id, edit_id), ATTACK)
    if known is None or known["attack"] != attack_id or not belongs(run, known, edit_id):
        return None
    if known["inputs"] != _inputs(run, edit_id, known["name"], known["options"]):
        return None
    return known


def stored_attacks(run: TrainedRun, edit_id: str = BASE) -> list[dict]:
    """Return all stored results of attacks on the base model or an edit that still hold."""
    folder = evaluation_folder(run.path, edit_id) / "attacks"
    names = sorted(path.stem for path in folder.glob("*.json") if NAME.fits(path.stem))
    return [known for name in names if (known := stored_attack(run, name, edit_id))]


def _file(run: TrainedRun, attack_id: str, edit_id: str) -> Path:
    return evaluation_folder(run.path, edit_id) / "attacks" / f"{check_name('the id of an attack', attack_id)}.json"


def _inputs(run: TrainedRun, edit_id: str, name: str, options: dict) -> str:
    measured = evaluation_inputs(run, run.weights_digest(edit_id), run.share_known(edit_id))
    own = {"its_version": version} if (version := getattr(attacks().get(name), "version", 0)) else {}
    return cache_key(VERSION, measured=measured, name=name, options=options, seed=run.config.seed, **own)


def _repeated(run: TrainedRun, edit_id: str) -> Callable[[nn.Module, int], EditResult] | None:
    """Return the edit of that id as a function of a model and a round; its curvature is not kept."""
    if edit_id == BASE:
        return None
    content = run.edit(edit_id)
    with explained(content.get("provenance")):
        edit = read_edit(content["name"], content["options"])
    known = run.known_noisy(run.share_known(edit_id))

    def again(model: nn.Module, number: int) -> EditResult:
        cache = CurvatureCache(cache_gb=run.cache_gb)
        data = EditData(run.data, edit.sees, cache, known=known, initial=run.start)
        return applied(edit, model, data, keyed_generator(run.config.seed, 5, number))

    return again
