"""Numbers of an analysis over seeds: mean with a 95 % t interval, or of a single seed its own interval."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Estimate(NamedTuple):
    """A number with its interval.

    Attributes:
        mean: NaN where nothing was measured.
        low: lower end; NaN where it is unknown.
        high: upper end.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def errors(self) -> tuple[list[float], list[float]]:
        """Lengths of the error bar below and above, as matplotlib takes them; 0 where they are unknown."""
        return ([max(0.0, _known(self.mean - self.low))], [max(0.0, _known(self.high - self.mean))])


def estimate(rows: Iterable[Mapping], name: str) -> Estimate:
    """Return the estimate of a number from its rows, one for each seed."""
    rows = [row for row in rows if not math.isnan(_number(row.get(name)))]
    values = [_number(row[name]) for row in rows]
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if len(values) == 1:
        return Estimate(values[0], *(_number(rows[0].get(f"{name}_{end}")) for end in ("low", "high")), 1)
    from scipy.stats import t

    mean, sd = statistics.fmean(values), statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def grouped(rows: Iterable[Mapping], *names: str) -> dict[tuple, list[Mapping]]:
    """Return rows by the values of some columns, in the order of their first occurrence."""
    found: dict[tuple, list[Mapping]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return found


def of_base(rows: list[dict]) -> list[dict]:
    """Return the rows of the base model; all where a table has none."""
    return [row for row in rows if row["id"] == "base"] or rows


def seeds_of(rows: Iterable[Mapping]) -> str:
    """Return over how many seeds rows go, and what their intervals are, in words."""
    number = len({row["seed"] for row in rows})
    return f"{number} seeds: mean, 95 % t interval" if number > 1 else "1 seed: 95 % interval over images"


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value
