"""The models of an experiment by their ids: a run's own, its edits, and those of the runs that lie beside it."""

from pathlib import Path

from vitmem.analysis.others import SEEDS
from vitmem.files import digest
from vitmem.runs.folder import WEIGHTS, RunFolder
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun


def subject_of(run: TrainedRun, edit_id: str) -> str:
    """Return the id of a model: of a run's own its kind, else the edit's."""
    return run.kind if edit_id == BASE else edit_id


def run_of(run: TrainedRun, of: str) -> tuple[TrainedRun | None, str]:
    """Return the run that holds a model, by its id, and the model's id there; None if there is no such run.

    References lie beside the base run, in folders named after it.
    """
    own = "" if run.kind == BASE else f"-{run.kind}"
    path = run.path.resolve()
    its_id = BASE if of in (BASE, *REFERENCES) else of
    if not path.name.endswith(own):  # a reference model in a folder of another name: its base is not known
        return None, its_id
    root = path.name.removesuffix(own)
    beside = path.with_name(f"{root}-{of}" if of in REFERENCES else root)
    if beside == path:
        return run, its_id
    return (run.opened(beside) if RunFolder(beside).is_trained else None), its_id


def other_seeds(run: TrainedRun) -> dict[int, Path]:
    """Return the finished base runs of the other seeds beside a run, by seed."""
    from vitmem.figures.tables import seed_folders

    base = run_of(run, BASE)[0] or run
    here = base.path.resolve()
    return {seed: path for seed, path in seed_folders(here.parent).items() if path.resolve() != here}


def digest_of(run: TrainedRun, of: str) -> str | None:
    """Return what tells the weights of a model of the experiment from others; None if there is no such model.

    ``seeds`` stands for the base models of all other seeds.
    """
    if of == SEEDS:
        return digest({seed: weights_of(path) for seed, path in other_seeds(run).items()})
    its_run, its_id = run_of(run, of)
    there = its_run is not None and (its_id == BASE or its_id in its_run.edited())
    return its_run.weights_digest(its_id) if there else None


def weights_of(path: Path) -> str | None:
    """Return the SHA-256 of the weights of a run; None if its folder cannot be read."""
    try:
        return RunFolder(path).read_provenance()["sha256"][WEIGHTS]
    except (ValueError, KeyError, TypeError):
        return None


def belongs(run: TrainedRun, known: dict, edit_id: str) -> bool:
    """Tell whether a stored result is of this model, has all settings, and was compared with models as they are now."""
    whole = all(setting in row for row in known["rows"] for setting in known["settings"])
    same = all(weights == digest_of(run, of) for of, weights in known["references"].items())
    return known["id"] == subject_of(run, edit_id) and whole and same
