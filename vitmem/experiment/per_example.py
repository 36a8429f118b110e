"""``classes.csv`` and ``flips.csv``: accuracies class by class, and what each model says about each wrong label."""

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vitmem.evaluation.metrics import remembered
from vitmem.evaluation.per_class import BY, PARTS, class_rows, flip_rows
from vitmem.evaluation.predict import ExampleTable
from vitmem.files import Damaged, write_atomically
from vitmem.models.weights import read_description
from vitmem.runs.evaluate import examples_of
from vitmem.runs.trained import saved_manifest

MOST_EDITS, MOST_ROWS = 200, 100_000  # of flips.csv, which shall open in a spreadsheet
CLASS_COLUMNS = ("experiment", "seed", "id", "by", "class", "class_name")
FLIP_COLUMNS = ("experiment", "seed", "index", "file", "given_name", "true_name", "given", "true")
CUT = "cut"  # further column of flips.csv, whose first cell says what was left out


def write_per_example(folder: Path, runs: Mapping[int, Path], rows: Sequence[Mapping]) -> list[Path]:
    """Write ``classes.csv`` and ``flips.csv`` from what evaluations have stored, and return their paths.

    What cannot be read is told.

    ``flips.csv`` holds at most ``MOST_EDITS`` edits, the first of the table, and ``MOST_ROWS`` rows, as many of each
    seed, those of lowest index; what is left out stands in its column ``cut``, and is printed.

    Args:
        folder: where to.
        runs: folder of the base model, by seed.
        rows: of the results table: which models, in their order.
    """
    rows = [row for row in rows if row["seed"] in runs]
    ids = list(dict.fromkeys(row["id"] for row in rows))
    edits = list(dict.fromkeys(row["id"] for row in rows if row["edit"]))
    kept = [name for name in ids if name not in edits[MOST_EDITS:]]
    classes, flips, whole = [], [], 0
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own, path = [row for row in rows if row["seed"] == seed], runs[seed]
        identity = {"experiment": own[0]["experiment"], "seed": seed}
        names = _class_names(path)
        said = []
        for name, table in _tables(path, [row["id"] for row in own]):
            classes += [{**identity, "id": name, **row} for row in class_rows(table, names)]
            said += [(name, table.by_index(remembered(table)))] if name in kept else []
        found = flip_rows(said, saved_manifest(path).name)
        whole += len(found)
        named = {number: name for number, name in enumerate(names)}
        for row in found[: MOST_ROWS // len(runs)]:
            spelled = {f"{label}_name": named.get(row[label], "") for label in ("given", "true")}
            flips.append({**identity, **spelled, **row})
    metrics = [metric if part == "value" else f"{metric}_{part}" for metric in BY["true"] for part in PARTS]
    write_atomically(folder / "classes.csv", _csv([*CLASS_COLUMNS, *metrics], classes))
    told = _what_is_cut(len(edits), whole, len(flips))
    if told and flips:
        flips[0][CUT] = told
        print(f"vitmem: {folder / 'flips.csv'}: {told}", file=sys.stderr, flush=True)
    header = [*FLIP_COLUMNS, *([CUT] if told else []), *kept]
    if not any(row["file"] for row in flips):
        header.remove("file")
    write_atomically(folder / "flips.csv", _csv(header, flips))
    return [folder / "classes.csv", folder / "flips.csv"]


def _tables(path: Path, ids: Iterable[str]) -> Iterator[tuple[str, ExampleTable]]:
    """Yield ids with what the models say about every example, as far as it is stored."""
    for name in ids:
        try:
            yield name, examples_of(path, name)
        except Damaged as error:
            print(f"vitmem: left out of classes.csv and flips.csv: {error}", file=sys.stderr, flush=True)


def _class_names(path: Path) -> list[str]:
    known = saved_manifest(path).num_classes
    names = [str(name) for name in read_description(path).get("classes", ())]
    return names if len(names) == known else [str(number) for number in range(known)]


def _what_is_cut(edits: int, whole: int, rows: int) -> str:
    parts = [f"the first {MOST_EDITS} of {edits} edits"] if edits > MOST_EDITS else []
    parts += [f"{rows:,} of {whole:,} rows, those of lowest index in each seed"] if rows < whole else []
    return f"holds {', and '.join(parts)}" if parts else ""


def _csv(header: Sequence[str], rows: Iterable[Mapping]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return out.getvalue()
