"""What a table of results lets one compare: arms, and the levels of factors at which they stand.

An arm is a model or edit by its id, edits of one family (``kfac`` for ``kfac-rho0.9`` and others) or of one method at
its operating points; or, of a single one of these, a level of the first factor. A level is a tuple of the values of the
remaining factors, which are columns of the table.
"""

import difflib
import fnmatch
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vitmem.evaluation.frontier import unreached
from vitmem.evaluation.metrics import METRICS
from vitmem.evaluation.tables import CONFIGURATION, usable
from vitmem.figures.tables import families

BASE = "base"
DEFAULT_METRICS = {  # each, or what stands in for it where it was not measured
    "ground_truth_unseen_accuracy": "ground_truth_accuracy",
    "validation_held_out_accuracy": "validation_accuracy",
}
Level = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """What is compared.

    Args:
        between: names of arms, or patterns of ids; each is compared with each, or with every baseline.
        against: baselines.
        by: factors: columns of the table. Of a single arm, levels of the first are compared with its first level.
        metrics: columns; by default those of ``DEFAULT_METRICS``.
        margin: difference that does not matter.
        seed: of resamples.
    """

    between: tuple[str, ...] = ("*",)
    against: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    margin: float = 0.02
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.margin < math.inf:
            raise ValueError(f"margin is {self.margin:g}; expected a difference above 0, such as 0.02")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by is {', '.join(self.by)}; give each factor once")


@dataclass(frozen=True)
class Arm:
    """Rows of what is compared, by level and seed.

    Args:
        name: what it is called.
        cells: row by seed, by level.
        left_out: why a seed does not count, by level.
    """

    name: str
    cells: dict[Level, dict[int, Mapping]] = field(default_factory=dict)
    left_out: dict[Level, dict[int, str]] = field(default_factory=dict)

    @property
    def levels(self) -> list[Level]:
        """Levels at which there are rows."""
        return list(dict.fromkeys([*self.cells, *self.left_out]))

    def rows(self) -> list[Mapping]:
        """Return the rows that count."""
        return [row for cell in self.cells.values() for row in cell.values()]

    def without(self, place: int) -> bool:
        """Tell whether the factor at a place means nothing here: no row has a value of it, as base has no ``rho``."""
        return not any(level[place] for level in self.levels)

    def at(self, level: Level) -> Level:
        """Return where to look for a level: what is without a factor stands at all of its values."""
        return tuple("" if self.without(place) else value for place, value in enumerate(level))

    def values(self, level: Level, metric: str) -> dict[int, float]:
        """Return a metric by seed, of the seeds that count and know it."""
        found = {seed: number(row, metric) for seed, row in self.cells.get(self.at(level), {}).items()}
        return {seed: value for seed, value in sorted(found.items()) if not math.isnan(value)}

    def absent(self, level: Level, metric: str, seeds: Iterable[int]) -> str:
        """Return in words which of the seeds are missing, and why; nothing where none is."""
        there, why = self.values(level, metric), self.left_out.get(self.at(level), {})
        rows = self.cells.get(self.at(level), {})
        reasons: dict[str, list[int]] = {}
        for seed in seeds:
            if seed not in there:
                told = why.get(seed) or (f"no {metric}" if seed in rows else "no row")
                reasons.setdefault(told, []).append(seed)
        return "; ".join(f"{self.name} lacks {worded_seeds(missing)} ({why})" for why, missing in reasons.items())


def worded_seeds(seeds: Sequence[int]) -> str:
    """Return seeds in words."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


@dataclass(frozen=True)
class Plan:
    """What a question asks of a table.

    Args:
        arms: by name.
        pairs: names of first and second.
        levels: in their order.
        factors: what levels are values of.
        metrics: columns that are compared.
        seeds: all that any arm has.
        of: the single arm whose levels are compared, or nothing.
    """

    arms: dict[str, Arm]
    pairs: list[tuple[str, str]]
    levels: list[Level]
    factors: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: list[int]
    of: str = ""


def number(row: Mapping, name: str) -> float:
    """Return a cell as a number; NaN where it is empty or text."""
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan


def by_name(rows: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """Return rows by all names they may be called by: ids, then methods at operating points, then families."""
    found: dict[str, list[Mapping]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    wider: dict[str, list[Mapping]] = {}
    for row in rows:
        if row.get("point") and row["id"].endswith(f"-{row['point']}"):
            wider.setdefault(row["id"].removesuffix(f"-{row['point']}"), []).append(row)
    for (family, _), members in families(list(rows)).items():
        wider.setdefault(family, []).extend(members)
    return found | {name: members for name, members in wider.items() if name not in found}


def chosen(names: Sequence[str], there: Mapping[str, Sequence[Mapping]], option: str) -> list[str]:
    """Return the names that names and patterns stand for; patterns are of ids.

    Raises:
        ValueError: one stands for nothing.
    """
    ids = [name for name, rows in there.items() if all(row["id"] == name for row in rows)]
    found: dict[str, None] = {}
    for name in names:
        matching = [name] if name in there else fnmatch.filter(ids, name)
        if not matching:
            near = difflib.get_close_matches(name, there, 3, 0.4) or list(there)[:8]
            raise ValueError(f"{option}: there is no {name!r} in the table; {_listed(near, there)}")
        found |= dict.fromkeys(matching)
    return list(found)


def _listed(names: Sequence[str], there: Mapping) -> str:
    more = f", ... ({len(there)} in all)" if len(there) > len(names) else ""
    return f"there are: {', '.join(names)}{more}"


def plan(rows: Sequence[Mapping], question: Question) -> Plan:
    """Return arms, pairs and levels of a question.

    Args:
        rows: of one or several tables of results.
        question: what is compared.

    Raises:
        ValueError: a name, factor or metric is not in the table, or an arm has several rows for one seed and level.
    """
    there = by_name(rows)
    for factor in question.by:
        if not any(shown(row.get(factor)) for row in rows):
            raise ValueError(f"by: no row has a {factor!r}; columns in which rows differ: {', '.join(differing(rows))}")
    baselines = chosen(question.against, there, "against")
    names = [name for name in chosen(question.between, there, "between") if name not in baselines]
    by, of = question.by, ""
    if not by and _in_several_experiments(there, [*names, *baselines]):
        by = ("experiment",)
    if len(names) + len(baselines) == 1 and by:
        (of,), first, by = [*names, *baselines], by[0], by[1:]
        parts: dict[Level, list[Mapping]] = {}
        for row in there[of]:
            parts.setdefault((shown(row.get(first)),), []).append(row)
        labels = {f"{first} {level[0] or 'none'}": parts[level] for level in _in_order(parts)}
        arms = {label: arm(label, part, by) for label, part in labels.items()}
        names, baselines = list(arms)[1:], list(arms)[:1]
    else:
        arms = {name: arm(name, there[name], by) for name in [*names, *baselines]}
    pairs = [(a, b) for b in baselines for a in names] if baselines else list(itertools.combinations(names, 2))
    if not pairs:
        raise ValueError(
            f"only {', '.join(arms) or 'nothing'} is chosen: name two, as --between A,B, or a baseline, as --against "
            f"ID; or compare levels of a factor of one, as --by noise_rate; {_listed(list(there)[:8], there)}"
        )
    seeds = {
        seed for one in arms.values() for part in (one.cells, one.left_out) for cell in part.values() for seed in cell
    }
    return Plan(
        arms, pairs, _levels(list(arms.values()), len(by)), by, _metrics(question, arms.values()), sorted(seeds), of
    )


def _levels(arms: Sequence[Arm], factors: int) -> list[Level]:
    """Return the levels of arms, in order, but those that an arm only has for want of a factor that others have."""
    there = dict.fromkeys(level for one in arms for level in one.levels)
    needed = [place for place in range(factors) if not all(one.without(place) for one in arms)]
    full = [level for one in arms if not any(map(one.without, needed)) for level in one.levels]
    return _in_order(dict.fromkeys(full) or there)


def _metrics(question: Question, arms: Iterable[Arm]) -> tuple[str, ...]:
    rows = [row for one in arms for row in one.rows()]

    def measured(metric: str) -> bool:
        return any(not math.isnan(number(row, metric)) for row in rows)

    for metric in question.metrics:
        if not measured(metric):
            known = [name for name in dict.fromkeys(name for row in rows for name in row) if measured(name)]
            near = difflib.get_close_matches(metric, known, 3) or [name for name in known if name in METRICS]
            raise ValueError(f"metrics: no row that is compared has a number as {metric!r}; {_listed(near, known)}")
    usual = [m if measured(m) else other for m, other in DEFAULT_METRICS.items()]
    if not (question.metrics or any(map(measured, usual))):
        raise ValueError(f"no row that is compared has {' or '.join(usual)}; give --metrics")
    return question.metrics or tuple(filter(measured, usual))


def _in_several_experiments(there: Mapping, names: Sequence[str]) -> bool:
    cells: dict[tuple, set] = {}
    for name in names:
        for row in there[name]:
            cells.setdefault((name, row["id"], row["seed"]), set()).add(row.get("experiment"))
    return any(len(found) > 1 for found in cells.values())


def arm(name: str, rows: Sequence[Mapping], by: Sequence[str]) -> Arm:
    """Return an arm with rows by level and seed; edits that failed, or missed their operating point, are left out.

    Raises:
        ValueError: there are several rows for a level and seed.
    """
    found, seen = Arm(name), {}
    for row in rows:
        level, seed = tuple(shown(row.get(factor)) for factor in by), int(row["seed"])
        if other := seen.get((level, seed)):
            where = f" at {', '.join(level)}" if any(level) else ""
            differ = [column for column in differing([row, other]) if column not in by]
            differ.sort(key="id".__eq__)  # another column says why, and makes a better factor
            do = f"which differ in {', '.join(differ)}; give --by {','.join([*by, *differ[:1]])}, or ids"
            raise ValueError(
                f"{name} has several rows for seed {seed}{where}, {do if differ else 'and nothing tells them apart'}"
            )
        seen[level, seed] = row
        why = unreached(row) if usable(dict(row)) or not row["edit"] else str(row["status"])
        (found.left_out if why else found.cells).setdefault(level, {})[seed] = why or row
    return found


def differing(rows: Sequence[Mapping]) -> list[str]:
    """Return the columns that say what was done, and in which rows differ."""
    names = dict.fromkeys(name for row in rows for name in row)
    told = ("experiment", "id", "edit", "option", "value", "point", "track", *CONFIGURATION)
    return [n for n in names if (n in told or "." in n) and len({shown(row.get(n)) for row in rows}) > 1]


def shown(value: object) -> str:
    """Return a cell as text; empty where nothing is known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_order(levels: Iterable[Level]) -> list[Level]:
    """Return levels by number where all are numbers or empty, else as they come."""
    levels = list(levels)
    try:
        return sorted(levels, key=lambda level: [float(part or "-inf") for part in level])
    except ValueError:
        return levels
