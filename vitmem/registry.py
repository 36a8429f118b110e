"""Registries: plain dicts of built-in names, extended by installed packages through entry points."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points


@dataclass(frozen=True)
class Broken:
    """An entry of an installed package that cannot be used.

    Args:
        reason: which package and entry point, and why.
    """

    reason: str


@cache
def _plugins(group: str) -> tuple[tuple[str, object], ...]:
    found = []
    for point in entry_points(group=group):
        try:
            found.append((point.name, point.load()))
        except Exception as error:  # whatever a stranger's module raises
            package = point.dist.name if point.dist else "an installed package"
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            reason = f"the entry point {point.name} = {point.value} of {package} cannot be loaded ({why})"
            print(f"vitmem: {reason}; it is left out", file=sys.stderr)
            found.append((point.name, Broken(reason)))
    return tuple(found)


class Registry(dict):
    """Usable entries by name, and the broken ones apart."""

    broken: dict[str, Broken]


def registered(group: str, builtin: Mapping[str, object]) -> Registry:
    """Return the built-in entries together with those that installed packages add.

    An entry that cannot be loaded is told and left out; asking for it is an error.

    Args:
        group: entry-point group, for example ``vitmem.edits``.
        builtin: name -> entry of the entries that ship with vitmem.

    Raises:
        ValueError: an installed package registers a name that is already taken.
    """
    entries, broken = Registry(builtin), {}
    for name, entry in _plugins(group):
        if name in entries:
            raise ValueError(f"the entry point {name!r} of group {group!r} takes a name that is already registered")
        (broken if isinstance(entry, Broken) else entries)[name] = entry
    entries.broken = broken
    return entries


def lookup(what: str, name: object, entries: Mapping[str, object]) -> object:
    """Return ``entries[name]``, or say which names there are.

    Raises:
        ValueError: no entry has that name.
    """
    if isinstance(name, str) and name in getattr(entries, "broken", {}):
        raise ValueError(f"the {what} {name!r} cannot be used: {entries.broken[name].reason}")
    if not isinstance(name, str) or name not in entries:
        raise ValueError(f"unknown {what} {name!r}; registered are: {', '.join(sorted(entries))}")
    return entries[name]
