"""Accuracies over the epochs of training, and whether an edit removes what training added early or late."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitmem.figures import style, words
from vitmem.figures.over_seeds import estimate, grouped, of_base, seeds_of

PARTS = {
    "early": ("up to the best epoch", style.BLUE, "s"),
    "late": ("after it", style.VERMILLION, "o"),
}
BANDS = (style.VERMILLION, "#E69F00", style.GREEN, style.BLUE, style.GREY)
NUMBERS = {
    "accuracy": (*style.ACCURACIES, "tuning_accuracy"),
    "overlap": ("value", "null", "p"),
    "bands": ("ratio", "ratio_over_norm", "null", "p"),
}
_ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.45, 1.0), "ncols": 2, "columnspacing": 0.8, "handletextpad": 0.3}
SETTINGS = ("id", "measure", "epoch", "edit", "against", "layer", "order", "definition", "band")
HEADER = [*SETTINGS, "number", "mean", "low", "high", "seeds"]


@style.look()
def draw(rows: list[dict], out: Path, name: str) -> list[Path]:
    """Draw, of the base model, accuracies and overlaps over all layers, and bands by epoch where they were measured.

    See ``vitmem.figures.analyses``.
    """
    base = of_base(rows)
    kinds = {measure: [row for row in base if row["measure"] == measure] for measure in NUMBERS}
    edits = set(labels(kinds["overlap"]).values())
    shown = [measure for measure, own in kinds.items() if own]
    figure = style.new_figure(style.WIDE, max(2.6, 0.2 * len(edits) + 1.3))
    drawing = {"accuracy": _accuracies, "overlap": _overlaps, "bands": _bands}
    for axes, measure in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        drawing[measure](axes, kinds[measure])
    best = sorted({row.get("best_epoch", row["epoch"]) for row in kinds["overlap"]})
    if best and kinds["accuracy"]:
        for number, epoch in enumerate(best):
            label = "best validation accuracy" if number == 0 else None
            figure.axes[0].axvline(epoch, color="black", linestyle=":", linewidth=0.8, label=label)
        figure.axes[0].legend(**_ABOVE)
    figure.suptitle(seeds_of(base), fontsize=7)
    table = [
        (*key, number, *at)
        for key, own in grouped(rows, *SETTINGS).items()
        for number in NUMBERS[key[1]]
        if (at := estimate(own, number)).seeds
    ]
    return [style.save(figure, out, name, HEADER, table)]


def labels(rows: Sequence[Mapping]) -> dict[str, str]:
    """Return words for edits by id: for the kind where every seed has one edit of it, of whatever strength.

    Args:
        rows: of overlaps.
    """
    ids = list(dict.fromkeys(row["edit"] for row in rows))
    known = {edit: words.row_of(edit) for edit in ids}
    kinds = {edit: words.family(row) for edit, row in known.items()}
    by_seed = grouped((row | {"kind": kinds[row["edit"]]} for row in rows), "seed", "kind")
    several = {kind for (_, kind), own in by_seed.items() if len({row["edit"] for row in own}) > 1}
    alone = [kind for edit, kind in kinds.items() if kind not in several]
    return {
        edit: words.literal(words.title(row) if alone.count(kinds[edit]) > 1 else words.words(row))
        for edit, row in known.items()
    }


def _accuracies(axes, rows: list[dict]) -> None:
    epochs = grouped((row for row in rows if not math.isnan(row["epoch"])), "epoch")
    for metric, look in style.ACCURACIES.items():
        at = {epoch: estimate(own, metric) for (epoch,), own in epochs.items()}
        at = {epoch: e for epoch, e in at.items() if e.seeds}
        errors = [[e.errors[side][0] for e in at.values()] for side in (0, 1)]
        axes.errorbar(
            [*at], [e.mean for e in at.values()], errors, color=look.color, marker=look.marker, label=look.label
        )
    axes.set(xlabel="epochs of training", ylabel="accuracy (fraction)", ylim=(-0.03, 1.03))
    axes.legend(**_ABOVE)


def _overlaps(axes, rows: list[dict]) -> None:
    named = labels(rows)
    rows = [row | {"edit": named[row["edit"]]} for row in rows if row["layer"] == "all"]
    found = grouped(rows, "edit", "against")
    edits = list(dict.fromkeys(edit for edit, _ in found))[::-1]
    for number, (part, (label, color, marker)) in enumerate(PARTS.items()):
        for y, edit in enumerate(edits):
            if (edit, part) in found:
                at, height = estimate(found[edit, part], "value"), y + 0.15 * (1 - 2 * number)
                axes.errorbar(at.mean, height, xerr=at.errors if at.seeds > 1 else None, color=color, marker=marker,
                              linestyle="", label=label if y == 0 else None)  # fmt: skip
                ends = [estimate(found[edit, part], f"null_{end}").mean for end in ("low", "high")]
                axes.plot(ends, [height] * 2, color="black", linewidth=1.5, marker="|", markersize=5,
                          label="random directions (null)" if (y, number) == (0, 0) else None)  # fmt: skip
    axes.axvline(0, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(edits)), edits, fontsize=6)
    axes.set(xlabel="cosine of W - W_edit\nwith what training added", ylim=(-0.6, len(edits) - 0.4))
    axes.legend(**_ABOVE)


def _bands(axes, rows: list[dict]) -> None:
    own = [r for r in rows if (r["order"], r["definition"]) == ("curvature", "output") and not math.isnan(r["epoch"])]
    found = grouped(own, "band", "epoch")
    bands = list(dict.fromkeys(band for band, _ in found))
    for band, color in zip(bands, BANDS, strict=False):
        at = {epoch: estimate(part, "ratio") for (name, epoch), part in found.items() if name == band}
        errors = [[e.errors[side][0] for e in at.values()] for side in (0, 1)]
        label = "whole output" if band == "norm" else band
        axes.errorbar([*at], [e.mean for e in at.values()], errors, color=color, marker=".", linewidth=0.9, label=label)
    axes.axhline(1, color="black", linewidth=0.7, linestyle=":")
    axes.set(xlabel="epochs of training", ylabel="response: memorised / clean")
    axes.legend(**_ABOVE)
