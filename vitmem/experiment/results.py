"""Result rows: measured where they are missing, or gathered from the run folders that are there."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vitmem.editing import edits
from vitmem.evaluation.tables import OK, add_recovered, result_row, to_csv
from vitmem.evaluation.unlearning import add_unlearning
from vitmem.experiment.tuning import within_drop
from vitmem.files import file_digest, read_json, write_atomically
from vitmem.models.weights import read_description
from vitmem.runs.attack import stored_attack
from vitmem.runs.config import RunConfig
from vitmem.runs.contents import MEASURED
from vitmem.runs.evaluate import MEASUREMENT, evaluate, evaluation_folder, metrics_of, status_of, stored, stored_edit
from vitmem.runs.folder import RunFolder, held
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun, path_beside, saved_config

PLAN = "plan.yaml"  # copy of the experiment file, beside its results
_SEED = re.compile(r"seed(\d+)")


def evaluate_folder(run: TrainedRun, ids: Sequence[str] | None = None, *, force: bool = False) -> list[dict]:
    """Return the rows of a run folder: base, the reference models beside it, and its edits; measure what is missing.

    Args:
        run: the base model's run.
        ids: which edits; all that are there by default.
        force: evaluate again.

    Raises:
        ValueError: the folder has no edit of that id.
    """
    chosen = run.edited() if ids is None else [i for i in ids if i != BASE]
    for edit_id in (BASE, *chosen):
        evaluate(run, edit_id, force=force)
    for reference in references_beside(run).values():
        evaluate(reference, force=force)
    return with_configurations(run_rows(run, chosen))


def references_beside(run: TrainedRun) -> dict[str, TrainedRun]:
    """Return the reference models in the folders beside a base model's.

    Raises:
        ValueError: one was trained with other settings or labels.
    """
    there = {kind: folder for kind, folder in folders_beside(run.path).items() if _is_finished(folder)}
    found = {kind: TrainedRun.open(folder, known=run.known, place=run.place) for kind, folder in there.items()}
    for reference in found.values():
        run.check_beside(reference)
    return found


def folders_beside(path: Path) -> dict[str, Path]:
    """Return the folders of reference models, finished or not, beside a base model's."""
    beside = {kind: path_beside(path, kind) for kind in REFERENCES}
    return {kind: folder for kind, folder in beside.items() if folder.is_dir()}


def seed_folders(folder: Path) -> dict[int, Path]:
    """Return the base runs of an experiment folder that are finished, or that cannot be read, by seed."""
    found = {int(match[1]): path for path in folder.glob("seed*") if (match := _SEED.fullmatch(path.name))}
    return {seed: path for seed, path in sorted(found.items()) if _is_finished(path)}


def _is_finished(path: Path) -> bool:
    try:
        return RunFolder(path).is_trained
    except ValueError:  # whoever opens it says why
        return True


def check_seed(path: Path) -> None:
    """Raise ValueError unless the run in a folder ``seedK`` is that of seed K: a copy would count twice."""
    if (claimed := saved_config(path).seed) != int(_SEED.fullmatch(path.name)[1]):
        raise ValueError(f"{path} holds the run of seed {claimed}: it was renamed or copied; restore its name")


def gather(folder: Path, order: Sequence[str] = (), known: float = 0.5) -> list[dict]:
    """Return the rows of an experiment from the run folders that are there, whatever command made and measured them.

    What cannot be read, or was not measured, is left out; what cannot be read is told. ``plan`` is the start of the
    SHA-256 of the experiment file that was carried out last.

    Args:
        folder: the experiment's folder.
        order: ids that come first, in this order; others follow by name.
        known: share of the wrong labels that are known, for measurements that do not say it themselves.
    """
    rows = []
    for path in seed_folders(folder).values():
        with or_left_out():
            check_seed(path)
            run = open_measured(path, known)
            ids = sorted(run.edited(), key=lambda i: (order.index(i) if i in order else len(order), i))
            rows += run_rows(run, ids)
    plan = file_digest(folder / PLAN)[:12] if (folder / PLAN).is_file() else None
    return with_configurations([{**row, "plan": plan} for row in rows])


@contextlib.contextmanager
def or_left_out() -> Iterator[None]:
    """Say what cannot be read, and is left out of a table."""
    try:
        yield
    except ValueError as error:
        print(f"vitmem: left out of the table: {error}", file=sys.stderr, flush=True)


def open_measured(path: Path, known: float = TrainedRun.known, **options) -> TrainedRun:
    """Open a run, with the share of known wrong labels that its base model was measured with.

    Args:
        path: the run folder.
        known: that share, where the model was not measured.
        options: others of ``TrainedRun.open``.
    """
    measured = read_json(evaluation_folder(path, BASE) / MEASUREMENT, MEASURED)
    return TrainedRun.open(path, known=(measured or {}).get("known") or known, **options)


def run_rows(run: TrainedRun, ids: Iterable[str]) -> list[dict]:
    """Return the rows of a run, of the references beside it and of edits, as far as they are measured.

    An edit that cannot be read is told and left out.
    """
    identity = {"experiment": run.path.resolve().parent.name, "seed": run.config.seed}
    rows, settings = [], _settings(run)
    for name, model in {BASE: run, **references_beside(run)}.items():
        if found := stored(model):
            plain = {**identity, "id": name, "edit": "", "option": "", "value": ""}
            row = result_row(plain, metrics_of(found), None, status=status_of(found)) | _settings(model)
            rows.append(row | {"membership_auc": _membership_auc(model)})
    for edit_id in ids:
        try:
            content = run.edit(edit_id)  # reads the weights to check them: once
            found = stored_edit(run, edit_id, content)
        except ValueError as error:
            print(f"vitmem: left out of the table: {error}", file=sys.stderr, flush=True)
            continue
        if found:
            row = edit_row(identity, content, found) | settings | {"options": changed_options(content)}
            rows.append(row | {"membership_auc": _membership_auc(run, edit_id)})
    add_recovered(rows)
    add_unlearning(rows)
    return rows


def _membership_auc(run: TrainedRun, edit_id: str = BASE) -> float | None:
    """Return what attack membership's score ``loss`` reaches, if the attack of that id is stored and holds."""
    there = (evaluation_folder(run.path, edit_id) / "attacks" / "membership.json").is_file()
    found = stored_attack(run, "membership", edit_id) if there else None
    return next((row["auc"] for row in found["rows"] if row.get("score") == "loss"), None) if found else None


def _settings(run: TrainedRun) -> dict:
    """Return what a row says of its model's training; everything else under ``config``, for ``with_configurations``."""
    config, manifest = run.config.to_dict(), run.manifest
    described = read_description(run.path)
    timm = described.get("timm") or {"model_name": described["adopted"]["name"]}
    sizes = {"embed_dim": "width", "depth": "depth", "num_heads": "heads", "patch_size": "patch"}
    sizes = " ".join(f"{ours} {timm[theirs]}" for theirs, ours in sizes.items() if theirs in timm)
    return {
        "data": config["data"]["name"],
        "noise": manifest.kind,
        "noise_rate": manifest.rate,
        "noise_seed": manifest.seed,
        "model": f"{timm.get('model_name') or timm['builder']} {sizes}".strip(),
        "epochs": None if run.is_adopted else config["train"]["epochs"],
        "config": told_configuration(run.config),
    }


def told_configuration(config: RunConfig) -> dict:
    """Return by dotted name what ``with_configurations`` compares: all options but seed, reference and machine."""
    return _flat({key: value for key, value in config.to_dict().items() if key not in ("seed", "train_on", "trainer")})


def _flat(config: Mapping, prefix: str = "") -> dict:
    found = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


_SAID = ("data.name", "noise.kind", "noise.rate", "noise.seed", "train.epochs")  # by columns that are always there


def with_configurations(rows: list[dict], also: Collection[str] = ()) -> list[dict]:
    """Return rows with a column for each option of data, noise, model and training in which they differ.

    Args:
        rows: each with ``config``, options by dotted name; what has none, or an empty one, differs from no other.
        also: options that get a column even if no two rows differ.
    """
    told = [row.pop("config", None) or {} for row in rows]
    known = [config for config in told if config]
    options = dict.fromkeys(option for config in known for option in config if option not in _SAID)
    differ = [o for o in options if o in also or len({str(config.get(o)) for config in known}) > 1]
    return [row | {o: config.get(o) for o in differ if config} for row, config in zip(rows, told, strict=True)]


def changed_options(content: Mapping) -> str:
    """Return the options of an edit that are not its defaults, as ``draws=8 rho=0.9``; all of an unknown edit."""
    cls = edits().get(content["name"])
    defaults = {f.name: f.default for f in dataclasses.fields(cls)} if cls else {}
    return " ".join(f"{k}={_short(v)}" for k, v in sorted(content["options"].items()) if v != defaults.get(k, ...))


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", ",")


def edit_row(identity: Mapping, content: Mapping, measured: Mapping) -> dict:
    """Return the result row of an edit.

    Args:
        identity: experiment and seed.
        content: what ``edit.json`` holds.
        measured: what ``metrics.json`` holds.
    """
    option = content["main_option"]
    named = {"id": content["id"], "edit": content["name"], "option": option or ""}
    identity = {**identity, **named, "value": content["options"][option] if option else ""}
    facts: dict = {"status": content.get("status", OK), "track": content.get("track", "")}
    if (status := status_of(measured)) != OK:
        facts["status"] = status
    tuned = content.get("tuned")
    if tuned:
        by_trials = " (tuned)" if tuned["trials"] > 1 else ""
        facts |= {"track": facts["track"] + by_trials, "point": tuned["point"], "trials": tuned["trials"]}
        facts["kept_validation"] = within_drop(tuned["chosen"])
        facts["tuned_memorized"] = tuned["chosen"]["memorized"]
    if cost := content.get("cost"):
        facts |= {"passes": round(cost["passes"], 4), "extra_parameters": cost["extra_parameters"]}
        # Unknown with curvature from the cache, and too low where earlier trials had grown the process.
        memory = largest(found.get("extra_memory_bytes") for found in (cost, tuned or {}))
        facts["extra_memory_mib"] = None if memory is None else round(memory / 2**20, 2)
    return result_row(identity, metrics_of(measured), content["report"], **facts)


def largest(numbers: Iterable[int | None]) -> int | None:
    """Return the largest number that is known; None if none is."""
    return max((number for number in numbers if number is not None), default=None)


def cells_in(path: Path) -> list[Path]:
    """Return the experiment folders that a path names: itself, as a run folder, too, or the cells of its sweep."""
    if RunFolder(path).is_run or any(path.glob("seed*")):
        return [path]
    return sorted({seed.parent for seed in path.glob("*/seed*")}) or [path]


def runs_in(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Return the run folders that paths name, each once, and those of the paths that are experiment folders.

    Raises:
        ValueError: a path is neither a run folder nor a folder of finished ones.
    """
    runs: dict[Path, None] = {}
    experiments = []
    for path in [cell for given in paths for cell in cells_in(Path(given))]:
        inside = [] if RunFolder(path).is_run else list(seed_folders(path).values())
        for run in inside:
            check_seed(run)
        if inside:
            experiments.append(path)
        elif path.is_dir() and not RunFolder(path).is_run and any(path.glob("seed*")):
            raise ValueError(f"{path} holds no finished run; run the command that started its training again")
        runs |= dict.fromkeys(inside or [path])
    return list(runs), experiments


def write_run_table(run: TrainedRun) -> list[dict]:
    """Write ``evals/results.csv``, all rows of a run that are measured, whichever were asked for, and return them."""
    rows = with_configurations(run_rows(run, run.edited()))
    write_atomically(run.path / "evals" / "results.csv", to_csv(rows))
    return rows


def write_experiment_table(folder: Path, order: Sequence[str] = (), known: float = 0.5) -> list[dict]:
    """Write an experiment's ``results.csv`` from the run folders that are there, and return its rows.

    Two commands that end at the same time, on other seeds, take turns: the later one finds all rows.

    Args:
        folder: the experiment's folder.
        order: as for ``gather``.
        known: as for ``gather``.
    """
    with held(folder / "results", wait=True):
        rows = gather(folder, order, known)
        write_atomically(folder / "results.csv", to_csv(rows))
    return rows
