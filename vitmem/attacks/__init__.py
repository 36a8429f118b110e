"""The registry of attacks. None ships yet; packages add theirs in the entry-point group ``vitmem.attacks``."""

from datamodules.registry import registered


def attacks() -> dict[str, type]:
    """Return the registered attacks by name."""
    return registered("vitmem.attacks", {})
