"""Result rows, and the table that a terminal shows."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vitmem.evaluation import unlearning
from vitmem.evaluation.metrics import ACCURACIES, METRICS, OK
from vitmem.evaluation.typeset import plain

CONFIGURATION = ("data", "noise", "noise_rate", "noise_seed", "model", "epochs", "options")
IDENTITY = ("experiment", "seed", "id", "edit", "option", "value")
SHOWN = {
    "memorized_accuracy": "memorized",
    "ground_truth_accuracy": "ground truth",
    "clean_train_accuracy": "clean train",
    "validation_accuracy": "validation",
}
UNSEEN = {"memorized_unseen_accuracy": "memorized unseen", "ground_truth_unseen_accuracy": "ground truth unseen"}
COST = ("passes", "extra_parameters", "extra_memory_mib", "seconds")


def columns(more: Sequence[str] = ()) -> list[str]:
    """Return the columns of ``results.csv``; further ones, of options that differ, stand beside the configuration."""
    names = list(IDENTITY)
    for metric in METRICS:
        names += [metric, *(f"{metric}_{part}" for part in ("low", "high", "n"))] if metric in ACCURACIES else [metric]
    return [
        *names,
        *unlearning.NAMES,
        "kept_fraction",
        "status",
        "track",
        "point",
        "trials",
        "kept_validation",
        "tuned_memorized",
        "plan",
        *CONFIGURATION,
        *more,
        *COST,
    ]


def result_row(identity: dict, metrics: dict[str, dict], report: dict | None, **facts: object) -> dict:
    """Return one row of ``results.csv``.

    Args:
        identity: values of ``IDENTITY``.
        metrics: by name, the fields of a ``Metric``; none for an edit that diverged.
        report: of the edit, or None for a reference model.
        facts: further columns, such as ``status`` and those of ``COST``.
    """
    row = {**identity, "status": OK, **facts}
    for name, metric in metrics.items():
        row[name] = metric["value"]
        if name in ACCURACIES:
            row |= {f"{name}_{part}": metric[part] for part in ("low", "high", "n")}
        elif name not in METRICS:  # of a plug-in: an interval where it has one
            row |= {f"{name}_{part}": metric[part] for part in ("low", "high", "n") if metric[part] is not None}
    if report is not None:
        layers = report.get("layers", [])
        pairs = sum(layer.get("pairs", 0) for layer in layers)
        if pairs:
            row["kept_fraction"] = sum(layer["pairs_kept"] for layer in layers) / pairs
        row.setdefault("seconds", round(sum(report.get("seconds", {}).values()), 3))
    return row


def check_added(names: Iterable[str]) -> None:
    """Raise ValueError if a metric of a plug-in would take the column of something else."""
    if taken := sorted(set(names) & set(columns())):
        raise ValueError(f"a plug-in's metric is called {taken[0]!r}, which is a column of results.csv; rename it")


def usable(row: dict) -> bool:
    """Tell whether a row may count as a success: the edit neither diverged nor left a model at chance."""
    return row.get("status") in (None, "", OK)


def add_recovered(rows: list[dict]) -> None:
    """Fill ``ground_truth_recovered`` where the same seed has a retrain row."""
    retrain = {row["seed"]: row.get("ground_truth_accuracy") for row in rows if row["id"] == "retrain"}
    for row in rows:
        reference = retrain.get(row["seed"])
        if reference and row.get("ground_truth_accuracy") is not None:
            row["ground_truth_recovered"] = row["ground_truth_accuracy"] / reference


def to_csv(rows: Iterable[dict]) -> str:
    """Return rows as CSV; missing values and NaN are empty cells."""
    rows, out = list(rows), io.StringIO()
    more = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in columns()]
    writer = csv.DictWriter(out, columns(more), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None or (isinstance(v, float) and math.isnan(v)) else v for k, v in row.items()})
    return out.getvalue()


class Headline(NamedTuple):
    """The table of results that people read.

    Attributes:
        header: titles of the columns; that of the ids is empty.
        body: a line of as many cells for each model or edit, in the order of the rows.
        note: what the cells are.
        failed: what is said of rows that may not count as a success.
    """

    header: list[str]
    body: list[list[str]]
    note: str
    failed: list[str]


def headline(rows: Sequence[dict]) -> Headline:
    """Return the rows as a table of text: one seed with 95 % Wilson intervals, several as mean +- sd over seeds.

    Where an edit knows wrong labels, accuracies on those that it did not know are shown too.
    """
    by_id = grouped(rows)
    seeds = sorted({row["seed"] for row in rows})
    shown = shown_metrics(rows)
    aware = len(shown) > len(SHOWN)
    sizes = {m: "/".join(str(n) for n in sorted({r.get(f"{m}_n") for r in rows if r.get(f"{m}_n")})) for m in shown}
    header = ["", *(f"{title} (n={sizes[m]})" for m, title in shown.items()), "recovered"]
    body = [[name, *(_cell(group, m) for m in shown), _recovered(group)] for name, group in by_id.items()]
    if any(row.get("track") for row in rows):
        header.append("track")
        for line, group in zip(body, by_id.values(), strict=True):
            line.append(group[0].get("track", ""))
    note = "value [95 % Wilson interval]" if len(seeds) == 1 else f"mean ± sd over {len(seeds)} seeds"
    note += "; recovered = ground truth / ground truth of retrain"
    note += "; unseen: wrong labels that no edit knew" if aware else ""
    failed = [f"{row['id']} (seed {row['seed']}): {row['status']}" for row in rows if not usable(row)]
    return Headline(header, body, note, failed)


def shown_metrics(rows: Iterable[Mapping]) -> dict[str, str]:
    """Return the metrics that tables show, with their titles: also of unseen wrong labels where an edit knows some."""
    return SHOWN | (UNSEEN if any("known" in (row.get("track") or "") for row in rows) else {})


def grouped(rows: Iterable[dict]) -> dict[str, list[dict]]:
    """Return the rows of each id, in the order of the ids."""
    by_id: dict[str, list[dict]] = {}
    for row in rows:
        by_id.setdefault(row["id"], []).append(row)
    return by_id


def terminal_table(rows: Sequence[dict]) -> str:
    """Return the rows as the text of ``headline``."""
    header, body, note, failed = headline(rows)
    return "\n".join([*plain(header, body), note, *failed])


def _cell(group: list[dict], metric: str) -> str:
    values = [row[metric] for row in group if row.get(metric) is not None]
    if not values:
        return "-"
    if len(group) == 1:
        low, high = group[0].get(f"{metric}_low"), group[0].get(f"{metric}_high")
        return f"{values[0]:.3f} [{low:.3f}, {high:.3f}]"
    return mean_sd(values)


def _recovered(group: list[dict]) -> str:
    values = [row["ground_truth_recovered"] for row in group if row.get("ground_truth_recovered") is not None]
    return "-" if not values else f"{values[0]:.3f}" if len(values) == 1 else mean_sd(values)


def mean_sd(values: Sequence[float]) -> str:
    """Return mean +- sample standard deviation; one value has no sd."""
    if len(values) == 1:
        return f"{values[0]:.3f} (1 seed)"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
