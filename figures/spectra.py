"""Decay of the eigenvalues of the curvature factors A and G, and concentration of their masses, layer by layer."""

import re
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.lines import Line2D

from vitmem.figures import style
from vitmem.figures.kronecker import PairMasses
from vitmem.figures.tables import read_spectra, spectra_files

HEADER = ["layer", "block", "type", "factor", "rank", "eigenvalue", "relative"]
MASS_HEADER = ["layer", "block", "type", "tau", "pairs_kept", "pairs", "share_kept", "mass_kept"]
FACTORS = {"A": "A (inputs)", "G": "G (output gradients)"}
LINES = {"qkv": "-", "proj": "--", "fc1": "-.", "fc2": ":", "other": (0, (4, 1, 1, 1, 1, 1))}
RANKS = 60  # points of a curve, evenly spaced in log rank
FLOOR = 1e-10  # of the largest eigenvalue or mass; what lies below is rounding
THRESHOLDS = 60  # points of a curve of masses, evenly spaced in log tau


@style.look()
def draw(experiment_folder: Path, out: Path) -> list[Path]:
    """Draw two figures for each file of spectra of the smallest seed that has any.

    Args:
        experiment_folder: holds ``seed<k>/factors/*.spectra.npz`` with arrays ``<layer>/A`` and ``<layer>/G``, the
            eigenvalues in descending order.
        out: folder of the figures ``spectra`` and ``mass``, or ``spectra_<digest>`` and ``mass_<digest>`` where there
            are several files.

    Returns:
        The PNGs.
    """
    files = spectra_files(experiment_folder)
    paths = []
    for number, path in enumerate(files, 1):
        suffix = "" if len(files) == 1 else f"_{path.name[:8]}"
        layers, seed = read_spectra(path), path.parts[-3].removeprefix("seed")
        which = "" if len(files) == 1 else f"; curvature {path.name[:8]}, {number} of {len(files)}"
        title = f"seed {seed}{which}"
        paths.append(_draw_decay(layers, title, out, f"spectra{suffix}"))
        curves = {layer: concentration(pair["G"], pair["A"]) for layer, pair in layers.items() if len(pair) == 2}
        if any(curves.values()):
            paths.append(_draw_mass(curves, title, out, f"mass{suffix}"))
    return paths


def place(layer: str) -> tuple[int | None, str]:
    """Return a layer's block (None outside the blocks) and its type, a key of ``LINES``."""
    block = re.search(r"\bblocks\.(\d+)\.", layer)
    kind = layer.rpartition(".")[2]
    return (int(block[1]), kind if kind in LINES else "other") if block else (None, "other")


def decay(eigenvalues: np.ndarray) -> list[tuple[int, float, float]]:
    """Return rank from 1, eigenvalue and its ratio to the largest, for about ``RANKS`` ranks.

    Args:
        eigenvalues: (I,) or (O,), descending.
    """
    ranks = np.unique(np.geomspace(1, len(eigenvalues), RANKS).round().astype(int))
    values = eigenvalues.astype(float)[ranks - 1]
    relative = values / values[0] if values[0] > 0 else np.full(len(values), np.nan)
    return [(int(r), float(v), float(q)) for r, v, q in zip(ranks, values, relative, strict=True)]


def concentration(lambda_O: np.ndarray, mu_I: np.ndarray) -> list[tuple[float, int, int, float, float]]:
    """Return threshold, pairs kept, pairs, share of the pairs and of the mass kept, for falling thresholds.

    The last threshold is 0, which keeps everything; a layer without mass has no points.

    Args:
        lambda_O: eigenvalues of G, descending.
        mu_I: eigenvalues of A, descending.
    """
    masses = PairMasses(lambda_O, mu_I)
    if masses.total <= 0:
        return []
    points = [(tau, *masses.kept(tau)) for tau in np.geomspace(1, FLOOR, THRESHOLDS) * masses.largest]
    points.append((0.0, masses.pairs, 1.0))
    return [(float(tau), kept, masses.pairs, kept / masses.pairs, mass) for tau, kept, mass in points]


def _draw_decay(layers: dict[str, dict[str, np.ndarray]], title: str, out: Path, name: str) -> Path:
    curves = {(layer, factor): decay(values) for layer, pair in layers.items() for factor, values in pair.items()}
    colors = _block_colors([place(layer)[0] for layer, _ in curves])
    figure, panels = style.panels(len(FACTORS), 2.6, 0.4, sharey=True)
    for axes, (factor, words) in zip(panels, FACTORS.items(), strict=True):
        for (layer, of), points in curves.items():
            if of == factor:
                _draw_curve(axes, colors, layer, points)
        axes.set(xscale="log", yscale="log", xlabel=f"rank of the eigenvalue of {words}")
    figure.supylabel("eigenvalue / largest eigenvalue", fontsize=style.points(8))
    smallest = min((q for points in curves.values() for _, _, q in points if q > FLOOR), default=FLOOR)
    panels[0].set_ylim(smallest / 2, 2)
    _explain(figure, title, panels, colors, {place(layer)[1] for layer, _ in curves})
    rows = [(layer, *place(layer), factor, *point) for (layer, factor), points in curves.items() for point in points]
    return style.save(figure, out, name, HEADER, rows)


def _draw_mass(curves: dict[str, list[tuple]], title: str, out: Path, name: str) -> Path:
    colors = _block_colors([place(layer)[0] for layer in curves])
    figure = style.new_figure(style.COLUMN[0] + 0.6, 2.9)
    axes = figure.subplots()
    for layer, points in curves.items():
        block, kind = place(layer)
        share, mass = [point[3] for point in points], [point[4] for point in points]
        axes.plot(share, mass, color=colors[block], linestyle=LINES[kind], linewidth=style.points(0.9))
    axes.set(xscale="log", ylim=(-0.03, 1.03))
    axes.set(xlabel="eigen-pairs kept, by falling mass (fraction)", ylabel="K-FAC mass kept (fraction)")
    _explain(figure, title, [axes], colors, {place(layer)[1] for layer in curves})
    rows = [(layer, *place(layer), *point) for layer, points in curves.items() for point in points]
    return style.save(figure, out, name, MASS_HEADER, rows)


def _block_colors(blocks: list[int | None]) -> dict[int | None, object]:
    depth = 1 + max((b for b in blocks if b is not None), default=-1)
    shades = colormaps["viridis"](np.linspace(0, 0.92, depth))  # its last yellows are too pale on white
    return {None: style.GREY, **dict(enumerate(shades))}


def _draw_curve(axes, colors: dict, layer: str, points: list[tuple]) -> None:
    rank, _, relative = zip(*points, strict=True)
    block, kind = place(layer)
    shown = np.where(np.array(relative) > 0, relative, np.nan)  # zero has no place on a log axis
    axes.plot(rank, shown, color=colors[block], linestyle=LINES[kind], linewidth=style.points(0.9))


def _explain(figure, title: str, panels, colors: dict, kinds: set[str]) -> None:
    handles = [Line2D([], [], color="black", linestyle=LINES[kind]) for kind in LINES if kind in kinds]
    labels = [kind for kind in LINES if kind in kinds]
    style.legend(figure, handles, labels, title, "upper")
    depth = len(colors) - 1
    if depth:
        scale = ScalarMappable(
            BoundaryNorm(np.arange(depth + 1) - 0.5, depth), ListedColormap(list(colors.values())[1:])
        )
        bar = figure.colorbar(scale, ax=panels, label="block", ticks=range(0, depth, -(-depth // 12)), pad=0.01)
        bar.ax.tick_params(length=0)
