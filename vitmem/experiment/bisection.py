"""Matched strength: each edit's one strength where memorised accuracy, or validation, crosses what is asked for.

A strength is the share that an edit keeps, such as rho or keep. Trials first walk a ladder that is the same for every
edit, from the mildest to the strongest; then each target in turn halves the bracket in which it is first crossed, from
the mild side: deep down edits are not monotone. So every edit has as many trials, and none starts from its default.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

TARGETS = (0.4, 0.3, 0.2, 0.1)  # of memorised accuracy
SHARES = ("rho", "fraction", "keep", "factor")  # strengths with one prior: a share kept
RANGE = (0.02, 0.998)  # of shares, evenly in log-odds
LADDER = 9
FEWEST = LADDER + len(TARGETS) + 1


def strength(option: str | None, space: Mapping[str, tuple]) -> dict[str, tuple]:
    """Return the one option that is bisected with its range, or nothing if an edit has no strength to choose.

    Args:
        option: the edit's main option.
        space: what may be chosen, as ``Edit.search``; the mild end of a range is the high one.
    """
    if option not in space:
        return {}
    if option in SHARES:
        return {option: ("share", *RANGE)}
    return {option: space[option]} if space[option][0] in ("log", "uniform") else {}


def proposed(spec: tuple, option: str, trials: Sequence[Mapping], within: Callable[[Mapping], bool]) -> float:
    """Return the strength of the next trial.

    Args:
        spec: kind of scale (share, log or uniform) and range.
        option: its name.
        trials: so far.
        within: tells whether a trial keeps validation.
    """
    kind, low, high = spec
    if len(trials) < LADDER:
        return _between(kind, high, low, len(trials) / (LADDER - 1))
    target = (*TARGETS, None)[(len(trials) - LADDER) % (len(TARGETS) + 1)]
    ordered = mild_first(trials, option)
    number = _first_crossing(target, ordered, within)
    strong = ordered[number]["options"][option]
    if number:
        return _between(kind, ordered[number - 1]["options"][option], strong, 0.5)
    unchanged = 1.0 if kind == "share" else high  # the unedited model is the mildest of all
    return (unchanged + strong) / 2


def _first_crossing(target: float | None, ordered: Sequence[Mapping], within: Callable[[Mapping], bool]) -> int:
    """Return the first trial that is down at a memorised accuracy, or after the last that keeps validation."""
    if target is None:
        keeping = [k for k, trial in enumerate(ordered) if trial["status"] == "ok" and within(trial)]
        return min(max(keeping, default=-1) + 1, len(ordered) - 1)
    down = (k for k, trial in enumerate(ordered) if trial["status"] != "ok" or trial["memorized"] <= target)
    return next(down, len(ordered) - 1)


def crossing(target: float, option: str, trials: Sequence[Mapping]) -> Mapping:
    """Return the trial nearest to a memorised accuracy: of the two around its first crossing, from the mild side.

    Where none comes down to it, or what does is at chance, the nearest before that.
    """
    ordered = mild_first(trials, option)
    number = _first_crossing(target, ordered, lambda trial: True)
    around = [trial for trial in ordered[max(0, number - 1) : number + 1] if trial["status"] == "ok"]
    return min(around or ordered[:1], key=lambda trial: abs((trial["memorized"] or 0.0) - target))


def mild_first(trials: Sequence[Mapping], option: str) -> list[Mapping]:
    """Return trials from the mildest to the strongest."""
    return sorted(trials, key=lambda trial: -trial["options"][option])


def points(option: str, best: Callable) -> dict[str, Callable[[Sequence[Mapping]], Mapping]]:
    """Return how each operating point is chosen from the trials of an edit with this strength."""
    return {"best": best, **{f"at{target:g}": partial(crossing, target, option) for target in TARGETS}}


def _between(kind: str, first: float, second: float, share: float) -> float:
    scale, back = {
        "share": (lambda p: math.log(p / (1 - p)), lambda x: 1 / (1 + math.exp(-x))),
        "log": (math.log, math.exp),
        "uniform": (float, float),
    }[kind]
    return back(scale(first) + share * (scale(second) - scale(first)))
