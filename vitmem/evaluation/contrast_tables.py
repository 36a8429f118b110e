"""Comparisons as tables that a person reads: what every column means, and what is missing, stands below each."""

import math
from collections.abc import Callable, Mapping, Sequence

from vitmem.evaluation.contrasts import named
from vitmem.evaluation.formats import Table
from vitmem.evaluation.statistics import BCA_COVERAGE, EXACT, LEVEL

Rows = Sequence[Mapping]


def number(value: object, form: str = ".3f") -> str:
    """Return a number as text; a dash where there is none."""
    known = isinstance(value, (int, float)) and not math.isnan(value)
    return f"{value:{form}}" if known else "-"


def interval(row: Mapping, name: str, low: str, high: str, form: str = ".3f") -> str:
    """Return a number of a row with its interval, as far as there is one."""
    text = number(row[name], form) if name else ""
    ends = "" if math.isnan(row[low]) else f"[{row[low]:{form}}, {row[high]:{form}}]"
    return f"{text} {ends}".strip() or "-"


def metric_name(metric: str) -> str:
    """Return a column as a person says it."""
    return metric.removesuffix("_accuracy").replace("_", " ")


def _table(
    title: str, rows: Rows, factors: Sequence[str], columns: Mapping[str, Callable], notes: Sequence[str]
) -> Table:
    """Return a table; rows as numbers have a column for each factor in place of the level."""
    body = [[show(row) for show in columns.values()] for row in rows]
    plain = [{**_flat(row, factors)} for row in rows]
    return Table(title, list(columns), body, [note for note in notes if note], plain)


def _flat(row: Mapping, factors: Sequence[str]) -> dict:
    first = {key: row[key] for key in ("first", "second") if key in row}
    rest = {key: value for key, value in row.items() if key not in (*first, "level")}
    return first | dict(zip(factors, row.get("level", ()), strict=False)) | rest


def _places(factors: Sequence[str]) -> dict[str, Callable]:
    return {factor: lambda row, at=at: row["level"][at] or "-" for at, factor in enumerate(factors)}


def configurations(rows: Rows) -> Table:
    """Return the table of how experiments differ."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: lambda row, name=name: row.get(name, "?") for name in names}
    return _table("Experiments, and options in which they differ", rows, (), columns, ["?: the table does not say"])


def levels(rows: Rows, factors: Sequence[str], of: str = "", more: Sequence[str] = ()) -> Table:
    """Return the table of what was measured, with more notes below it."""
    columns = {
        "model": lambda row: row["first"],
        **_places(factors),
        "metric": lambda row: metric_name(row["metric"]),
        "n": lambda row: str(row["n"]),
        "mean": lambda row: interval(row, "mean", "low", "high"),
        "sd": lambda row: number(row["sd"]),
        "IQM": lambda row: interval(row, "iqm", "iqm_low", "iqm_high"),
    }
    notes = ["mean over n seeds [95 % t interval]; IQM: mean of the middle half [95 % stratified bootstrap of seeds]"]
    notes += _distinct(_at(row, factors) + row["note"] for row in rows if row["note"])
    notes += more
    single = _distinct(row["first"] for row in rows if row["n"] == 1)
    notes += [f"of one seed, so without interval: {', '.join(single)}"] if single else []
    return _table(f"Measured{f', {of}' if of else ''}", rows, factors, columns, notes)


def comparisons(rows: Rows, factors: Sequence[str], margin: float, of: str = "", more: Sequence[str] = ()) -> Table:
    """Return the table of differences, their tests, and verdicts, with more notes below it."""
    columns = {
        "first - second": lambda row: f"{row['first']} - {row['second']}",
        **_places(factors),
        "metric": lambda row: metric_name(row["metric"]),
        **_tests(),
        "P(improvement)": lambda row: interval(row, "probability", "probability_low", "probability_high", ".2f"),
        "detectable": lambda row: number(row["detectable"]),
        "verdict": lambda row: row["verdict"],
    }
    counted = sum(not math.isnan(row["p"]) for row in rows)
    notes = [
        "Δ: mean of first - second, paired over n seeds [95 % t interval]; BCa: 95 % bootstrap interval, "
        "bias-corrected and accelerated; p of the paired t test; flips: p of the permutation test by signs, "
        f"exact up to {EXACT} seeds; Holm: p corrected for the {counted} comparisons of this table",
        f"equal: p of two one-sided t tests that the difference is not within ±{margin:g}, corrected likewise; "
        f"verdicts are at {LEVEL:g}: better or worse by Holm's p, equal by this one, else undecided",
        "P(improvement): probability that a seed of the first is better than one of the second [95 % stratified "
        "bootstrap]; detectable: true difference that this test, uncorrected, finds with power 0.8",
        *_small(rows),
        *_distinct(_about(row, factors) for row in rows if row["n"] < 2 or " not at " in row["note"]),
        *_distinct(more),
    ]
    return _table(f"Compared{f', {of}' if of else ''}", rows, factors, columns, notes)


def interactions(rows: Rows, factors: Sequence[str], margin: float) -> Table:
    """Return the table of differences of differences."""
    columns = {
        "difference": lambda row: row["first"],
        "between levels": lambda row: row["second"],
        "metric": lambda row: metric_name(row["metric"]),
        **_tests(),
        "verdict": lambda row: row["verdict"],
    }
    counted = sum(not math.isnan(row["p"]) for row in rows)
    notes = [
        f"Δ: how much larger the difference is at one level than at the other, paired over n seeds; columns as above, "
        f"corrected for the {counted} interactions of this table; equal: within ±{margin:g}",
        *_small(rows),
        *_distinct(f"{row['first']}, {row['second']}: {row['note']}" for row in rows if row["note"]),
    ]
    return _table("Interactions", rows, (), columns, notes)


def _tests() -> dict[str, Callable]:
    return {
        "n": lambda row: str(row["n"]),
        "Δ [t]": lambda row: interval(row, "difference", "low", "high", "+.3f"),
        "[BCa]": lambda row: interval(row, "", "bootstrap_low", "bootstrap_high", "+.3f"),
        "p": lambda row: number(row["p"], ".2g"),
        "flips": lambda row: number(row["p_sign_flips"], ".2g"),
        "Holm": lambda row: number(row["p_holm"], ".2g"),
        "equal": lambda row: number(row["p_equal_holm"], ".2g"),
    }


def _small(rows: Rows) -> list[str]:
    """Return what few seeds cannot show."""
    few = min((row["n"] for row in rows if row["n"] > 1), default=math.inf)
    notes = []
    if few <= max(BCA_COVERAGE):
        most = next(share for n, share in BCA_COVERAGE.items() if few <= n)
        about = "" if few in BCA_COVERAGE else "less than "
        notes.append(
            f"BCa intervals of {few} seeds hold the mean in {about}{100 * most:.0f} % of experiments, not in 95 %, and "
            "other bootstraps of so few are too narrow likewise: read the t interval"
        )
    if 2 / 2**few > LEVEL:
        notes.append(f"flips of {few} seeds cannot give less than {2 / 2**few:g}")
    return notes


def _about(row: Mapping, factors: Sequence[str]) -> str:
    said = f"n is {row['n']}" if row["n"] > 1 else f"{'one seed' if row['n'] else 'no seed'}, so no test over seeds"
    return f"{_at(row, factors)}{row['first']} - {row['second']}: {said}{'; ' * bool(row['note'])}{row['note']}"


def _at(row: Mapping, factors: Sequence[str]) -> str:
    return f"at {named(factors, row['level'])}: " if any(row["level"]) else ""


def _distinct(texts) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def examples(rows: Rows, factors: Sequence[str]) -> Table:
    """Return the table of tests over examples."""
    told = [row for row in rows if "p" in row]
    columns = {
        "first - second": lambda row: f"{row['first']} - {row['second']}",
        **_places(factors),
        "seed": lambda row: str(row["seed"]),
        "metric": lambda row: metric_name(row["metric"]),
        "n": lambda row: str(row["n"]),
        "first": lambda row: number(row["mean_first"]),
        "second": lambda row: number(row["mean_second"]),
        "Δ [Newcombe]": lambda row: interval(row, "difference", "low", "high", "+.3f"),
        "only first / only second": lambda row: f"{row['only_first']} / {row['only_second']}",
        "p": lambda row: number(row["p"], ".2g"),
        "Holm": lambda row: number(row["p_holm"], ".2g"),
    }
    notes = [
        "paired over the n examples of one run [Newcombe's 95 % interval]; p of the exact McNemar test, corrected for "
        f"the {len(told)} tests of this table: about these two models, not about other seeds",
        *_distinct(row["note"] for row in rows),
    ]
    return _table("Compared over examples", told, factors, columns, notes)


def power(rows: Rows, factors: Sequence[str], difference: float, seeds: Sequence[int], family: int) -> Table:
    """Return the table of what numbers of seeds can show."""
    columns: dict[str, Callable] = {}
    if any("first" in row for row in rows):
        columns |= {"first - second": lambda row: f"{row['first']} - {row['second']}", **_places(factors)}
        columns |= {"metric": lambda row: metric_name(row["metric"]), "n": lambda row: str(row["n"])}
        columns |= {f"power for {difference:g}": lambda row: number(row["power"], ".2f")}
    columns["sd"] = lambda row: number(row["sd"], ".4f")
    columns[f"seeds for {difference:g}"] = lambda row: number(row["seeds_needed"], ".0f")
    if family > 1:
        columns[f"of {family} tests"] = lambda row: number(row["seeds_needed_family"], ".0f")
    for count in seeds:
        columns[f"detectable, {count} seeds"] = lambda row, name=f"detectable_{count}": number(row[name])
    notes = [
        "sd of paired differences; seeds with which a two-sided paired t test at 0.05 finds the true difference with "
        "power 0.8 (exactly, by noncentral t), and the difference that so many seeds find",
        f"of {family} tests: at 0.05 / {family}, which Holm's correction asks of the first" if family > 1 else "",
        *_distinct(_about(row, factors) for row in rows if "first" in row and row["n"] < 2),
    ]
    return _table("Power", rows, factors, columns, notes)
