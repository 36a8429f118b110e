"""Methods side by side at their operating points: mean and sd over seeds, known and unseen apart, with their cost."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence

from vitmem.evaluation.statistics import paired_difference
from vitmem.evaluation.tables import COST, usable

TITLES = {
    "best": "Best ground truth with validation at most 0.01 below the unedited model's, on the half that tuning saw",
    "at0.2": "Memorised accuracy nearest 0.2, as tuning found it",
    "at0.05": "Memorised accuracy nearest 0.05, as tuning found it",
}
MEASURED = {
    "memorized_known_accuracy": "memorized known",
    "memorized_unseen_accuracy": "memorized unseen",
    "ground_truth_known_accuracy": "ground truth known",
    "ground_truth_unseen_accuracy": "ground truth unseen",
    "clean_train_accuracy": "clean train",
    "validation_held_out_accuracy": "validation held out",
}
AGAINST = "kfac"  # the published method, to which the others are compared seed by seed if nothing else is said
ENDS = ("_low", "_high")
DIFFERENCES = ("ground_truth_unseen_accuracy", "validation_held_out_accuracy")
IDENTITY = ("method", "point", "track", "trials", "seeds", "usable_seeds", "lost_validation", "status")


def compare(rows: Sequence[dict], against: str = AGAINST) -> list[dict]:
    """Return one row for each method and operating point.

    Means are over the seeds whose edit neither diverged nor left a model at chance; ``usable_seeds`` counts them.
    A method that was not tuned has the point ``default``, and no trials. ``<metric>_minus_<against>`` is the mean of
    the differences to that method at the same point (of what was not tuned: at its best point), paired over seeds, with
    a 95 % t interval; ``<metric>_above_<against>`` tells in how many of these seeds it is positive, as in ``2/3``.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        point = row.get("point") or ("default" if row["edit"] else "reference")
        groups.setdefault((row["id"].removesuffix(f"-{point}"), point), []).append(row)
    found = []
    for (method, point), group in groups.items():
        good = [row for row in group if usable(row) or not row["edit"]]
        line: dict = {"method": method, "point": point, "track": group[0].get("track", "")}
        line |= {"trials": group[0].get("trials", 0), "seeds": len(group), "usable_seeds": len(good)}
        line["lost_validation"] = sum(row.get("kept_validation") is False for row in group)
        line["status"] = "; ".join(sorted({row["status"] for row in group if not usable(row)}))
        for name in MEASURED:
            values = _known(row.get(name) for row in good)
            line[name] = statistics.fmean(values) if values else math.nan
            line[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else math.nan
        rival = groups.get((against, "best" if point == "default" else point), []) if group[0]["edit"] else []
        for name in DIFFERENCES:
            found_by_seed = [
                {row["seed"]: row[name] for row in part if usable(row) and row.get(name) is not None}
                for part in (good, rival)
            ]
            gap = paired_difference(*found_by_seed)
            ends = zip(("", *ENDS), (gap.mean, gap.low, gap.high), strict=True)
            line |= {f"{name}_minus_{against}{end}": value for end, value in ends}
            own, its = found_by_seed
            both = own.keys() & its.keys()
            line[f"{name}_above_{against}"] = f"{sum(own[s] > its[s] for s in both)}/{len(both)}" if both else ""
        for name in COST:
            values = _known(row.get(name) for row in group)
            line[name] = statistics.fmean(values) if values else math.nan
        found.append(line)
    return found


def comparison_csv(rows: Sequence[dict]) -> str:
    """Return the comparison as CSV; what is unknown is an empty cell."""
    names = [*IDENTITY, *(column for name in MEASURED for column in (name, f"{name}_sd"))]
    for name in DIFFERENCES:
        names += [*(f"{name}_minus_{AGAINST}{part}" for part in ("", *ENDS)), f"{name}_above_{AGAINST}"]
    names += COST
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for line in compare(rows):
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()})
    return out.getvalue()


def comparison_table(rows: Sequence[dict]) -> str:
    """Return the comparison as Markdown, a table for each operating point; untuned methods stand in the first."""
    lines = compare(rows)
    against = any(line["method"] == AGAINST for line in lines)
    header = ["method", "track", *MEASURED.values(), *([f"Δ ground truth to {AGAINST}"] * against)]
    header += ["passes", "seconds", "MiB"]
    parts = []
    for point, title in TITLES.items():
        points = ("reference", point, "default") if point == "best" else ("reference", point)
        parts += [f"{title}:", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        parts += [_line(line, against) for at in points for line in lines if line["point"] == at]
        parts.append("")
    parts.append("known, unseen: wrong labels that edits with a forget set knew, or did not; mean ± sd over seeds")
    if against:
        parts.append("Δ: of unseen ones, paired over seeds; of several, with a 95 % t interval and how many are above")
    return "\n".join(parts)


def _line(line: dict, against: bool) -> str:
    failed = line["seeds"] - line["usable_seeds"]
    note = " (no trials)" if line["point"] == "default" else ""
    if line["point"] == "best" and line["lost_validation"]:
        note += f" (no trial kept validation, {line['lost_validation']} of {line['seeds']} seeds)"
    note += f" ({line['status']}, {failed} of {line['seeds']} seeds)" if line["status"] else ""
    cells = [_number(line[name], ".3f", line[f"{name}_sd"]) for name in MEASURED]
    if against:
        mean, *ends = (line[f"{DIFFERENCES[0]}_minus_{AGAINST}{part}"] for part in ("", *ENDS))
        interval = "" if math.isnan(ends[0]) else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        interval += f" ({line[f'{DIFFERENCES[0]}_above_{AGAINST}']})" if interval else ""
        cells.append("" if line["method"] == AGAINST else _number(mean, "+.3f") + interval)
    cost = [_number(line[name], ".3g") for name in ("passes", "seconds", "extra_memory_mib")]
    return f"| {' | '.join([line['method'] + note, line['track'], *cells, *cost])} |"


def _known(values: Iterable) -> list[float]:
    return [float(v) for v in values if v is not None and v != "" and not math.isnan(float(v))]


def _number(value: float, form: str, sd: float = math.nan) -> str:
    text = "-" if math.isnan(value) else f"{value:{form}}"
    return text if math.isnan(sd) else f"{text} ± {sd:{form}}"
