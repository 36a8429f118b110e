"""Edits, attacks and analyses by their registered names, with options from the command line or YAML."""

from collections.abc import Mapping

from vitmem.analysis import analyses
from vitmem.analysis.contract import Analysis
from vitmem.attacks import attacks
from vitmem.attacks.contract import Attack
from vitmem.editing import edits
from vitmem.editing.contract import Edit
from vitmem.options import Parser, options_parser, read_options
from vitmem.registry import lookup


def edit_parser(prog: str, name: str) -> Parser:
    """Return the parser of one edit's options.

    Raises:
        ValueError: no edit has that name.
    """
    return options_parser(prog, lookup("edit", name, edits()))


def read_edit(name: object, options: Mapping) -> Edit:
    """Return an edit from its registered name and options, as read from YAML.

    Raises:
        ValueError: the name or an option is unknown, or a value out of range.
    """
    return read_options("edit", lookup("edit", name, edits()), options)


def read_attack(name: object, options: Mapping) -> Attack:
    """Return an attack from its registered name and options, as read from YAML.

    Raises:
        ValueError: the name or an option is unknown, or a value out of range.
    """
    return read_options("attack", lookup("attack", name, attacks()), options)


def read_analysis(name: object, options: Mapping) -> Analysis:
    """Return an analysis from its registered name and options, as read from YAML.

    Raises:
        ValueError: the name or an option is unknown, or a value out of range.
    """
    return read_options("analysis", lookup("analysis", name, analyses()), options)
