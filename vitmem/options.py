"""A dataclass of options, to and from YAML and the command line. Knows no edit, no attack and no data set.

A configuration names registered things; nothing in it is imported or run.
"""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import docstring_parser
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

__all__ = ["ActionConfigFile", "Namespace", "Parser", "options_parser", "read_options", "read_yaml", "summary"]

Options = TypeVar("Options")


class Parser(ArgumentParser):
    """jsonargparse's parser with errors as one-line ValueErrors, and help that a person reads.

    Attributes:
        examples: printed below the help, as it is.
    """

    examples = ""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, exit_on_error=False, allow_abbrev=False, **kwargs)

    def read(self, arguments: Sequence[str]) -> Namespace:
        """Parse a command line; ``--offline`` stands for ``--data.offline true`` where the data set has that option.

        Raises:
            ValueError: an argument is unknown or of the wrong type.
        """
        offline = ["--data.offline=true"] if "--data.offline" in self._option_string_actions else []
        spelled = [part for given in arguments for part in (offline if given == "--offline" else [given])]
        return self._quietly(self.parse_args, spelled)

    def read_object(self, options: Mapping) -> Namespace:
        """Parse a mapping, as read from YAML.

        Raises:
            ValueError: a key is unknown or a value of the wrong type.
        """
        return self._quietly(self.parse_object, dict(options))

    def _quietly(self, parse, what) -> Namespace:
        try:
            return parse(what)
        except argparse.ArgumentError as error:
            message = " ".join(str(error.message).split())
            raise ValueError(message + self._near(message)) from error
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the options cannot be read: {error}") from error

    def _near(self, message: str) -> str:
        """Return which option was probably meant by one that is not known; nothing where none is near."""
        unknown = re.search(r"(?:[Uu]nrecognized arguments: |Option '|[Kk]ey ')(?:--)?([\w.-]+)", message)
        if unknown is None:
            return ""
        known = [o.removeprefix("--") for o in self._option_string_actions if o.startswith("--")]
        name, leaf = unknown[1], unknown[1].rpartition(".")[2]
        same = [o for o in known if o.rpartition(".")[2] == leaf]
        found = (
            same
            or difflib.get_close_matches(name, known, 2)
            or [o for o in known if difflib.get_close_matches(leaf, [o.rpartition(".")[2]])]
        )
        return f"; did you mean {' or '.join('--' + o for o in found[:3])}?" if found else ""

    def format_help(self) -> str:
        """Return the help, with choices as they are typed, without the options that only take files of options."""
        text = _CHOICES.sub(lambda found: _spelled(found[1]), super().format_help())
        text = re.sub(r"type:\s+[^,()]*?\|\s+null,\s+default:\s+null", "default: none", text)
        text = re.sub(r"^  --[\w.]+ CONFIG\s+Path to a configuration file\.\n", "", text, flags=re.M)
        start, end = text.find("usage:"), text.find("\n\n")
        options = self.usage or f"usage: {self.prog} [options]" + "".join(
            f" {a.metavar or a.dest.upper()}" + (" ..." if a.nargs == "+" else "")
            for a in self._actions
            if not a.option_strings
        )
        return text[:start] + options + text[end:] + (f"\n{self.examples}" if self.examples else "")


_CHOICES = re.compile(r"type:\s+(?:typing\.)?(?:Union\[)?Literal\[([^\]]*)\]\]?")


def _spelled(choices: str) -> str:
    names = [choice.strip().strip("'\"") for choice in choices.split(",")]
    return "one of: " + " | ".join(names)


def options_parser(prog: str, options: type) -> Parser:
    """Return the parser of a dataclass of options; what its docstring and those of its bases say is the help."""
    parser = Parser(prog=prog, description=summary(options))
    parser.add_class_arguments(options)
    described = {
        option.arg_name: option.description
        for base in reversed(options.__mro__)
        for option in docstring_parser.parse(base.__doc__ or "").params
    }
    for action in parser._actions:  # an option that a base class describes
        if not action.help and action.dest in described:
            action.help = described[action.dest]
    return parser


def read_options(prog: str, chosen: type[Options], options: Mapping) -> Options:
    """Return a dataclass of options from a mapping, as read from YAML.

    Raises:
        ValueError: an option is unknown, or a value of the wrong type or out of range.
    """
    values = vars(options_parser(prog, chosen).read_object(options))
    check_values(chosen, values)
    return chosen(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


LARGEST = 1e18  # far above any count, rate or size that means something; what follows would overflow


def check_values(chosen: type, values: Mapping, section: str = "") -> None:
    """Raise ValueError if an option without a null default is null, or a number is not finite or absurdly large.

    Args:
        chosen: the dataclass of options.
        values: by name.
        section: what the names stand in, such as ``train``.
    """
    for option in dataclasses.fields(chosen):
        name, value = f"{section}.{option.name}" if section else option.name, values.get(option.name, option.default)
        if value is None and option.default is not None:
            raise ValueError(f"{name} is null; it needs a value, such as its default {option.default}")
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not abs(number) <= LARGEST:
                raise ValueError(f"{name} is {number:.3g}; numbers must be finite, and at most {LARGEST:g}")


def summary(thing: type) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().splitlines()[0]


class _Once(yaml.SafeLoader):
    """PyYAML's safe loader, which would silently take the last of two equal keys; here they are an error."""

    def construct_mapping(self, node, deep=False):
        """Return the mapping of a node whose keys all differ."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge" and isinstance(key.value, str):
                raise yaml.YAMLError(
                    f"the key {key.value!r} comes twice, in lines {seen[key.value]} and {key.start_mark.line + 1}"
                )
            if isinstance(key.value, str):
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict:
    """Return the mapping that a YAML file holds.

    Raises:
        ValueError: the file is not there, is not YAML, or holds no mapping.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        content = yaml.load(path.read_text(), Loader=_Once)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a mapping of options")
    return content
