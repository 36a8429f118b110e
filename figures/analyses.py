"""The figures of analyses: each table of an experiment's ``analyses`` folder is drawn by what it is a table of."""

from importlib import import_module
from pathlib import Path

from vitmem.figures.tables import read_arrays, read_csv

TEXT = (
    "experiment", "id", "analysis", "name", "layer", "order", "definition", "band", "measure", "edit", "score", "mode",
    "block", "kind", "against", "place", "component", "images",
)  # fmt: skip
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
        rows = read_csv(table, TEXT)
        if rows and rows[0].get("name") in DRAWN:
            name = rows[0]["name"]
            more = {"arrays": read_arrays(table.with_suffix(".npz"))} if name in PICTURED else {}
            module = import_module(f"vitmem.figures.analysis_{name}")
            paths += module.draw(rows, out, f"analysis_{table.stem}", **more)
    return paths
