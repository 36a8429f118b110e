"""How alike a model is to others: CKA of features by depth, and angles between the bases of its layers."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitmem.figures import style, words
from vitmem.figures.over_seeds import estimate, grouped, of_base, seeds_of
from vitmem.figures.palette import COLORS, MARKERS

IMAGES = ("memorised", "clean", "validation")
FACTORS = {"inputs": "basis of A (inputs)", "gradients": "basis of G (gradients)"}
SEEDS = "other seeds"
NUMBERS = ("value", "null", "expected", "ceiling", "p")
HEADER = ["id", "measure", "against", "place", "kind", "number", "mean", "low", "high", "seeds"]
MOST = len(MARKERS)  # models that are drawn


@style.look()
def draw(rows: list[dict], out: Path, name: str) -> list[Path]:
    """Draw, of the base model, CKA by depth for each kind of image, and the mean squared cosines of each layer.

    See ``vitmem.figures.analyses``.
    """
    rows = [row | {"against": SEEDS if re.fullmatch(r"seed\d+", row["against"]) else row["against"]} for row in rows]
    base = of_base(rows)
    against = list(dict.fromkeys(row["against"] for row in base))
    looks = dict(zip(against, zip(COLORS, MARKERS, strict=False), strict=False))
    figure = style.new_figure(style.WIDE, 4.6)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    kinds = [kind for kind in IMAGES if any(row["kind"] == kind for row in base)]
    for axes, kind in zip(upper.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0], kinds, strict=False):
        found = grouped((row for row in base if (row["measure"], row["kind"]) == ("cka", kind)), "against", "place")
        places = list(dict.fromkeys(place for _, place in found))
        _lines(axes, found, places, looks)
        axes.set_xticks(range(len(places)), [p.removeprefix("blocks.") for p in places])
        axes.set(title=f"{kind} images", xlabel="block", ylim=(-0.08, 1.04))
        axes.title.set_fontsize(8)
        if kind == kinds[0]:
            axes.set_ylabel("CKA of features")
    for axes, (kind, title) in zip(lower.subplots(1, 2, sharey=True), FACTORS.items(), strict=True):
        own = [r for r in base if (r["measure"], r["kind"]) == ("angles", kind) and r["place"] != "all"]
        found = grouped(own, "against", "place")
        places = list(dict.fromkeys(place for _, place in found))
        _lines(axes, found, places, looks)
        _control(
            axes, own, places, "ceiling", "the model itself, collected again", {"color": "black", "linestyle": ":"}
        )
        axes.set_xticks(range(len(places)), [p.removeprefix("blocks.") for p in places], rotation=90, fontsize=5.5)
        axes.set(title=title, ylim=(-0.04, 1.04))
        axes.title.set_fontsize(8)
        if kind == "inputs":
            axes.set_ylabel("mean squared cosine\nof principal angles")
    handles, labels = lower.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, title=_title(base, against))
    table = [
        (*key, number, *at)
        for key, own in grouped(rows, *HEADER[:5]).items()
        for number in NUMBERS
        if (at := estimate(per_seed(own, NUMBERS), number)).seeds
    ]
    return [style.save(figure, out, name, HEADER, table)]


def per_seed(rows: Sequence[Mapping], numbers: Sequence[str]) -> list[Mapping]:
    """Return one row for each seed: the mean of its rows where it has several, as against all other seeds."""
    found = []
    for (seed,), own in grouped(rows, "seed").items():
        means = {n: sum(row.get(n, math.nan) for row in own) / len(own) for n in numbers}
        found.append(own[0] if len(own) == 1 else {"seed": seed, **means})
    return found


def _lines(axes, found: Mapping, places: list[str], looks: Mapping[str, tuple[str, str]]) -> None:
    """Draw a line for each other model, and the null of all of them."""
    for name, (color, marker) in looks.items():
        at = [
            estimate(per_seed(found.get((name, place), []), NUMBERS), "value") if (name, place) in found else None
            for place in places
        ]
        known = [(x, e) for x, e in enumerate(at) if e is not None]
        if known:
            errors = [[e.errors[side][0] for _, e in known] for side in (0, 1)]
            axes.errorbar(
                [x for x, _ in known], [e.mean for _, e in known], errors, color=color, marker=marker, linewidth=0.9,
                label=words.literal(words.words(words.row_of(name))),
            )  # fmt: skip
    rows = [row for own in found.values() for row in own]
    _control(axes, rows, places, "null", "null control", {"color": style.GREY, "linestyle": "--"})


def _control(axes, rows: Sequence[Mapping], places: list[str], number: str, label: str, look: Mapping) -> None:
    own = grouped(rows, "place")
    at = [estimate(per_seed(own[place,], NUMBERS), number) if (place,) in own else None for place in places]
    means = [math.nan if e is None else e.mean for e in at]
    axes.plot(range(len(places)), means, label=label, linewidth=0.9, **look)


def _title(rows: Sequence[Mapping], against: Sequence[str]) -> str:
    more = f"; {len(against) - MOST} more models are in the table" if len(against) > MOST else ""
    return f"against; {seeds_of(rows)}{more}"
