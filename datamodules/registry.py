"""Registries: plain dicts of built-in names, extended by installed packages through entry points."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points


@cache
def _plugins(group: str) -> tuple[tuple[str, object], ...]:
    return tuple((point.name, point.load()) for point in entry_points(group=group))


def registered(group: str, builtin: Mapping[str, object]) -> dict[str, object]:
    """Return the built-in entries together with those that installed packages add.

    Args:
        group: entry-point group, for example ``vitmem.edits``.
        builtin: name -> entry of the entries that ship with vitmem.

    Raises:
        ValueError: an installed package registers a name that is already taken.
    """
    entries = dict(builtin)
    for name, entry in _plugins(group):
        if name in entries:
            raise ValueError(f"the entry point {name!r} of group {group!r} takes a name that is already registered")
        entries[name] = entry
    return entries


def lookup(what: str, name: object, entries: Mapping[str, object]) -> object:
    """Return ``entries[name]``, or say which names there are.

    Raises:
        ValueError: no entry has that name.
    """
    if not isinstance(name, str) or name not in entries:
        raise ValueError(f"unknown {what} {name!r}; registered are: {', '.join(sorted(entries))}")
    return entries[name]
