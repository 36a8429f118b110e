"""The figures of analyses: each table of an experiment's ``analyses`` folder is drawn by what it is a table of.

A module ``analysis_<name>`` draws the tables of one analysis: its ``draw(rows, out, name)`` takes the rows of a table,
the folder and the name of the figure, and for those of ``PICTURED`` the arrays stored beside it, and returns the PNGs.
"""

from importlib import import_module
from pathlib import Path

from vitmem.figures.tables import ANALYSIS_TEXT, read_arrays, read_csv

DRAWN = ("bands", "ownership", "detection", "localise", "similarity", "dynamics", "directions")
PICTURED = ("directions",)  # drawn with the images beside their table


def draw(folder: Path, out: Path) -> list[Path]:
    """Draw the tables of a folder; those of other analyses than ours are left to them.

    Args:
        folder: holds ``<analysis_id>.csv``.
        out: folder of the figures ``analysis_<analysis_id>``.

    Returns:
        The PNGs.
    """
    paths = []
    for table in sorted(folder.glob("*.csv")):
        rows = read_csv(table, ANALYSIS_TEXT)
        if rows and rows[0].get("name") in DRAWN:
            name = rows[0]["name"]
            more = {"arrays": read_arrays(table.with_suffix(".npz"))} if name in PICTURED else {}
            module = import_module(f"vitmem.figures.analysis_{name}")
            paths += module.draw(rows, out, f"analysis_{table.stem}", **more)
    return paths
