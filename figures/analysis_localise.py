"""Where the memory sits: what is left of it when one block and one kind of layer is changed, and probes by depth."""

import math
from pathlib import Path

import numpy as np

from vitmem.figures import style
from vitmem.figures.over_seeds import Estimate, estimate, grouped, of_base, seeds_of

MODES = ("scale", "rewind", "ekfac")
SHOWN = {"memorized_lost": "memory lost", "validation_lost": "validation lost"}
PROBES = {"given": ("given labels", style.VERMILLION, "o"), "true": ("true labels", style.GREEN, "s")}
HEADER = ["id", "mode", "block", "kind", "number", "mean", "low", "high", "seeds"]


@style.look()
def draw(rows: list[dict], out: Path, name: str) -> list[Path]:
    """Draw, of the base model, a map of blocks and kinds for each mode, and the probes by depth.

    See ``vitmem.figures.analyses``.
    """
    base = of_base(rows)
    found = grouped(base, "mode", "block", "kind")
    modes = [mode for mode in MODES if any(key[0] == mode for key in found)]
    probes = [key for key in found if key[0] == "probe"]
    blocks = [*list(dict.fromkeys(str(b) for m, b, _ in found if m in MODES and b != "all")), "all"]
    kinds = [*list(dict.fromkeys(k for m, _, k in found if m in MODES and k != "all")), "all"]
    figure = style.new_figure(style.WIDE, (0.24 * len(blocks) + 0.55) * len(SHOWN) + (1.9 if probes else 0.3))
    upper, lower = figure.subfigures(2, 1, height_ratios=[3, 2]) if probes else (figure, None)
    panels = upper.subplots(len(SHOWN), max(1, len(modes)), squeeze=False)
    for column, mode in enumerate(modes):
        for line, (number, words) in enumerate(SHOWN.items()):
            _map(panels[line, column], found, mode, blocks, kinds, number)
            panels[line, column].set_title(f"{mode}: {words}", fontsize=7)
    if lower is not None:
        _probes(lower.subplots(), found, probes)
    figure.suptitle(seeds_of(base), fontsize=7)
    numbers = [
        f"{n}{end}"
        for n in ("memorized", "ground_truth", "clean_train", "validation")
        for end in ("_accuracy", "_lost")
    ]
    table = [
        (*key, number, *estimate(own, number))
        for key, own in grouped(rows, "id", "mode", "block", "kind").items()
        for number in (("accuracy", "permuted", "p") if key[1] == "probe" else numbers)
        if key[1] != "none" or number.endswith("_accuracy")
    ]
    return [style.save(figure, out, name, HEADER, table)]


def _map(axes, found: dict, mode: str, blocks: list[str], kinds: list[str], number: str) -> None:
    shown = {(str(b), k): own for (m, b, k), own in found.items() if m == mode}
    nothing = Estimate(math.nan, math.nan, math.nan, 0)
    value = np.array(
        [[(estimate(shown[b, k], number) if (b, k) in shown else nothing).mean for k in kinds] for b in blocks]
    )
    axes.imshow(value, vmin=0, vmax=1, cmap="Oranges" if number.startswith("mem") else "Blues", aspect="auto")
    for (y, x), cell in np.ndenumerate(value):
        if not math.isnan(cell):
            text = f"{cell:.2f}".replace("0.", ".").replace("-.00", ".00")
            axes.text(x, y, text, ha="center", va="center", fontsize=5.5, color="white" if cell > 0.6 else "black")
    axes.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", fontsize=6)
    axes.set_yticks(range(len(blocks)), [f"block {b}" if b.isdigit() else b for b in blocks], fontsize=6)
    axes.grid(False)


def _probes(axes, found: dict, keys: list[tuple]) -> None:
    places = list(dict.fromkeys(str(block) for _, block, _ in keys))
    for kind, (words, color, marker) in PROBES.items():
        own = {str(block): found[m, block, k] for m, block, k in keys if k == kind}
        at = [estimate(own[place], "accuracy") for place in places]
        errors = np.concatenate([np.array(e.errors) for e in at], axis=1)
        axes.errorbar(range(len(places)), [e.mean for e in at], errors, color=color, marker=marker, label=words)
        null = [estimate(own[place], "permuted").mean for place in places]
        axes.plot(range(len(places)), null, color=color, linestyle=":", label=f"{words}, permuted (null)")
    axes.set_xticks(range(len(places)), [p.removeprefix("blocks.") if p == "head" else f"after {p}" for p in places])
    axes.set(ylabel="accuracy of a linear probe", ylim=(0, 1))
    axes.legend(ncols=2)
