"""A dataclass of options, to and from YAML and the command line. Knows no edit, no attack and no data set.

A configuration names registered things; nothing in it is imported or run.
"""

import argparse
import contextlib
import difflib
import json
import re
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import docstring_parser
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_loader

from vitmem.yaml_files import load_yaml, read_yaml

__all__ = ["ActionConfigFile", "Namespace", "Parser", "options_parser", "read_options", "read_yaml", "summary"]

Options = TypeVar("Options")


def _meant(text: str) -> object:
    """Return what a text would stand for without quotes; itself where it is no YAML."""
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text


def _value(text: str) -> object:
    """Return what the text of an option stands for; ``{a,b}`` without a colon is a pattern, not a mapping."""
    if text.startswith('{"'):  # most likely ours, from ``inline``
        with contextlib.suppress(ValueError):
            return json.loads(text)
    found = load_yaml(text)
    return text if isinstance(found, dict) and found and ":" not in text.strip().rstrip(":") else found


_LOADER = "vitmem"
set_loader(_LOADER, _value, exceptions=(yaml.YAMLError,))
RESERVED = ("config", "class_path", "init_args", "dict_kwargs")  # jsonargparse reads files and imports classes for them


class Parser(ArgumentParser):
    """jsonargparse's parser with errors as one-line ValueErrors, and help that a person reads.

    Attributes:
        examples: printed below the help, as it is.
    """

    examples = ""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, exit_on_error=False, allow_abbrev=False, parser_mode=_LOADER, **kwargs)

    def read(self, arguments: Sequence[str]) -> Namespace:
        """Parse a command line; ``--offline`` stands for ``--data.offline true`` where the data set has that option.

        Raises:
            ValueError: an argument is unknown, null without being allowed to, of the wrong type or out of bounds, or a
                file of options cannot be read.
        """
        offline = ["--data.offline=true"] if "--data.offline" in self._option_string_actions else []
        spelled = [part for given in arguments for part in (offline if given == "--offline" else [given])]
        found = []
        for option, value in paired(spelled, {"--config", *(f"--{section}" for section in self._sections())}):
            if option is None or value is None:
                found.append(option if value is None else value)
            elif option == "--config":
                found.append(f"--config={inline(self._mapping(value))}")
            else:
                raise ValueError(
                    f"{option} is {short(value)}; give its options one by one, as {option}.NAME, or a file"
                )
        return self._quietly(self.parse_args, found)

    def read_object(self, options: Mapping) -> Namespace:
        """Parse a mapping, as read from YAML.

        Raises:
            ValueError: a key is unknown, or a value null without being allowed to, of the wrong type or out of bounds.
        """
        check_plain(options)
        self._check_given(options)
        return self._quietly(self.parse_object, dict(options))

    def _mapping(self, file: str) -> dict:
        content = mapping_of(file)
        try:
            self._check_given(content)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        return content

    def _check_given(self, options: Mapping) -> None:
        """Raise ValueError if a section is no mapping, or a text in quotes would be taken for a number or for null."""
        for section in self._sections():
            if not isinstance(options.get(section, {}), Mapping):
                raise ValueError(f"{section} is {short(options[section])}; expected a mapping of its options")
        kinds = {action.dest: getattr(action, "_typehint", None) or action.type for action in self._actions}
        for name, value in flat(options):
            kind = kinds.get(name)
            if not isinstance(value, str) or not value.strip() or kind is None:
                continue
            meant, allowed = _meant(value), {kind, *typing.get_args(kind)}
            if (meant is None and type(None) in allowed) or (isinstance(meant, (int, float)) and str not in allowed):
                raise ValueError(f"{name} is the text {value!r}; write {value} without quotes, or another text")

    def _sections(self) -> list[str]:
        return list({a.dest.partition(".")[0]: None for a in self._actions if "." in a.dest})

    def _quietly(self, parse, what) -> Namespace:
        try:
            found = parse(what)
        except argparse.ArgumentError as error:
            message = " ".join(str(error.message).split())
            raise ValueError(_plainly(message) + self._near(message)) from error
        except (TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"the options cannot be read: {error}") from error
        for action in self._actions:
            self._check_value(action, found.get(action.dest, action.default))
        return found

    def _check_value(self, action: argparse.Action, value: object) -> None:
        optional = action.default is None or type(None) in typing.get_args(getattr(action, "_typehint", None))
        if value is None and not optional:
            raise ValueError(f"{action.dest} is null; it needs a value, such as its default {short(action.default)}")
        if action.const is True and not isinstance(value, bool):
            raise ValueError(f"{action.dest} is {short(value)}; give true or false")
        check_numbers(action.dest, value, MOST)

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


_kept_parser = lru_cache(100)(options_parser)  # an experiment reads the same edit many times


def read_options(prog: str, chosen: type[Options], options: Mapping) -> Options:
    """Return a dataclass of options from a mapping, as read from YAML.

    Raises:
        ValueError: an option is unknown, or a value of the wrong type or out of range.
    """
    values = vars(_kept_parser(prog, chosen).read_object(options))
    return chosen(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


LARGEST = 1e18  # far above any rate or size that means something; what follows would overflow
MOST = 10**9  # of what is counted; a seed may be larger
LARGEST_SEED = 2**63


def check_numbers(name: str, value: object, most: float = LARGEST) -> None:
    """Raise ValueError if a number, or one in a list or mapping, is not finite or absurdly large.

    Args:
        name: of the option.
        value: of any type.
        most: bound of whole numbers.
    """
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            check_numbers(f"{name}[{number}]", item, most)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_numbers(f"{name}.{key}" if name else str(key), item, most)
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        raise ValueError(f"{name} is {value}; numbers must be finite, and at most {LARGEST:g}")
    elif isinstance(value, int) and re.search(r"\bseeds?\b", name):
        if not 0 <= value < LARGEST_SEED:
            raise ValueError(f"{name} is {short(value)}; seeds must be in [0, 2^63)")
    elif isinstance(value, int) and abs(value) > most:
        raise ValueError(f"{name} is {short(value)}; whole numbers must be at most {most:,.0f}")


def check_counts(options: object, *names: str) -> None:
    """Raise ValueError if one of the named options is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} is {getattr(options, name)}; it must be at least 1")


def check_plain(options: Mapping) -> None:
    """Raise ValueError if a mapping of options holds what no option can be, whatever is given beside it."""
    names = [name for name, _ in flat(options)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is given twice, with and without a dot; give it once")
    check_numbers("", options)


def flat(options: Mapping, inside: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted name and value of all options in nested mappings.

    Raises:
        ValueError: a key is no name, or one that jsonargparse would act on: import a class, read another file.
    """
    for key, value in options.items():
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", key):
            raise ValueError(f"the key {short(key)}{f' in {inside[:-1]}' if inside else ''} is no name of an option")
        if key.rpartition(".")[2] == "plugin":
            raise ValueError(
                f"{inside}{key} is no option of a file: a plug-in is code that runs, so only the command line names "
                "it, as --plugin FILE.py"
            )
        if key.rpartition(".")[2] in RESERVED:
            raise ValueError(f"{inside}{key} is no option of a file")
        for number, item in enumerate(value) if isinstance(value, list) else ():
            yield from flat(item, f"{inside}{key}[{number}].") if isinstance(item, Mapping) else ()
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{inside}{key}.")
        else:
            yield inside + key, value


def paired(arguments: Sequence[str], wanted: Collection[str]) -> Iterator[tuple[str | None, str | None]]:
    """Yield wanted options with their values, and every other argument with None for the option.

    Args:
        arguments: of a command line: ``--option value`` or ``--option=value``.
        wanted: options; one at the end that lacks its value comes with None.
    """
    rest = iter(arguments)
    for argument in rest:
        option, given, value = argument.partition("=")
        if option in wanted:
            yield option, value if given else next(rest, None)
        else:
            yield None, argument


def mapping_of(file: str) -> dict:
    """Return the options that a file of YAML holds, or a text in its place that starts with a brace.

    Raises:
        ValueError: the file cannot be read, or they are no mapping, or hold what no option can be.
    """
    try:
        content = load_yaml(file) if file.startswith("{") else read_yaml(Path(file))
    except yaml.YAMLError as error:
        raise ValueError(f"--config is {short(file)}, which is not valid YAML: {error}") from error
    try:
        check_plain(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return content


def inline(options: Mapping) -> str:
    """Return a mapping as a text that stands where a file of options is named."""
    return json.dumps(options, ensure_ascii=False)


def short(value: object) -> str:
    """Return a value as it is shown in messages."""
    return _cut(repr(value))


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 20]} ... {text[-10:]}"


def _plainly(message: str) -> str:
    """Return jsonargparse's message about a wrong type in our words, shortened."""
    message = re.sub(r"<class '(\w+)'>", r"\1", message)
    wrong = re.match(
        r'Parser key "([^"]+)": .*?(Expected an? (.+?)\. Got|Subtypes: \[(.*)\] Errors: .* Given) value:(.*)', message
    )
    if wrong:
        allowed = wrong[3] or wrong[4]
        others = re.sub(r"\bNoneType(, )?|, NoneType$", "", allowed)
        allowed = allowed if others == allowed else f"{others}, null"
        return f"{wrong[1]} is {_cut(wrong[5].strip() or repr(''))}; expected {allowed}"
    return _cut(message, 700)


def summary(thing: object) -> str:
    """Return the first line of a docstring."""
    return next(iter((thing.__doc__ or "").strip().splitlines()), "not documented")
