"""Registries: plain dicts of built-in names, extended by installed packages and by files that the user names.

An installed package registers in an entry-point group of ``GROUPS``. A plug-in is one file of Python, given on the
command line as ``--plugin FILE``, with a dict named after the group: ``EDITS = {"shrink": Shrink}`` for
``vitmem.edits``. It is code that runs, so nothing but a command line can name it.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

# group -> what an entry must be: a dataclass of options, or a function
GROUPS = {
    "vitmem.edits": "dataclass",
    "vitmem.attacks": "dataclass",
    "vitmem.analyses": "dataclass",
    "vitmem.datasets": "dataclass",
    "vitmem.noises": "dataclass",
    "vitmem.metrics": "function",
    "vitmem.figures": "function",
    "vitmem.models": "function",
    "vitmem.loggers": "function",
}
TABLES = {group.rpartition(".")[2].upper(): group for group in GROUPS}  # the name of a group's dict in a file
LARGEST_PLUGIN = 1 << 20  # bytes
_NAME = re.compile(r"\w[\w.+-]*")

Entry = TypeVar("Entry")


class Unknown(ValueError):
    """Nothing is registered under a name."""


@dataclass(frozen=True)
class Broken:
    """An entry of an installed package that cannot be used.

    Args:
        reason: which package and entry point, and why.
    """

    reason: str


@dataclass(frozen=True)
class Plugin:
    """A file of Python whose entries have joined the registries of this process.

    Args:
        file: its name, without folders.
        sha256: of its content.
        tables: its entries by group and name.
        path: where it was read.
    """

    file: str
    sha256: str
    tables: Mapping[str, Mapping[str, object]]
    path: Path = Path()


_LOADED: list[Plugin] = []


class Registry(dict[str, Entry], Generic[Entry]):
    """Usable entries by name, the broken ones apart, and where those that are not ours come from.

    Attributes:
        broken: by name.
        origins: by name, in words, such as ``their-package 1.0`` or ``shrink.py``.
    """

    def __init__(self, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self.broken: dict[str, Broken] = {}
        self.origins: dict[str, str] = {}


def registered(group: str, builtin: Mapping[str, Entry]) -> Registry[Entry]:
    """Return the built-in entries together with those that installed packages and plug-ins add.

    An entry of a package that cannot be used is told and left out; asking for it is an error.

    Args:
        group: one of ``GROUPS``.
        builtin: name -> entry of the entries that ship with vitmem.

    Raises:
        ValueError: a name that is already taken is registered again.
    """
    found = Registry(builtin)
    for name, entry, origin in (*_installed(group), *_of_files(group)):
        if name in found:
            raise ValueError(f"{origin} registers {name!r} in {group!r}, a name that is already registered")
        if isinstance(entry, Broken):
            found.broken[name] = entry
        else:
            found[name] = cast(Entry, entry)
            found.origins[name] = origin
    return found


@cache
def _installed(group: str) -> tuple[tuple[str, object, str], ...]:
    """Return the entries of installed packages: name, entry, and package with version."""
    _tell_unknown_groups()
    found: list[tuple[str, object, str]] = []
    for point in entry_points(group=group):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        try:
            entry = point.load()
            why = _wrong(group, point.name, entry)
        except Exception as error:  # whatever a stranger's module raises
            why = f"{type(error).__name__}: {_short(error)}"
        if why:
            reason = f"the entry point {point.name} = {point.value} of {package} cannot be loaded ({why})"
            print(f"vitmem: {reason}; it is left out", file=sys.stderr)
            entry = Broken(reason)
        found.append((point.name, entry, package))
    return tuple(found)


@cache
def _tell_unknown_groups() -> None:
    """Say which installed packages register where nothing looks."""
    groups = (group for group in sorted(entry_points().groups) if group.startswith("vitmem.") and group not in GROUPS)
    for group in groups:
        near = difflib.get_close_matches(group, GROUPS, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(GROUPS)}"
        for point in entry_points(group=group):
            package = point.dist.name if point.dist else "an installed package"
            print(f"vitmem: {package} registers {point.name} in {group}, which is no group; {meant}", file=sys.stderr)


def _of_files(group: str) -> Iterator[tuple[str, object, str]]:
    for plugin in _LOADED:
        for name, entry in plugin.tables.get(group, {}).items():
            yield name, entry, plugin.file


def _wrong(group: str, name: object, entry: object) -> str:
    """Return why an entry cannot be one of a group; empty where it can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"{name!r} is no name: use letters, digits, '_', '.', '+' and '-'"
    kind = GROUPS.get(group)
    if kind == "dataclass" and not (isinstance(entry, type) and dataclasses.is_dataclass(entry)):
        return f"{name} is no dataclass of options; write @dataclass(frozen=True) above the class"
    return f"{name} is no function" if kind == "function" and not callable(entry) else ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def load_plugin(path: Path | str) -> Plugin:
    """Run a file of Python, and let what it registers join; the same content is run once.

    Args:
        path: of the file.

    Raises:
        ValueError: it cannot be read or run, registers nothing, or something that cannot be used.
    """
    path = Path(path)
    source = _source(path)
    sha256 = hashlib.sha256(source).hexdigest()
    if known := [plugin for plugin in _LOADED if plugin.sha256 == sha256]:
        return known[0]
    if any(plugin.file == path.name for plugin in _LOADED):
        raise ValueError(f"--plugin {path}: two plug-ins are called {path.name}; rename one")
    module = ModuleType(f"vitmem_plugin_{re.sub(r'[^A-Za-z0-9]', '_', path.stem)}_{sha256[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their annotations up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ValueError(
            f"the plug-in {path} cannot be loaded: {type(error).__name__}: {_short(error)}{_line(error, path)}"
        ) from error
    plugin = Plugin(path.name, sha256, _tables(path, vars(module)), path.resolve())
    _LOADED.append(plugin)
    return plugin


def _source(path: Path) -> bytes:
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"--plugin is {str(path)!r}; give a file of Python, such as shrink.py")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the plug-in {path} cannot be read: {error.strerror}") from error
    if len(source) > LARGEST_PLUGIN:
        raise ValueError(f"the plug-in {path} has more than {LARGEST_PLUGIN >> 20} MiB; is it a file of Python?")
    return source


def _line(error: BaseException, path: Path) -> str:
    """Return in which line of a file an error arose, in words."""
    number = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            number = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {number})" if number else ""


def _tables(path: Path, names: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Return what a plug-in registers, by group."""
    found: dict[str, dict[str, object]] = {}
    for table, value in names.items():
        if not isinstance(value, dict) or not table.isupper():
            continue
        if table not in TABLES:
            if near := difflib.get_close_matches(table, TABLES, 1):
                raise ValueError(f"the plug-in {path} has a dict {table}; did you mean {near[0]}?")
            continue
        for name, entry in value.items():
            if why := _wrong(TABLES[table], name, entry):
                raise ValueError(f"the plug-in {path} registers what cannot be used in {table}: {why}")
        found[TABLES[table]] = value
    if not any(found.values()):
        raise ValueError(
            f"the plug-in {path} registers nothing; end it with a dict of what it adds, such as "
            f'EDITS = {{"shrink": Shrink}}; there are {", ".join(TABLES)}'
        )
    return found


def plugins() -> list[dict[str, str]]:
    """Return the plug-ins of this process as provenance records them: file and SHA-256."""
    return [{"file": plugin.file, "sha256": plugin.sha256} for plugin in _LOADED]


def plugin_paths() -> list[Path]:
    """Return the files of the plug-ins of this process: another process loads them to know what this one knows."""
    return [plugin.path for plugin in _LOADED]


def origin(group: str, name: str) -> str:
    """Return what tells the code of an entry from other versions of it: file and hash, or package; ours: empty."""
    for plugin in _LOADED:
        if name in plugin.tables.get(group, {}):
            return f"{plugin.file} {plugin.sha256}"
    return next((package for known, _, package in _installed(group) if known == name), "")


def file_of(entry: object) -> str:
    """Return the SHA-256 of the plug-in that registers an entry; empty where none does."""
    own = (p.sha256 for p in _LOADED for table in p.tables.values() for other in table.values() if other is entry)
    return next(own, "")


def is_outdated(group: str, name: str, provenance: object) -> bool:
    """Tell whether a stored result was made by another version of the plug-in that has the entry now.

    Args:
        group: one of ``GROUPS``.
        name: of the entry.
        provenance: of the result.
    """
    own = next((plugin for plugin in _LOADED if name in plugin.tables.get(group, {})), None)
    return own is not None and own.sha256 not in _recorded(provenance).values()


def _recorded(provenance: object) -> dict[str, str]:
    """Return the SHA-256 of the plug-ins that provenance records, by their files; what is malformed is left out."""
    listed = provenance.get("plugins") if isinstance(provenance, Mapping) else None
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    return {str(entry.get("file")): str(entry.get("sha256")) for entry in entries}


@contextlib.contextmanager
def explained(provenance: object) -> Iterator[None]:
    """Let an unknown name be told with the plug-in that a result was made with, where that is not given now."""
    try:
        yield
    except Unknown as error:
        given = [plugin.file for plugin in _LOADED]
        missing = [file for file in _recorded(provenance) if file not in given]
        if not missing:
            raise
        options = " ".join(f"--plugin {file}" for file in missing)
        raise Unknown(f"{error}; made with a plug-in, {', '.join(missing)}: give {options}") from error


def lookup(what: str, name: object, entries: Mapping[str, Entry]) -> Entry:
    """Return ``entries[name]``, or say which names there are.

    Raises:
        Unknown: no entry has that name.
        ValueError: the entry of that name is broken.
    """
    broken = entries.broken if isinstance(entries, Registry) else {}
    if isinstance(name, str) and name in broken:
        raise ValueError(f"the {what} {name!r} cannot be used: {broken[name].reason}")
    if not isinstance(name, str) or name not in entries:
        raise Unknown(f"unknown {what} {name!r}; registered are: {', '.join(sorted(entries))}")
    return entries[name]
