"""The tables of a sweep: the rows of all cells, with a column for each factor, and their means over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vitmem.evaluation.tables import to_csv
from vitmem.experiment.results import told_configuration
from vitmem.experiment.sweep import Cell
from vitmem.files import write_atomically
from vitmem.runs.folder import held


def write_swept(folder: Path, tables: Sequence[tuple[Cell, Sequence[Mapping]]]) -> list[dict]:
    """Write ``results.csv`` of a sweep, and return its rows.

    Args:
        folder: of the experiment.
        tables: each cell with the rows of its own table.
    """
    factors = list(dict.fromkeys(name for cell, _ in tables for name in cell.columns))
    rows = []
    for cell, of_cell in tables:
        told = told_configuration(cell.experiment.run)  # of a cell whose point leaves an option as it is
        own = {name: _shown(cell.columns.get(name, told.get(name))) for name in factors}
        rows += [{**row, "experiment": cell.experiment.name} | own for row in of_cell]
    with held(folder / "results", wait=True):
        write_atomically(folder / "results.csv", to_csv(rows))
    return rows


def _shown(value: object) -> object:
    """Return a value as a cell of a table."""
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
