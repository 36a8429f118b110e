"""Pairs of eigenvectors that the hard rule keeps, in the plane of their ranks."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from vitmem.figures import style
from vitmem.figures.kronecker import PairMasses
from vitmem.figures.spectra import LINES, place
from vitmem.figures.tables import read_spectra, spectra_files

HEADER = ["layer", "rho", "tau", "pairs_kept", "pairs", "i", "j_max"]
RHOS = (0.5, 0.75, 0.9, 0.95, 0.99)
CORNERS = 60  # rows of a boundary in the CSV, evenly spaced in log rank
DRAWN = 500  # rows of a boundary in the figure; closer ones fall on one pixel


@style.look()
def draw(experiment_folder: Path, out: Path) -> list[Path]:
    """Draw the regions that the hard rule keeps in up to four layers, for several shares rho of the K-FAC mass.

    Args:
        experiment_folder: as in ``figures.spectra.draw``; the first file of spectra is drawn.
        out: folder of the figure ``staircase``.

    Returns:
        The PNG, or nothing where there are no spectra.
    """
    files = spectra_files(experiment_folder)
    spectra = read_spectra(files[0]) if files else {}
    masses = {name: PairMasses(pair["G"], pair["A"]) for name, pair in spectra.items() if {"A", "G"} <= pair.keys()}
    shown = choose([layer for layer in masses if masses[layer].total > 0])
    if not shown:
        return []
    colors = dict(zip(RHOS, colormaps["Blues"](np.linspace(1, 0.25, len(RHOS))), strict=True))
    figure, panels = style.panels(len(shown), 1.75, 0.7, least=1.6)
    rows = []
    for axes, layer in zip(panels, shown, strict=True):
        shape = tuple(len(spectra[layer][factor]) for factor in "GA")
        for rho in reversed(RHOS):  # the larger region first: it holds the smaller
            tau = masses[layer].threshold(rho)
            columns = masses[layer].columns(tau)
            columns = columns[columns > 0]
            _fill(axes, columns, colors[rho])
            head = (layer, rho, tau, int(columns.sum()), masses[layer].pairs)
            rows += [(*head, i, int(columns[i - 1])) for i in log_ranks(len(columns), CORNERS).tolist()]
        _frame(axes, layer, shape)
    figure.supylabel("rank i of the eigenvalue\nof G (output gradients)", fontsize=style.points(8))
    figure.supxlabel("rank j of the eigenvalue of A (inputs)", fontsize=style.points(8))
    title = f"rho: share of the K-FAC mass that the region holds; seed {files[0].parts[-3].removeprefix('seed')}"
    handles = [Patch(color=color, label=f"{rho:g}") for rho, color in colors.items()]
    style.legend(figure, handles, [handle.get_label() for handle in handles], title, "upper")
    return [style.save(figure, out, "staircase", HEADER, rows)]


def choose(layers: list[str]) -> list[str]:
    """Return the first and the last layer of the first and of the last block; outside blocks, of all layers."""
    blocks = [place(layer)[0] for layer in layers]
    numbers = [block for block in blocks if block is not None]
    ends = (min(numbers), max(numbers)) if numbers else (None,)
    kinds = list(LINES)
    chosen = []
    for end in ends:
        inside = [layer for layer, block in zip(layers, blocks, strict=True) if block == end]
        inside.sort(key=lambda layer: kinds.index(place(layer)[1]))
        chosen += inside[:1] + inside[-1:]
    return list(dict.fromkeys(chosen))


def log_ranks(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` ranks from 1 to ``count``, both included, evenly spaced in their logarithm."""
    return np.unique(np.geomspace(1, count, min(most, count)).round().astype(int))


def _fill(axes, columns: np.ndarray, color) -> None:
    ranks = log_ranks(len(columns), DRAWN)
    # Pair (i, j) covers [i, i + 1) x [j, j + 1), so that the first one has an extent on log axes.
    edges = np.append(ranks, len(columns) + 1)
    axes.stairs(columns[ranks - 1] + 1, edges, baseline=1, orientation="horizontal", fill=True, color=color)


def _frame(axes, layer: str, shape: tuple[int, int]) -> None:
    axes.set_title(layer, fontsize=style.points(7))
    axes.spines[["top", "right"]].set_visible(True)  # the frame holds all pairs of the layer
    axes.set(xscale="log", yscale="log", xlim=(1, shape[1] + 1), ylim=(1, shape[0] + 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
