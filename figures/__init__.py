"""Figures of a finished experiment, drawn from its result tables and never from a model.

One module holds one kind of figure; its ``draw`` writes NAME.pdf, NAME.png and NAME.csv (the numbers plotted) for each
figure, or other formats where ``style.written_as`` says so, and returns the paths of the PNGs. The same input gives the
same bytes.
"""

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vitmem.registry import Registry, registered

__all__ = ["draw_all", "figures"]

SHEET = "sheet"  # of images before and after an edit: needs the data, so no table is enough

Draw = Callable[[Path, Path], list[Path]]  # experiment folder, folder of figures -> PNGs


@dataclass(frozen=True)
class Figure:
    """A figure of ours, whose module is imported when it is drawn.

    Args:
        module: that draws it.
        table: of the experiment folder that it is drawn from; empty: from the run folders.
        __doc__: what it shows.
    """

    module: str
    table: str
    __doc__: str

    def __call__(self, experiment_folder: Path, out: Path) -> list[Path]:
        """Draw it into a folder, if its table is there, and return the PNGs."""
        source = experiment_folder / self.table
        return import_module(f"vitmem.figures.{self.module}").draw(source, out) if source.exists() else []


_BUILTIN: dict[str, Draw] = {
    figure.module: figure
    for figure in (
        Figure("training", "", "the four accuracies over the epochs, of each seed"),
        Figure("sweep", "results.csv", "accuracies over the values of an edit's option"),
        Figure("frontier", "results.csv", "what edits leave of the memory against what they keep"),
        Figure("comparison", "comparison.csv", "tuned edits against each other"),
        Figure("relearning", "attacks.csv", "how fast relearning brings the memory back"),
        Figure("bits", "attacks.csv", "accuracies after quantisation to few bits"),
        Figure("scorecard", "scorecard.csv", "what each attack brings back after each edit"),
        Figure("analyses", "analyses", "what was asked of models: bands, ownership, detection, places, ..."),
        Figure("spectra", "", "eigenvalues of the Kronecker factors"),
        Figure("staircase", "", "which eigen-pairs the edits keep"),
    )
}


def figures() -> Registry[Draw]:
    """Return the registered figures by name: ours, and those that plug-ins add (group ``vitmem.figures``).

    A figure is a function of the experiment's folder and the folder of figures that returns the PNGs it wrote; where
    its input is absent, none.
    """
    return registered("vitmem.figures", _BUILTIN)


def draw_all(experiment_folder: Path, sheet: dict | None = None, only: Collection[str] = ()) -> list[Path]:
    """Draw what the tables of an experiment allow, into its ``figures`` folder.

    Args:
        experiment_folder: holds ``results.csv`` and ``seed<k>`` folders; a figure whose inputs are absent is skipped,
            and one of a plug-in that fails is told and skipped.
        sheet: arguments of ``figures.sheet.draw`` besides ``out``; None draws no sheet.
        only: names of the figures to draw; all by default.

    Returns:
        The PNGs written.
    """
    experiment_folder = Path(experiment_folder)
    out, registry, paths = experiment_folder / "figures", figures(), []
    for name, draw in registry.items():
        if only and name not in only:
            continue
        if name in registry.origins:
            paths += _drawn_by_another(name, registry.origins[name], draw, experiment_folder, out)
        else:
            paths += draw(experiment_folder, out)
    if sheet is not None and (not only or SHEET in only):
        paths += import_module("vitmem.figures.sheet").draw(out, **sheet)
    return paths


def _drawn_by_another(name: str, origin: str, draw: Draw, experiment_folder: Path, out: Path) -> list[Path]:
    try:
        return [Path(path) for path in draw(experiment_folder, out)]
    except Exception as error:  # whatever a stranger's code raises
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(f"vitmem: the figure {name} of {origin} is left out: {why}", file=sys.stderr, flush=True)
        return []


def draw_analyses(experiment_folder: Path) -> list[Path]:
    """Draw the figures of an experiment's analyses alone, as ``draw_all``."""
    return figures()["analyses"](experiment_folder, experiment_folder / "figures")
