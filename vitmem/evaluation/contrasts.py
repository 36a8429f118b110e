"""Comparisons of arms at levels, paired over seeds: differences, their interactions, aggregates, and power.

The statistics are those of ``statistics``; what is missing is said in every row's ``note``.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitmem.evaluation import statistics as of
from vitmem.evaluation.arms import Arm, Level, Plan, Question, worded_seeds
from vitmem.evaluation.metrics import METRICS
from vitmem.evaluation.unlearning import NAMES

ALL = "mean of levels"


@dataclass(frozen=True)
class Pair:
    """Two arms at one level, or a comparison at two levels: values by seed.

    Args:
        first: what the difference is of.
        second: what is taken from it.
        level: where.
        metric: which number.
        one: of the first, by seed.
        two: of the second, by seed.
        strata: values of both by level, where levels are pooled.
        note: what is missing, in words.
    """

    first: str
    second: str
    level: Level
    metric: str
    one: dict[int, float]
    two: dict[int, float]
    strata: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    note: str = ""

    @property
    def differences(self) -> dict[int, float]:
        """First - second by seed, where both are known."""
        return {seed: value - self.two[seed] for seed, value in self.one.items() if seed in self.two}


def direction(metric: str) -> int:
    """Return 1 if more of a metric is better, -1 if less is, 0 if its description does not say."""
    told = METRICS.get(metric) or NAMES.get(metric) or ""
    told = METRICS.get(told.split(" on ")[0], told)  # of a part of the examples
    return ("higher is better" in told) - ("lower is better" in told)


def comparisons(asked: Plan) -> list[Pair]:
    """Return every pair at every level, and over all levels where there are several."""
    found = []
    for (first, second), metric in itertools.product(asked.pairs, asked.metrics):
        own, its = asked.arms[first], asked.arms[second]
        pairs = [_pair(asked, own, its, level, metric) for level in asked.levels]
        found += pairs
        if len(both := [pair for pair in pairs if pair.differences]) > 1:
            found.append(_pooled(both, asked))
    return found


def _pair(asked: Plan, own: Arm, its: Arm, level: Level, metric: str) -> Pair:
    notes = [one.absent(level, metric, asked.seeds) for one in (own, its)]
    one, two = own.values(level, metric), its.values(level, metric)
    return Pair(own.name, its.name, level, metric, one, two, note="; ".join(filter(None, notes)))


def _pooled(pairs: Sequence[Pair], asked: Plan) -> Pair:
    """Return the mean over levels, of the seeds that all of them have."""
    seeds = sorted(set.intersection(*(set(pair.differences) for pair in pairs)))
    one, two = ({s: statistics.fmean(getattr(p, side)[s] for p in pairs) for s in seeds} for side in ("one", "two"))
    strata = tuple((np.array(list(p.one.values())), np.array(list(p.two.values()))) for p in pairs)
    less = [f"{worded_seeds(lost)} not at every level"] if (lost := [s for s in asked.seeds if s not in seeds]) else []
    less += [f"{len(asked.levels) - len(pairs)} levels without a pair"] if len(pairs) < len(asked.levels) else []
    level = (f"{ALL} (of {len(pairs)})", *[""] * (len(asked.factors) - 1))
    return Pair(pairs[0].first, pairs[0].second, level, pairs[0].metric, one, two, strata, "; ".join(less))


def named(factors: Sequence[str], level: Level) -> str:
    """Return a level in words."""
    return ", ".join(f"{factor} {value or 'none'}" for factor, value in zip(factors, level, strict=True))


def interactions(asked: Plan, pairs: Sequence[Pair]) -> list[Pair]:
    """Return how comparisons differ between levels: each level's difference less that of the first, by seed."""
    found = []
    groups: dict[tuple, list[Pair]] = {}
    for pair in pairs:
        if not pair.strata:
            groups.setdefault((pair.first, pair.second, pair.metric), []).append(pair)
    for (first, second, metric), group in groups.items():
        for pair in group[1:]:
            where = [named(asked.factors, other.level) for other in (pair, group[0])]
            one, two = pair.differences, group[0].differences
            lost = [seed for seed in asked.seeds if seed not in one or seed not in two]
            note = f"{worded_seeds(lost)} not at both levels" if lost else ""
            found.append(Pair(f"{first} - {second}", " less ".join(where), pair.level, metric, one, two, note=note))
    return found


def verdicts(pairs: Sequence[Pair], question: Question, *, differ: bool = False) -> list[dict]:
    """Return a row for each pair: difference, intervals, tests, corrections over all pairs, verdict.

    Args:
        pairs: the family that Holm's correction is for.
        question: margin and seed.
        differ: pairs are interactions: verdicts are higher and lower, and no probability of improvement.
    """
    rows = [_measured(pair, question) for pair in pairs]
    for name in ("p", "p_equal"):
        for row, adjusted in zip(rows, of.holm([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = adjusted
    for row, pair in zip(rows, pairs, strict=True):
        sense = 0 if differ else direction(pair.metric)
        words = {1: ("better", "worse"), -1: ("worse", "better"), 0: ("higher", "lower")}[sense]
        equal = row["p_equal_holm"] < of.LEVEL
        said = of.verdict(row["difference"], row["p_holm"], equal, words)
        row["verdict"] = said if row["n"] > 1 else "one seed" if row["n"] else "not compared"
        row["note"] = pair.note
        if not differ:
            row |= _improvement(pair, sense, question.seed)
    return rows


def _measured(pair: Pair, question: Question) -> dict:
    values = np.array(list(pair.differences.values()))
    gap = of.interval_of_differences(list(values))
    known = not math.isnan(gap.sd)
    ends = [float(end) for end in of.bca_interval(values, seed=question.seed)] if known else [math.nan] * 2
    return {
        "first": pair.first,
        "second": pair.second,
        "level": pair.level,
        "metric": pair.metric,
        "n": gap.n,
        "difference": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "bootstrap_low": ends[0],
        "bootstrap_high": ends[1],
        "sd": gap.sd,
        "p": gap.p,
        "p_sign_flips": float(of.sign_flips(values, seed=question.seed)) if gap.n > 1 else math.nan,
        "p_equal": float(of.equivalence(gap.mean, gap.sd, gap.n, question.margin)),
        "detectable": of.detectable_difference(gap.sd, gap.n),
    }


def _improvement(pair: Pair, sense: int, seed: int) -> dict:
    strata = pair.strata or ((np.array(list(pair.one.values())), np.array(list(pair.two.values()))),)
    signed = [[(sense or 1) * side for side in part] for part in zip(*strata, strict=True)]
    found = of.probability_of_improvement(*signed, seed=seed)
    return {"probability": found.mean, "probability_low": found.low, "probability_high": found.high}


def levels_of(asked: Plan, question: Question) -> list[dict]:
    """Return a row for each arm, level and metric: mean, sd, t interval, interquartile mean; over all levels last."""
    rows = []
    for one, metric in itertools.product(asked.arms.values(), asked.metrics):
        parts = {level: list(one.values(level, metric).values()) for level in map(one.at, asked.levels)}
        for level, values in parts.items():
            note = one.absent(level, metric, asked.seeds)
            rows.append(_level(one.name, level, metric, of.t_interval(values), [values], note, question.seed))
        if len(filled := [values for values in parts.values() if values]) > 1:
            level = (f"{ALL} (of {len(filled)})", *[""] * (len(asked.factors) - 1))
            mean = statistics.fmean(map(statistics.fmean, filled))
            flat = of.Difference(mean, math.nan, math.nan, sum(map(len, filled)))
            rows.append(_level(one.name, level, metric, flat, filled, "", question.seed))
    return rows


def _level(name: str, level: Level, metric: str, mean: of.Difference, strata: list, note: str, seed: int) -> dict:
    middle = of.interquartile_mean(strata if strata[0] else [], seed=seed)
    row = {"first": name, "level": level, "metric": metric, "n": mean.n, "mean": mean.mean, "sd": mean.sd}
    row |= {"low": mean.low, "high": mean.high, "iqm": middle.mean, "iqm_low": middle.low, "iqm_high": middle.high}
    return row | {"note": note}


def power_rows(pairs: Sequence[Pair], difference: float, seeds: Sequence[int], power: float = 0.8) -> list[dict]:
    """Return for each pair what its sd of paired differences allows: detectable differences, and seeds needed.

    Args:
        pairs: the family; ``seeds_needed_family`` is at Bonferroni's level for all of it, Holm's first step.
        difference: that is to be found.
        seeds: numbers for which the detectable difference is told.
        power: how often it is to be found.
    """
    rows = []
    for pair in pairs:
        gap = of.interval_of_differences(list(pair.differences.values()))
        row = {"first": pair.first, "second": pair.second, "level": pair.level, "metric": pair.metric}
        rows.append(row | power_row(gap.sd, gap.n, difference, seeds, len(pairs), power) | {"note": pair.note})
    return rows


def power_row(
    sd: float, n: int, difference: float, seeds: Sequence[int], family: int = 1, power: float = 0.8
) -> dict[str, object]:
    """Return what an sd of paired differences allows, as ``power_rows``; ``n`` is 0 where there are no data."""
    row: dict[str, object] = {"n": n, "sd": sd, "power": of.power_of(difference, sd, n)}
    row["seeds_needed"] = of.seeds_needed(difference, sd, power)
    row["seeds_needed_family"] = of.seeds_needed(difference, sd, power, of.LEVEL / family)
    return row | {f"detectable_{count}": of.detectable_difference(sd, count, power) for count in seeds}
