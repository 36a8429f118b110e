"""Data sets, label noise and loaders. Imports nothing from vitmem."""

from datamodules.digits import Digits
from datamodules.registry import registered
from datamodules.sources import DataSet

_BUILTIN: dict[str, type[DataSet]] = {"digits": Digits}


def datasets() -> dict[str, type[DataSet]]:
    """Return the registered data sets by name: ours, and those of installed packages (group ``vitmem.datasets``)."""
    return registered("vitmem.datasets", _BUILTIN)
