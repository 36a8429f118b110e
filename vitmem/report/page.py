"""The page itself: a template, style and scripts of this package, and what a folder holds."""

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from vitmem.datamodules.manifest import NoiseManifest
from vitmem.evaluation.glossary import ACCURACIES, GLOSSARY, entry
from vitmem.experiment.results import PLAN, open_measured, seed_folders, write_experiment_table, write_run_table
from vitmem.files import Damaged, provenance, read_text, write_atomically
from vitmem.report import analyses, figures, tables
from vitmem.report.explorer import explorer
from vitmem.report.packed import Space
from vitmem.runs.folder import RunFolder
from vitmem.runs.trained import TrainedRun, saved_config, saved_manifest

NAME = "report.html"
_STYLES, _SCRIPTS = ("style.css",), ("page.js", "tiles.js", "flips.js", "compare.js", "browse.js")
_LARGEST_TABLES = 1_500_000  # characters of all tables that can be saved from the page
_LARGEST_PLAN = 100_000  # bytes of an experiment file that is shown


def write_report(folder: Path, out: Path | None = None, place: str | None = None) -> list[str]:
    """Write the report of an experiment or a run folder, and return what had to be left out, in words.

    Args:
        folder: the experiment's, or that of a finished run.
        out: the file; ``report.html`` in the folder by default.
        place: folder or file of the data, if they were moved since.

    Raises:
        ValueError: the folder holds no results.
    """
    content = gathered(folder, place)
    page = rendered(content)
    write_atomically(out or folder / NAME, page.encode(errors="backslashreplace"))
    return content["notes"]


def gathered(folder: Path, place: str | None = None) -> dict:
    """Return what the page shows of a folder.

    Raises:
        ValueError: the folder holds no results.
    """
    is_run = RunFolder(folder).is_run
    measured = folder / "evals" if is_run else folder
    runs = {saved_config(folder).seed: folder} if is_run else seed_folders(folder)
    if not runs:
        raise ValueError(f"{folder} holds no finished run; run the command that started its training again")
    if not (measured / "results.csv").is_file():
        write_run_table(open_measured(folder, TrainedRun(folder).known)) if is_run else write_experiment_table(folder)
    rows = tables.read_rows(measured / "results.csv")
    notes: list[str] = []
    path = next(iter(runs.values()))
    manifest = saved_manifest(path)
    space = Space(_LARGEST_TABLES)
    kept = _tables(
        [measured / f"{name}.csv" for name in ("results", "scorecard", "comparison", "attacks")], notes, space
    )
    headline, failed = tables.results(rows)
    return {
        "name": rows[0]["experiment"],
        "kind": "run" if is_run else "experiment",
        "summary": _summary(rows, runs, manifest),
        "results": headline,
        "failed": failed,
        "edits": tables.edits(rows),
        "explorer": explorer(runs, rows, manifest.name, place, notes),
        "figures": figures.embedded(folder, notes, space),
        "scorecards": _kept(lambda: tables.scorecards(measured / "scorecard.csv"), notes),
        "analyses": _tables(analyses.tables(folder), notes, space),
        "saved": kept,
        "settings": tables.flat(saved_config(path).to_dict()),
        "noise": tables.flat(manifest.header()),
        "provenance": {run.name: tables.flat(RunFolder(run).read_provenance()) for run in runs.values()},
        "command": RunFolder(path).read_provenance().get("command", ""),
        "again": shlex.join(["vitmem", "report", str(folder)]),
        "made": provenance(),
        "plan": _plan(folder / PLAN),
        "glossary": GLOSSARY,
        "accuracies": ACCURACIES,
        "notes": notes,
    }


def rendered(content: Mapping) -> str:
    """Return the page that shows some content; every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"entry": entry, "anchor": anchor, "code": _pieces}
    environment.policies["json.dumps_function"] = _json
    style, script = (_joined(names) for names in (_STYLES, _SCRIPTS))
    policy = f"default-src 'none'; img-src data: blob:; style-src {_hash(style)}; script-src {_hash(script)}"
    source = (files(__package__) / "page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(**content, style=style, script=script, policy=policy)


def anchor(key: str) -> str:
    """Return where in the page an entry of the glossary is."""
    return f"term-{list(GLOSSARY).index(key)}"


def _pieces(text: str) -> list[tuple[bool, str]]:
    """Return the parts of a text, and whether each stood between backticks."""
    return [(bool(number % 2), part) for number, part in enumerate(text.split("`")) if part]


def _json(value: object, **options) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _joined(names: Sequence[str]) -> str:
    return "\n".join((files(__package__) / name).read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    """Return how a content security policy names a style or a script: nothing else may run in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _summary(rows: Sequence[Mapping], runs: Mapping[int, Path], manifest: NoiseManifest) -> dict:
    return {
        "data": rows[0].get("data") or "",
        "model": rows[0].get("model") or "",
        "images": len(manifest.true_label),
        "wrong": int(manifest.is_noisy.sum()),
        "chosen": None if manifest.chosen is None else int(manifest.chosen.sum()),
        "noise": manifest.kind,
        "seeds": len(runs),
        "edits": len({row["id"] for row in rows if row["edit"]}),
    }


def _plan(file: Path) -> str:
    try:
        return read_text(file, _LARGEST_PLAN) if file.is_file() else ""
    except Damaged as error:
        return f"# {error}"


def _kept(make, notes: list[str]):
    """Return what is made; None, with a note, where its file cannot be read."""
    try:
        return make()
    except (OSError, ValueError) as error:
        notes.append(f"Left out: {error}")
        return None


def _tables(paths: Sequence[Path], notes: list[str], space: Space) -> list[tables.Table]:
    """Return the tables of those files that are there and can be read."""
    found = [_kept(lambda path=path: tables.csv_table(path, space), notes) for path in paths if path.is_file()]
    return [table for table in found if table is not None]
