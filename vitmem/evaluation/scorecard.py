"""Scorecards: six criteria after MUSE, and whether a removal lasts; pure functions of result tables.

Criteria are 1 where an edit does as well as is hoped for, and 0 where it achieves nothing; they are not clipped.
Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), translated from text to labelled images.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitmem.evaluation.frontier import t_interval
from vitmem.evaluation.recovery import BASE, KINDS, MEMORY, RETRAIN, UNSEEN_MEMORY, Value, number, recovery
from vitmem.evaluation.tables import usable

CRITERIA = {
    "verbatim": "share of the memory removed, on the images as they were learnt: 1 - recovery",
    "views": "the same, where one altered copy with its wrong label is enough (attack `views`)",
    "privacy": "1 - |PrivLeak| / 100, worst over the scores of attack `membership`",
    "utility": "validation accuracy / that of base, on the half that no edit or tuning sees where it was measured",
    "scale": "lowest `verbatim` over noise rates",
    "sustained": "the same, after the edit was repeated (attack `sequential`); 0 if it diverged",
}
LEFT = "left"  # share of the memory that the edit itself left, of the population of the verdict
ATTACKS = ("relearn", "quantize", "views", "compress")
VALIDATION, HELD_OUT = "validation_accuracy", "validation_held_out_accuracy"
COLUMNS = ("experiment", "seed", "id", "criterion", "value", "reason")


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


def scorecards(
    rows: Sequence[Mapping],
    attacks: Sequence[Mapping],
    others: Sequence[Sequence[Mapping]] = (),
    rule: Durability = RULE,
) -> list[dict]:
    """Return, for each model that was attacked, its criteria by seed, what attacks brought back, and a verdict.

    Criteria are about all wrong labels. What the edit left, what attacks brought back and the verdict are, for every
    edit, about the wrong labels that none knew, so that edits that were told of a part can be compared with those that
    were not; about all of them where that was not measured.

    Args:
        rows: of the results table.
        attacks: rows as ``recovery.with_recovery`` returns them.
        others: results tables of the same models at other noise rates.
        rule: of the verdict.

    Returns:
        Rows of ``COLUMNS``. The verdict (criterion ``durable``) has no seed: 1, 0, or NaN where it is open. ``left``
        and ``back_<attack>`` are the numbers that it uses.
    """
    attacked = {(row["seed"], row["id"]) for row in attacks}
    cards: list[dict] = []
    for name in dict.fromkeys(row["id"] for row in rows):
        own = [row for row in rows if row["id"] == name and (row["seed"], name) in attacked]
        left, back, unseen = [], [], []
        for row in own:
            seed = row["seed"]
            base, retrain = (_row(rows, seed, reference) for reference in (BASE, RETRAIN))
            theirs = [a for a in attacks if (a["seed"], a["id"]) == (seed, name)]
            found = criteria(row, base, retrain, theirs, others)
            memory = population((row, base, retrain), theirs)
            lasting = {
                attack: brought_back(attack, theirs, row, base, retrain, rule.drop, memory) for attack in ATTACKS
            }
            identity = {"experiment": row["experiment"], "seed": seed, "id": name}
            kept = _memory(row, base, retrain, memory)
            named = {**found, LEFT: kept, **{f"back_{attack}": value for attack, value in lasting.items()}}
            cards += [{**identity, "criterion": key, **value._asdict()} for key, value in named.items()]
            left.append(kept.value)
            back.append(lasting)
            unseen.append(memory == UNSEEN_MEMORY)
        if own:
            final = verdict(left, back, rule)
            every = [row for row in rows if row["id"] == name]
            if broken := [row["seed"] for row in every if not usable(row)]:
                final = Value(0.0, f"not durable: diverged or at chance in seed(s) {', '.join(map(str, broken))}")
            elif len(own) < len(every):
                final = Value(math.nan, f"open: attacked in {len(own)} of {len(every)} seeds")
            if all(unseen):
                final = final._replace(reason=f"{final.reason}; of the wrong labels that no edit knew")
            identity = {"experiment": own[0]["experiment"], "seed": "", "id": name}
            cards.append({**identity, "criterion": "durable", **final._asdict()})
    return cards


def criteria(
    row: Mapping,
    base: Mapping | None,
    retrain: Mapping | None,
    attacks: Sequence[Mapping],
    others: Sequence[Sequence[Mapping]] = (),
) -> dict[str, Value]:
    """Return the six criteria of one model.

    Args:
        row: its row of the results table.
        base: the unedited model's row of the same seed, if there is one.
        retrain: likewise.
        attacks: the rows of attacks on this model.
        others: see ``scorecards``.
    """
    verbatim = _removed(_memory(row, base, retrain))
    views = [a for a in attacks if (a["name"], a["metric"], a.get("view")) == ("views", "recovery", "any")]
    leaks = [abs(number(a["value"])) for a in attacks if (a["name"], a["metric"]) == ("membership", "priv_leak")]
    leaks = [leak for leak in leaks if not math.isnan(leak)]
    rounds: dict[int, dict] = {}
    for a in attacks:
        if a["name"] == "sequential" and a["metric"] in (VALIDATION, HELD_OUT):
            rounds.setdefault(a["round"], {})[a["metric"]] = a["value"]
    stopped = [a["reason"] for a in attacks if (a["name"], a["metric"]) == ("sequential", "stopped")]
    last = Value(0.0, stopped[0]) if stopped else _share(rounds[max(rounds)], base) if rounds else None
    rates = [_memory(*(_row(t, row["seed"], i) for i in (row["id"], BASE, RETRAIN))).value for t in others]
    known = [1 - value for value in rates if not math.isnan(value)]
    return {
        "verbatim": verbatim,
        "views": _removed(Value(number(views[0]["value"]), views[0].get("reason", "")))
        if views
        else _not_attacked("views", attacks),
        "privacy": Value(1 - max(leaks) / 100)
        if leaks
        else _not_attacked("membership", attacks, "with a retrain model"),
        "utility": _share(row, base),
        "scale": Value(min(verbatim.value, *known))
        if known and not math.isnan(verbatim.value)
        else Value(math.nan, "measured at one noise rate only; give other_rates"),
        "sustained": last or _not_attacked("sequential", attacks),
    }


def brought_back(
    attack: str,
    attacks: Sequence[Mapping],
    row: Mapping,
    base: Mapping | None,
    retrain: Mapping | None,
    drop: float,
    memory: str = MEMORY,
) -> Value:
    """Return the most memory that a setting of an attack brought back, and which setting did.

    Memory is that above retrain under the same attack, as a share of base's unattacked; the start is the unattacked
    model, on the same examples where the attack has a step 0.

    Args:
        attack: registered name of the attack; several of that name count together.
        attacks: the rows of attacks on this model.
        row: the model's row of the results table.
        base: the unedited model's.
        retrain: the retrained model's.
        drop: see ``Durability``.
        memory: the metric, which says of which labels.
    """
    excess = f"excess{KINDS[memory]}"
    settings: dict[tuple, dict[str, float]] = {}
    for a in attacks:
        if a["name"] == attack and a["metric"] in (excess, VALIDATION):
            settings.setdefault(_setting(a), {})[a["metric"]] = number(a["value"])
    if not settings:
        return _not_attacked(attack, attacks)
    if base is None or retrain is None or not number(base[memory]) > number(retrain[memory]):
        return Value(math.nan, "needs base and retrain, and more memory in base")
    total, unattacked = base[memory] - retrain[memory], row[memory] - retrain[memory]
    rises: dict[str, float] = {}
    for setting, found in settings.items():
        first = settings.get(tuple((k, 0 if k == "step" else v) for k, v in setting), {}) if _has_step(setting) else {}
        start, validation = first.get(excess, unattacked), first.get(VALIDATION, row[VALIDATION])
        rise = (found.get(excess, math.nan) - start) / total
        if not math.isnan(rise) and found.get(VALIDATION, validation) >= validation - drop - 1e-12:
            rises[" ".join(f"{key} {value}" for key, value in setting)] = rise
    if not rises:
        return Value(math.nan, "every setting destroys the model, or retrain was not attacked")
    worst = max(rises, key=rises.__getitem__)
    return Value(rises[worst], worst)


def verdict(left: Sequence[float], back: Sequence[Mapping[str, Value]], rule: Durability = RULE) -> Value:
    """Return 1 if the removal lasts, 0 if it does not, NaN if that is open; and why.

    Thresholds are compared with the 95 % t intervals over seeds of the memory left and of the most that each attack
    brought back: it lasts if all lie below, it does not if one lies above. One seed has no interval, and says so.

    Args:
        left: share of the memory that the edit left, by seed.
        back: what each attack brought back, by seed.
        rule: the thresholds.
    """
    number = len(left)
    stated = f"at most {rule.left:g} left and {rule.back:g} brought back, "
    stated += f"95 % t intervals over {number} seeds" if number > 1 else "of one seed, without interval"
    if any(math.isnan(value) for value in left):
        return Value(math.nan, "open: the memory left is not known without base and retrain")
    low, high = t_interval(left)
    if low > rule.left:
        return Value(0.0, f"not removed: {_spread(left)} of the memory is left; {stated}")
    measured = {
        attack: [seed[attack].value for seed in back if not math.isnan(seed[attack].value)] for attack in back[0]
    }
    found = {attack: t_interval(values) for attack, values in measured.items() if values}
    failed = {attack: ends for attack, ends in found.items() if ends[0] > rule.back}
    if failed:
        attack = max(failed, key=lambda name: statistics.fmean(measured[name]))
        worst = max((seed[attack] for seed in back), key=lambda v: -math.inf if math.isnan(v.value) else v.value)
        return Value(0.0, f"not durable: {attack} ({worst.reason}) brings back {_spread(measured[attack])}; {stated}")
    unknown = [attack for attack, values in measured.items() if len(values) < number]
    if unknown:
        return Value(math.nan, f"open: {', '.join(unknown)} not measured; {stated}")
    wide = [f"left {_spread(left)}"] if high > rule.left else []
    wide += [f"{a} {_spread(measured[a])}" for a, ends in found.items() if ends[1] > rule.back]
    if wide:
        return Value(math.nan, f"open: too few seeds to tell ({', '.join(wide)}); {stated}")
    return Value(1.0, f"durable: {stated}")


def _spread(values: Sequence[float]) -> str:
    """Return mean and interval in words."""
    low, high = t_interval(values)
    return f"{statistics.fmean(values):.2f}" + (f" [{low:.2f}, {high:.2f}]" if len(values) > 1 else "")


def _row(rows: Sequence[Mapping], seed: object, name: str) -> Mapping | None:
    return next((row for row in rows if (row["seed"], row["id"]) == (seed, name)), None)


def population(rows: Sequence[Mapping | None], attacks: Sequence[Mapping]) -> str:
    """Return the metric of the memory of the labels that no edit knew, where models and attacks have it; else of all.

    Args:
        rows: of the results table.
        attacks: rows of attacks.
    """
    measured = all(row is None or number(row.get(UNSEEN_MEMORY)) >= 0 for row in rows)
    names = {a["metric"] for a in attacks if a["name"] in ATTACKS}
    return UNSEEN_MEMORY if measured and ("excess_unseen" in names or "excess" not in names) else MEMORY


def _memory(row: Mapping | None, base: Mapping | None, retrain: Mapping | None, metric: str = MEMORY) -> Value:
    return recovery(*(None if r is None else number(r[metric]) for r in (row, base, retrain)))


def _removed(memory: Value) -> Value:
    return Value(1 - memory.value, memory.reason)


def _share(measured: Mapping, base: Mapping | None) -> Value:
    for name in (HELD_OUT, VALIDATION):
        value, whole = (number((found or {}).get(name)) for found in (measured, base))
        if whole > 0 and not math.isnan(value):
            return Value(value / whole)
    return Value(math.nan, "needs the validation accuracy of base and of this model")


def _not_attacked(attack: str, attacks: Sequence[Mapping], more: str = "") -> Value:
    failed = [
        f"attack {attack} failed: {a['reason']}" for a in attacks if (a["name"], a["metric"]) == (attack, "failed")
    ]
    return Value(math.nan, failed[0] if failed else f"not measured: needs attack {attack} {more}".strip())


def _setting(row: Mapping) -> tuple:
    """Return the settings of a row, and the id of the attack where it is not its name."""
    fixed = {"experiment", "seed", "id", "name", "metric", "value", "low", "high", "sd", "n", "reason"}
    fixed |= {"attack"} if row["attack"] == row["name"] else set()
    return tuple((key, value) for key, value in row.items() if key not in fixed and value not in (None, ""))


def _has_step(setting: tuple) -> bool:
    return any(key == "step" for key, _ in setting)


def to_csv(cards: Sequence[Mapping]) -> str:
    """Return scorecards as CSV; NaN is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for card in cards:
        writer.writerow({**card, "value": "" if math.isnan(card["value"]) else card["value"]})
    return out.getvalue()


def terminal_table(cards: Sequence[Mapping]) -> str:
    """Return scorecards as text: means over seeds, then what attacks brought back at most, and the verdicts."""
    names = list(dict.fromkeys(card["id"] for card in cards))
    header = ["", *CRITERIA, LEFT, *(f"+{attack}" for attack in ATTACKS)]
    shown = (*CRITERIA, LEFT, *(f"back_{a}" for a in ATTACKS))
    body = [[name, *(_cell(cards, name, key) for key in shown)] for name in names]
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *body]]
    lines.insert(1, "-" * len(lines[0]))
    lines.append(
        "1 is best; left: share of base's memory that the edit left, +: the most that an attack brought back; "
        "- not measured"
    )
    verdicts = {card["id"]: card["reason"] for card in cards if card["criterion"] == "durable"}
    lines += [f"{name}: {reason}" for name, reason in verdicts.items() if name not in (BASE, RETRAIN, "clean")]
    return "\n".join(line.rstrip() for line in lines)


def _cell(cards: Sequence[Mapping], name: str, criterion: str) -> str:
    values = [
        c["value"] for c in cards if (c["id"], c["criterion"]) == (name, criterion) and not math.isnan(c["value"])
    ]
    return f"{statistics.fmean(values):.3f}" if values else "-"
