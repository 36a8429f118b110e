"""Figures of a finished experiment, drawn from its result tables and never from a model.

One module holds one kind of figure; its ``draw`` writes NAME.pdf, NAME.png and NAME.csv (the numbers plotted) for each
figure and returns the paths of the PNGs. The same input gives the same bytes.
"""

from pathlib import Path

from vitmem.figures import bits, comparison, frontier, relearning, scorecard, spectra, staircase, sweep, training
from vitmem.figures import sheet as image_sheet

__all__ = ["draw_all"]


def draw_all(experiment_folder: Path, sheet: dict | None = None) -> list[Path]:
    """Draw what the tables of an experiment allow, into its ``figures`` folder.

    Args:
        experiment_folder: holds ``results.csv`` and ``seed<k>`` folders; a figure whose inputs are absent is skipped.
        sheet: arguments of ``figures.sheet.draw`` besides ``out``; None draws no sheet.

    Returns:
        The PNGs written.
    """
    experiment_folder = Path(experiment_folder)
    out, results = experiment_folder / "figures", experiment_folder / "results.csv"
    paths = training.draw(experiment_folder, out)
    if results.exists():
        paths += sweep.draw(results, out)
        paths += frontier.draw(results, out)
    if (compared := experiment_folder / "comparison.csv").exists():
        paths += comparison.draw(compared, out)
    if (attacks := experiment_folder / "attacks.csv").exists():
        paths += relearning.draw(attacks, out) + bits.draw(attacks, out)
        paths += scorecard.draw(experiment_folder / "scorecard.csv", out)
    paths += spectra.draw(experiment_folder, out)
    paths += staircase.draw(experiment_folder, out)
    if sheet is not None:
        paths += image_sheet.draw(out, **sheet)
    return paths
