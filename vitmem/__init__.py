"""vitmem: a testbed for controlled memorisation in vision transformers."""

from importlib import import_module

from vitmem._version import __version__

_FACE = {  # name -> module; imported when it is asked for, so that the command line starts at once
    "adopt": "vitmem.face.subject",
    "open_run": "vitmem.face.subject",
    "edit": "vitmem.face.verbs",
    "evaluate": "vitmem.face.verbs",
    "attack": "vitmem.face.verbs",
    "curvature_of": "vitmem.face.verbs",  # vitmem.curvature is the package
    "compare": "vitmem.face.verbs",
    "results": "vitmem.face.verbs",
    "Edit": "vitmem.editing.contract",
    "Attack": "vitmem.attacks.contract",
}

__all__ = ["__version__", *sorted(_FACE)]


def __getattr__(name: str) -> object:
    if name not in _FACE:
        raise AttributeError(f"module 'vitmem' has no attribute {name!r}; there are: {', '.join(__all__)}")
    return getattr(import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
