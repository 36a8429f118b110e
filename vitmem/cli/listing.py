"""``vitmem list``: what is registered."""

import dataclasses
import difflib
import textwrap
from collections.abc import Callable, Sequence

from vitmem.analysis import analyses
from vitmem.attacks import attacks
from vitmem.cli.shared import wants_help
from vitmem.datamodules import datasets
from vitmem.datamodules.noise import noises
from vitmem.editing import edits
from vitmem.evaluation.metrics import METRICS, added
from vitmem.evaluation.unlearning import NAMES
from vitmem.figures import figures
from vitmem.models.config import SIZES, models
from vitmem.options import summary
from vitmem.registry import Registry
from vitmem.training.loggers import loggers

USAGE = """usage: vitmem list [WHAT]

WHAT is data, noise, models, edits, attacks, analyses, metrics, figures or loggers, or the name of one of them; all by
default.

examples:
  vitmem list edits
  vitmem list kfac"""


def main(arguments: Sequence[str]) -> None:
    """Print what is registered, a part of it, or one entry."""
    if wants_help(arguments):
        print(USAGE)
        return
    if len(arguments) > 1:
        raise ValueError(f"list takes one name at most; received {' '.join(arguments)!r}")
    sections = registered()
    if not arguments:
        print_sections([title_and_entries for part in sections.values() for title_and_entries in part])
        return
    (what,) = arguments
    if what in sections:
        print_sections(sections[what])
        return
    found = [(title, {what: entries[what]}) for part in sections.values() for title, entries in part if what in entries]
    if not found:
        known = [name for part in sections.values() for _, entries in part for name in entries]
        near = difflib.get_close_matches(what, [*sections, *known])
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"nothing is called {what!r}; give {', '.join(sections)}, or a name in them{meant}")
    print_sections(found)


def registered() -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Return, by kind, the titles and entries to print."""
    by_track: dict[str, dict[str, str]] = {}
    registry = edits()
    for name, line in told(registry, with_options).items():
        by_track.setdefault(registry[name]().track, {})[name] = line
    sizes = "models (and most other vit_* names of timm; width, depth, heads and patch can be given)"
    return {
        "data": [("data sets", told(datasets()))],
        "noise": [("noise kinds", told(noises()))],
        "models": [(sizes, {**SIZES, **told(models())})],
        "edits": [(f"edits, track {track} (with options and defaults)", part) for track, part in by_track.items()],
        "attacks": [("attacks (with options and defaults)", told(attacks(), with_options))],
        "analyses": [("analyses (with options and defaults)", told(analyses(), with_options))],
        "metrics": [("metrics", {**METRICS, **NAMES, **told(added())})],
        "figures": [("figures", told(figures()))],
        "loggers": [("loggers (off by default: --trainer.loggers; metrics.csv is always written)", told(loggers()))],
    }


def told(registry: Registry, describe: Callable[[object], str] = summary) -> dict[str, str]:
    """Return what entries are, with where those that are not ours come from."""
    found = {}
    for name, entry in registry.items():
        first, *rest = describe(entry).split("\n")
        origin = registry.origins.get(name)
        found[name] = "\n".join([f"{first} [{origin}]" if origin else first, *rest])
    return found


def with_options(chosen: type) -> str:
    """Return what a class of options is, with its options and their defaults."""
    options = ", ".join(f"{f.name} {_default(f)}" for f in dataclasses.fields(chosen))
    indent = " " * 6
    return f"{summary(chosen)}\n{textwrap.fill(options, 120, initial_indent=indent, subsequent_indent=indent)}"


def _default(option: dataclasses.Field) -> str:
    return f"[{', '.join(map(str, option.default))}]" if isinstance(option.default, tuple) else str(option.default)


def print_sections(sections: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Print titles with their entries."""
    for title, entries in sections:
        print(f"{title}:")
        print_list(entries)
        print()


def print_list(entries: dict[str, str]) -> None:
    """Print entries, a line each."""
    width = max((len(name) for name in entries), default=0)
    for name, line in entries.items():
        print(f"  {name:<{width}}  {line}")
    if not entries:
        print("  none yet")
