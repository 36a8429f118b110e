"""vitmem: a testbed for controlled memorisation in vision transformers."""

from vitmem._version import __version__

__all__ = ["__version__"]
