"""Whether a removal lasts: what attacks brought back, with an interval, over one population of wrong labels.

Over several seeds intervals are 95 % t intervals of the mean. Of one seed they are over examples, from the Wilson
intervals of the shares, as if models answered independently: conservative, since the same examples are asked. Base's
memory above retrain's, of which all are shares, counts as known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vitmem.evaluation.proportions import square_and_add
from vitmem.evaluation.recovery import BASE, KINDS, MEMORY, RETRAIN, UNSEEN_MEMORY, Value, number
from vitmem.evaluation.statistics import t_interval

ATTACKS = ("relearn", "quantize", "views", "compress")
VALIDATION = "validation_accuracy"
UNSEEN, ALL = "wrong labels that no edit knew", "all wrong labels, also those that some edits knew"


@dataclass(frozen=True)
class Durability:
    """When a removal counts as durable; shares are of the memory that base has above retrain.

    Args:
        left: most memory left by the edit itself; above it there is nothing to be durable.
        back: most memory that any setting of ``ATTACKS`` brings back.
        drop: settings that take more than this from the validation accuracy do not count: who destroys a model has
            recovered nothing.
    """

    left: float = 0.25
    back: float = 0.1
    drop: float = 0.1


RULE = Durability()


class Estimate(NamedTuple):
    """A number with a 95 % interval, or why there is none.

    Attributes:
        value: NaN where it is undefined.
        reason: why it is undefined, or which setting it is of.
        low: lower end of the interval; NaN where what is stored gives none.
        high: upper end.
    """

    value: float
    reason: str = ""
    low: float = math.nan
    high: float = math.nan

    def __str__(self):
        return f"{self.value:.2f}" + ("" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]")


class Verdict(NamedTuple):
    """What was found over the seeds of an edit.

    Attributes:
        durable: 1, 0, or NaN where it is open; and why.
        left: share of the memory that the edit left.
        back: most that an attack brought back.
    """

    durable: Value
    left: Estimate
    back: Estimate


def population(rows: Sequence[Mapping], attacks: Sequence[Mapping]) -> tuple[str, str]:
    """Return the metric of the memory that verdicts are about, one for all rows of a table, and its population.

    It is that of the wrong labels that no edit knew. Where it was not measured, or not alike, for every model that was
    attacked (by older versions, or since all wrong labels were known), it is that of all wrong labels, and the text
    says so.

    Args:
        rows: of the results table.
        attacks: rows as ``recovery.with_recovery`` returns them.
    """
    attacked = {(a["seed"], a["id"]) for a in attacks}
    seeds = {seed for seed, _ in attacked}
    needed = [
        r for r in rows if r["seed"] in seeds and (r["id"] in (BASE, RETRAIN) or (r["seed"], r["id"]) in attacked)
    ]
    lacking = [f"{r['id']} (seed {r['seed']})" for r in needed if math.isnan(number(r.get(UNSEEN_MEMORY)))]
    sizes: dict[object, set] = {}
    for row in needed:
        sizes.setdefault(row["seed"], set()).add(number(row.get(f"{UNSEEN_MEMORY}_n") or 0))
    measured = {
        metric: dict.fromkeys(
            (a["seed"], a["id"], a["attack"]) for a in attacks if a["name"] in ATTACKS and a["metric"] == metric
        )
        for metric in (MEMORY, UNSEEN_MEMORY)
    }
    lacking += [f"{a} on {i} (seed {s})" for s, i, a in measured[MEMORY] if (s, i, a) not in measured[UNSEEN_MEMORY]]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return MEMORY, f"{ALL} (those that no edit knew were not measured for {lacking[0]}{more})"
    if uneven := [seed for seed, found in sizes.items() if len(found) > 1]:
        return MEMORY, f"{ALL} (edits of seed {uneven[0]} knew different shares)"
    return UNSEEN_MEMORY, UNSEEN


def memory_left(row: Mapping, base: Mapping | None, retrain: Mapping | None, memory: str = MEMORY) -> Estimate:
    """Return the share of base's memory that an edit left, with its interval over examples.

    Args:
        row: the model's row of the results table.
        base: the unedited model's.
        retrain: the retrained model's.
        memory: the metric.
    """
    total = _total(base, retrain, memory)
    if math.isnan(total) or math.isnan(number(row.get(memory))):
        return Estimate(math.nan, "needs base and retrain, and more memory in base")
    terms = [(sign, number(r[memory]), r.get(f"{memory}_n")) for sign, r in ((1, row), (-1, retrain))]
    return _share(terms, total)


def brought_back(
    attack: str,
    attacks: Sequence[Mapping],
    row: Mapping,
    base: Mapping | None,
    retrain: Mapping | None,
    drop: float,
    memory: str = MEMORY,
) -> Estimate:
    """Return the most memory that a setting of an attack brought back, and which setting did.

    Memory is that above retrain under the same attack, as a share of base's unattacked; the start is the unattacked
    model, on the same examples where the attack has a step 0. The interval over examples has the largest lower and the
    largest upper end of all settings, each 95 %, not corrected for their number.

    Args:
        attack: registered name of the attack; several of that name count together.
        attacks: the rows of attacks on this model.
        row: the model's row of the results table.
        base: the unedited model's.
        retrain: the retrained model's.
        drop: see ``Durability``.
        memory: the metric.
    """
    excess = f"excess{KINDS[memory]}"
    settings: dict[tuple, dict[str, Mapping]] = {}
    for a in attacks:
        if a["name"] == attack and a["metric"] in (memory, excess, VALIDATION):
            settings.setdefault(_setting(a), {})[a["metric"]] = a
    if not settings:
        return Estimate(*not_attacked(attack, attacks))
    total = _total(base, retrain, memory)
    if math.isnan(total):
        return Estimate(math.nan, "needs base and retrain, and more memory in base")
    unattacked = [(-1, number(row[memory]), row.get(f"{memory}_n"))]
    unattacked += [(1, number(retrain[memory]), retrain.get(f"{memory}_n"))]
    found = []
    for setting, measured in settings.items():
        first = settings.get(tuple((k, 0 if k == "step" else v) for k, v in setting), {}) if _has_step(setting) else {}
        start = _terms(first, memory, excess, -1) or unattacked
        terms = _terms(measured, memory, excess, 1)
        validation = _value(first, VALIDATION, row[VALIDATION])
        if terms and _value(measured, VALIDATION, validation) >= validation - drop - 1e-12:
            name = " ".join(f"{key} {value}" for key, value in setting)
            # The start itself brings back nothing, whatever the examples.
            found.append(Estimate(0.0, name, 0.0, 0.0) if measured is first else _share(terms + start, total, name))
    if not found:
        return Estimate(math.nan, "every setting destroys the model, or retrain was not attacked")
    return _strongest(found)


def verdict(left: Sequence[Estimate], back: Sequence[Mapping[str, Estimate]], rule: Durability = RULE) -> Verdict:
    """Return 1 if the removal lasts, 0 if it does not, NaN if that is open; why, and the numbers that this is about.

    A threshold is kept if the interval lies below it, and broken if the interval lies above it. What was brought back
    is, in each seed, by the strongest attack.

    Args:
        left: share of the memory that the edit left, by seed.
        back: what each attack brought back, by seed.
        rule: the thresholds.
    """
    strongest = [
        _strongest([e._replace(reason=f"{name} ({e.reason})") for name, e in by.items() if not math.isnan(e.value)])
        for by in back
    ]
    remains, returns = _over_seeds(left), _over_seeds(strongest)
    one_seed = "no interval" if math.isnan(remains.low + returns.low) else "95 % intervals over examples"
    interval = f"95 % t intervals over {len(left)} seeds" if len(left) > 1 else f"one seed, {one_seed}"
    stated = f"at most {rule.left:g} left and {rule.back:g} brought back; {interval}"
    unknown = [name for name in back[0] if any(math.isnan(by[name].value) for by in back)]

    def found(value: float, why: str) -> Verdict:
        return Verdict(Value(value, f"{why}; {stated}"), remains, returns)

    if any(math.isnan(e.value) for e in left):
        return found(math.nan, "open: the memory left is not known without base and retrain")
    if remains.low > rule.left:
        return found(0.0, f"not removed: {remains} of the memory is left")
    if returns.low > rule.back:
        return found(0.0, f"not durable: attacks bring back {returns}, most {returns.reason}")
    doubts = []
    if not remains.high < rule.left:
        doubts.append(f"{remains} of the memory is left")
    if not math.isnan(returns.value) and not returns.high < rule.back:
        doubts.append(f"attacks bring back {returns}, most {returns.reason}")
    doubts += [f"{', '.join(unknown)} not measured"] if unknown else []
    if doubts:
        return found(math.nan, f"open: {', '.join(doubts)}")
    return found(1.0, f"durable: {remains} of the memory is left, {returns} brought back")


def not_attacked(attack: str, attacks: Sequence[Mapping], more: str = "") -> Value:
    """Return why an attack gave no number: it failed, or was not made."""
    failed = [
        f"attack {attack} failed: {a['reason']}" for a in attacks if (a["name"], a["metric"]) == (attack, "failed")
    ]
    return Value(math.nan, failed[0] if failed else f"not measured: needs attack {attack} {more}".strip())


def _over_seeds(by_seed: Sequence[Estimate]) -> Estimate:
    """Return the mean over seeds with its t interval; of one seed what it is. The reason is that of the largest."""
    if len(by_seed) == 1:
        return by_seed[0]
    found = t_interval([e.value for e in by_seed])
    return Estimate(found.mean, _strongest(by_seed).reason, found.low, found.high)


def _strongest(found: Sequence[Estimate]) -> Estimate:
    """Return the largest value, with the largest lower and upper end: an interval of the largest of all."""
    known = [e for e in found if not math.isnan(e.value)]
    if not known:
        return Estimate(math.nan)
    best = max(known, key=lambda e: e.value)
    if any(math.isnan(e.low) for e in known):
        return best._replace(low=math.nan, high=math.nan)
    return best._replace(low=max(e.low for e in known), high=max(e.high for e in known))


def _total(base: Mapping | None, retrain: Mapping | None, memory: str) -> float:
    """Return base's memory above retrain's; NaN unless there is some."""
    gap = number((base or {}).get(memory)) - number((retrain or {}).get(memory))
    return gap if gap > 0 else math.nan


def _terms(measured: Mapping[str, Mapping], memory: str, excess: str, sign: int) -> list[tuple]:
    """Return the signed shares of a model and of retrain under one setting; both were scored on the same examples."""
    above = _value(measured, excess)
    if math.isnan(above):
        return []
    own, n = _value(measured, memory), measured[memory].get("n")
    return [(sign, own, n), (-sign, own - above, n)]


def _share(terms: Sequence[tuple], total: float, reason: str = "") -> Estimate:
    """Return a sum of signed shares as a share of the memory, with its interval where all numbers are known."""
    value = sum(sign * share for sign, share, _ in terms) / total
    counts = [number(n) for *_, n in terms]
    if not all(n > 0 for n in counts):
        return Estimate(value, reason)
    low, high = square_and_add([(sign, share, int(n)) for (sign, share, _), n in zip(terms, counts, strict=True)])
    return Estimate(value, reason, low / total, high / total)


def _value(measured: Mapping[str, Mapping], metric: str, otherwise: float = math.nan) -> float:
    return number(measured[metric]["value"]) if metric in measured else otherwise


def _setting(row: Mapping) -> tuple:
    """Return the settings of a row, and the id of the attack where it is not its name."""
    fixed = {"experiment", "seed", "id", "name", "metric", "value", "low", "high", "sd", "n", "reason"}
    fixed |= {"attack"} if row["attack"] == row["name"] else set()
    return tuple((key, value) for key, value in row.items() if key not in fixed and value not in (None, ""))


def _has_step(setting: tuple) -> bool:
    return any(key == "step" for key, _ in setting)
