"""Scorecards: six criteria after MUSE, and whether a removal lasts; pure functions of result tables.

Criteria are 1 where an edit does as well as is hoped for, and 0 where it achieves nothing; they are not clipped.
Source: Shi et al. 2024 (MUSE, arXiv 2407.06460), translated from text to labelled images.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence

from vitmem.evaluation.durability import (
    ATTACKS,
    RULE,
    VALIDATION,
    Durability,
    Verdict,
    brought_back,
    memory_left,
    not_attacked,
    population,
    verdict,
)
from vitmem.evaluation.recovery import BASE, MEMORY, RETRAIN, Value, number, recovery
from vitmem.evaluation.tables import usable
from vitmem.evaluation.typeset import plain

CRITERIA = {
    "verbatim": "share of the memory removed, on the images as they were learnt: 1 - recovery",
    "views": "the same, where one altered copy with its wrong label is enough (attack `views`)",
    "privacy": "1 - |PrivLeak| / 100, worst over the scores of attack `membership`",
    "utility": "validation accuracy / that of base, on the half that no edit or tuning sees where it was measured",
    "scale": "lowest `verbatim` over noise rates",
    "sustained": "the same, after the edit was repeated (attack `sequential`); 0 if it diverged",
}
HELD_OUT = "validation_held_out_accuracy"
JUDGED = {"durable_left": "left", "durable_back": "back"}  # what a verdict is about, and how tables call it
COLUMNS = ("experiment", "seed", "id", "criterion", "value", "low", "high", "reason", "population")


def scorecards(
    rows: Sequence[Mapping],
    attacks: Sequence[Mapping],
    others: Sequence[Sequence[Mapping]] = (),
    rule: Durability = RULE,
) -> list[dict]:
    """Return, for each model that was attacked, its criteria by seed, what attacks brought back, and a verdict.

    Criteria are about all wrong labels; what was left and brought back, and the verdict, about those that no edit knew,
    for every edit of the table (see ``durability.population``).

    Args:
        rows: of the results table.
        attacks: rows as ``recovery.with_recovery`` returns them.
        others: results tables of the same models at other noise rates.
        rule: of the verdict.

    Returns:
        Rows of ``COLUMNS``. Without a seed are the verdict (criterion ``durable``: 1, 0, or NaN where it is open) and
        the numbers that it is about (``JUDGED``).
    """
    attacked = {(row["seed"], row["id"]) for row in attacks}
    memory, of = population(rows, attacks)
    cards: list[dict] = []
    for name in dict.fromkeys(row["id"] for row in rows):
        every = [row for row in rows if row["id"] == name]
        own = [row for row in every if (row["seed"], name) in attacked]
        left, back = [], []
        for row in own:
            seed = row["seed"]
            base, retrain = (_row(rows, seed, reference) for reference in (BASE, RETRAIN))
            theirs = [a for a in attacks if (a["seed"], a["id"]) == (seed, name)]
            found = criteria(row, base, retrain, theirs, others)
            left.append(memory_left(row, base, retrain, memory))
            back.append({a: brought_back(a, theirs, row, base, retrain, rule.drop, memory) for a in ATTACKS})
            identity = {"experiment": row["experiment"], "seed": seed, "id": name}
            cards += [{**identity, "criterion": key, **value._asdict()} for key, value in found.items()]
            lasting = {"left": left[-1], **{f"back_{attack}": value for attack, value in back[-1].items()}}
            cards += [
                {**identity, "criterion": key, **value._asdict(), "population": of} for key, value in lasting.items()
            ]
        if own:
            identity = {"experiment": own[0]["experiment"], "seed": "", "id": name, "population": of}
            judged = _judged(every, own, verdict(left, back, rule))
            values = zip((*JUDGED, "durable"), (judged.left, judged.back, judged.durable), strict=True)
            cards += [{**identity, "criterion": key, **value._asdict()} for key, value in values]
    return cards


def _judged(every: Sequence[Mapping], own: Sequence[Mapping], found: Verdict) -> Verdict:
    """Return a verdict that counts the seeds that were lost or not attacked."""
    final = found.durable
    if broken := [row["seed"] for row in every if not usable(row)]:
        final = Value(0.0, f"not durable: diverged or at chance in seed(s) {', '.join(map(str, broken))}")
    elif len(own) < len(every):
        final = Value(math.nan, f"open: attacked in {len(own)} of {len(every)} seeds")
    return found._replace(durable=final)


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
        else not_attacked("views", attacks),
        "privacy": Value(1 - max(leaks) / 100)
        if leaks
        else not_attacked("membership", attacks, "with a retrain model"),
        "utility": _share(row, base),
        "scale": Value(min(verbatim.value, *known))
        if known and not math.isnan(verbatim.value)
        else Value(math.nan, "measured at one noise rate only; give other_rates"),
        "sustained": last or not_attacked("sequential", attacks),
    }


def _row(rows: Sequence[Mapping], seed: object, name: str) -> Mapping | None:
    return next((row for row in rows if (row["seed"], row["id"]) == (seed, name)), None)


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


def to_csv(cards: Sequence[Mapping]) -> str:
    """Return scorecards as CSV; NaN is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for card in cards:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in card.items()})
    return out.getvalue()


MARKS = (
    "1 is best; + is the most memory that an attack brought back (share of base's, 0 is best), left what the edit "
    "left, back the most of all attacks in each seed [95 % interval]; - not measured"
)


def table(cards: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Return scorecards as a table: titles, and cells by id: means over seeds, then what verdicts are about."""
    header = ["", *CRITERIA, *(f"+{attack}" for attack in ATTACKS), *JUDGED.values()]
    shown = (*CRITERIA, *(f"back_{a}" for a in ATTACKS), *JUDGED)
    names = dict.fromkeys(card["id"] for card in cards)
    return header, [[name, *(_cell(cards, name, key) for key in shown)] for name in names]


def verdicts(cards: Sequence[Mapping]) -> list[str]:
    """Return which wrong labels verdicts are about, and the verdict of each edit."""
    found = {card["id"]: card for card in cards if card["criterion"] == "durable"}
    of = sorted({f"+, left, back and verdicts: of {card['population']}" for card in found.values()})
    return of + [f"{name}: {card['reason']}" for name, card in found.items() if name not in (BASE, RETRAIN, "clean")]


def terminal_table(cards: Sequence[Mapping]) -> str:
    """Return scorecards as the text of ``table``, and the verdicts."""
    return "\n".join(line.rstrip() for line in [*plain(*table(cards)), MARKS, *verdicts(cards)])


def _cell(cards: Sequence[Mapping], name: str, criterion: str) -> str:
    own = [c for c in cards if (c["id"], c["criterion"]) == (name, criterion) and not math.isnan(c["value"])]
    if not own:
        return "-"
    low, high = (own[0].get(end, math.nan) for end in ("low", "high"))
    ends = f" [{low:.3f}, {high:.3f}]" if criterion in JUDGED and not math.isnan(low) else ""
    return f"{statistics.fmean(c['value'] for c in own):.3f}{ends}"
