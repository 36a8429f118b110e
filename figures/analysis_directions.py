"""The images that single components answer to most, and where the model looks before and after an edit."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from vitmem.figures import style, words
from vitmem.figures.over_seeds import estimate, grouped, seeds_of
from vitmem.figures.staircase import choose

KINDS = {
    "top": "highest curvature",
    "bottom": "lowest curvature",
    "differs": "differs most",
    "random": "random (null)",
}
MEMORISED, CLEAN = style.VERMILLION, "#BBBBBB"
STRIPS, IMAGES = 2, 10  # components of each kind, and images of each, that are drawn
SIDE, FRAME = 48, 4  # pixels of an image and of its frame
NUMBERS = {
    "component": ("share", "null", "p", "curvature", "response_memorised", "response_clean"),
    "attention": ("overlap", "overlap_null", "entropy_before", "entropy_after", "p_overlap", "p_entropy", "count"),
}
SETTINGS = ("id", "measure", "layer", "kind", "component", "edit")
HEADER = [*SETTINGS, "number", "mean", "low", "high", "seeds"]
OUTCOMES = {True: "flipped", False: "not flipped"}


@style.look()
def draw(rows: list[dict], out: Path, name: str, arrays: Mapping[str, np.ndarray]) -> list[Path]:
    """Draw shares of memorised images among the strongest, these images for some layers, and attention.

    Args:
        rows: of the table.
        out: folder of the figures.
        name: of the figure; that of attention is ``<name>_attention``.
        arrays: small images and attention of the first model of the table; without any, only shares are drawn.

    Returns:
        The PNGs.
    """
    base = [row for row in rows if row["id"] == rows[0]["id"]]
    first = [row for row in base if row["seed"] == rows[0]["seed"] and row["measure"] == "component"]
    layers = choose([layer for layer in dict.fromkeys(row["layer"] for row in first) if layer != "all"])
    layers = layers[1:2] + layers[-1:] if "image" in arrays else []
    layers = list(dict.fromkeys(layers))
    figure = style.new_figure(style.WIDE, 1.6 + (0.29 * len(KINDS) * STRIPS + 0.45 if layers else 0))
    parts = figure.subfigures(2, 1, height_ratios=[1.6, 0.29 * len(KINDS) * STRIPS + 0.45]) if layers else [figure]
    _shares(parts[0].subplots(), [row for row in base if row["measure"] == "component"])
    if layers:
        for axes, layer in zip(parts[1].subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
            _strips(axes, [row for row in first if row["layer"] == layer], arrays)
            axes.set_title(f"{layer}: strongest (share memorised, p)", fontsize=7)
        handles = [Patch(color=MEMORISED, label="memorised"), Patch(color=CLEAN, label="clean")]
        parts[1].legend(handles=handles, loc="outside lower center", ncols=2)
    table = [
        (*key, number, *at)
        for key, own in grouped(rows, *SETTINGS).items()
        for number in NUMBERS[key[1]]
        if (at := estimate(own, number)).seeds
    ]
    paths = [style.save(figure, out, name, HEADER, table)]
    shown = [row for row in base if row["measure"] == "attention"]
    if shown and "attention_before" in arrays:
        paths.append(_attention(shown, out, f"{name}_attention", arrays))
    return paths


def _shares(axes, rows: list[dict]) -> None:
    for y, kind in enumerate(reversed(KINDS)):
        single = [row for row in rows if row["kind"] == kind and row["layer"] != "all"]
        spread = np.linspace(-0.22, 0.22, max(2, len(single)))[: len(single)]
        axes.plot([row["share"] for row in single], y + spread, ".", color=style.BLUE, alpha=0.25, markersize=3)
        whole = [row for row in rows if row["kind"] == kind and row["layer"] == "all"]
        if whole:
            ends = [estimate(whole, f"null_{end}").mean for end in ("low", "high")]
            axes.plot(ends, [y, y], color=style.GREY, linewidth=7, solid_capstyle="butt", alpha=0.7)
            at = estimate(whole, "share")
            axes.errorbar(at.mean, y, xerr=at.errors if at.seeds > 1 else None, color=style.VERMILLION, marker="D")
    axes.set_yticks(range(len(KINDS)), list(KINDS.values())[::-1])
    axes.set(xlabel="share of memorised images among those of strongest response", xlim=(-0.02, None))
    axes.set_title(
        f"diamond: mean over components (dots); bar: memorised dealt out at random; {seeds_of(rows)}", fontsize=7
    )


def _strips(axes, rows: list[dict], arrays: Mapping[str, np.ndarray]) -> None:
    """Draw a line of images for some components of a layer."""
    at = {int(index): number for number, index in enumerate(arrays["index"])}
    lines, labels = [], []
    for kind in KINDS:
        for row in [row for row in rows if row["kind"] == kind][:STRIPS]:
            indices = [row.get(f"image_{i}", math.nan) for i in range(1, IMAGES + 1)]
            cells = [
                framed(arrays["image"][at[int(i)]], MEMORISED if arrays["memorised"][at[int(i)]] else CLEAN)
                for i in indices
                if not math.isnan(i) and int(i) in at
            ]
            blank = np.ones((SIDE, SIDE, 3))
            lines.append(np.concatenate([*cells, *[blank] * (IMAGES - len(cells))], axis=1))
            labels.append(f"{kind} {row['component']}\n{row['share']:.0%}, p {row['p']:.2g}")
    axes.imshow(np.concatenate(lines), interpolation="nearest", aspect="equal")
    axes.set_yticks([SIDE * (i + 0.5) for i in range(len(lines))], labels, fontsize=5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def framed(image: np.ndarray, color: str) -> np.ndarray:
    """Return an image of ``SIDE`` pixels in [0, 1] with a frame.

    Args:
        image: H W C, uint8, of one channel or three.
        color: of the frame.
    """
    inner = SIDE - 2 * FRAME
    rows, columns = ((np.arange(inner) * size / inner).astype(int) for size in image.shape[:2])
    found = np.ones((SIDE, SIDE, 3)) * to_rgb(color)
    found[:2] = found[-2:] = found[:, :2] = found[:, -2:] = 1  # a gap between neighbours
    found[FRAME:-FRAME, FRAME:-FRAME] = (image[rows][:, columns] / 255.0)[..., :3]
    return found


def _attention(rows: list[dict], out: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Draw images with the attention before and after an edit, of flipped ones and of others."""
    at = {int(index): number for number, index in enumerate(arrays["index"])}
    edit = rows[0]["edit"]
    rows = [row for row in rows if row["edit"] == edit]
    figure = style.new_figure(style.WIDE, 2.2)
    for axes, (is_flipped, outcome) in zip(figure.subplots(1, 2), OUTCOMES.items(), strict=True):
        own = np.flatnonzero(arrays["attention_flipped"] == is_flipped)
        cells = [[framed(arrays["image"][at[int(arrays["attention_index"][i])]], CLEAN) for i in own]]
        for when in ("before", "after"):
            maps = arrays[f"attention_{when}"][own]
            maps = colormaps["viridis"](maps / maps.max((1, 2), keepdims=True))[..., :3]
            cells.append([framed((part * 255).astype(np.uint8), CLEAN) for part in maps])
        axes.imshow(np.concatenate([np.concatenate(line, 1) for line in cells]), interpolation="nearest")
        axes.set_yticks([SIDE * (i + 0.5) for i in range(3)], ["image", "before", "after"])
        axes.set_xticks([])
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        kind = [row for row in rows if row["kind"] == ("flipped" if is_flipped else "unflipped")]
        numbers = {n: estimate(kind, n).mean for n in NUMBERS["attention"]}
        axes.set_title(
            f"{outcome}: entropy {numbers['entropy_before']:.2f} to {numbers['entropy_after']:.2f} nats,\n"
            f"overlap {numbers['overlap']:.2f}, with another image's {numbers['overlap_null']:.2f}",
            fontsize=7,
        )
    p = ", ".join(f"{rows[0][f'p_{name}']:.2g} ({name})" for name in ("overlap", "entropy"))
    title = words.literal(words.words(words.row_of(edit)))
    figure.suptitle(f"attention of the last block before and after {title}; flipped against not: p {p}", fontsize=7)
    drawn = zip(arrays["attention_index"], arrays["attention_flipped"], strict=True)
    return style.save(figure, out, name, ["index", "flipped"], [(int(i), int(f)) for i, f in drawn])
