"""Shapes: what a file of JSON must hold, declared as data, and checked with the place that does not fit.

A shape is a type (``float`` takes whole numbers, too, and nothing that is not finite), None, a ``Number``, a ``Text``,
a tuple of alternatives, a list ``[shape]``, an ``Each``, or a mapping of keys to shapes: a key that ends in "?" may be
absent, and keys that are not declared hold anything.
"""

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

Shape = Any
_WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a number", dict: "a mapping", None: "null"}


@dataclass(frozen=True)
class Number:
    """A finite number within bounds.

    Args:
        low: smallest.
        high: largest.
        whole: only whole numbers.
    """

    low: float = -sys.float_info.max
    high: float = sys.float_info.max
    whole: bool = False

    def fits(self, value: object) -> bool:
        """Tell whether a value is such a number."""
        kinds = (int,) if self.whole else (int, float)
        return type(value) in kinds and self.low <= value <= self.high

    def __str__(self):
        most = f"up to {self.high:g}" if self.high < 1e15 else "on"
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} {most}"


_ANY = Number()


@dataclass(frozen=True)
class Text:
    """Text that fits a pattern as a whole.

    Args:
        pattern: regular expression.
        words: what it is called.
    """

    pattern: str
    words: str

    def fits(self, value: object) -> bool:
        """Tell whether a value is such a text."""
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def __str__(self):
        return self.words


@dataclass(frozen=True)
class Each:
    """A mapping whose keys have one shape, and whose values have another.

    Args:
        key: of the keys.
        value: of the values.
    """

    key: Shape
    value: Shape


NAME = Text(r"[\w+-][\w.+-]*", "a name of letters, digits, '.', '_', '+' and '-' with no dot in front")
SHA256 = Text("[0-9a-f]{64}", "a SHA-256")
SHARE = Number(0, 1)
COUNT = Number(0, 2**63 - 1, whole=True)
AMOUNT = Number(0)
CELL = (str, bool, float, None)  # of a table


def mismatch(value: object, shape: Shape, place: str = "") -> str:
    """Return where and how a value does not fit a shape, in words; empty if it fits."""
    if isinstance(shape, tuple):
        if not isinstance(value, (dict, list)):
            return "" if any(_fits(value, one) for one in shape) else _refused(value, shape, place)
        found = [mismatch(value, one, place) for one in shape if isinstance(one, (type(value), Each))]
        return "" if "" in found else (found or [_refused(value, shape, place)])[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _refused(value, shape, place)
        return _first(mismatch(item, shape[0], f"{place}[{k}]") for k, item in enumerate(value))
    if isinstance(shape, (dict, Each)):
        return _in_mapping(value, shape, place) if isinstance(value, dict) else _refused(value, shape, place)
    return "" if _fits(value, shape) else _refused(value, shape, place)


def _in_mapping(value: dict, shape: dict | Each, place: str) -> str:
    prefix = f"{place}." if place else ""
    if isinstance(shape, Each):
        bad = _first(mismatch(key, shape.key, f"the key {prefix}{_shown(key)}") for key in value)
        return bad or _first(mismatch(item, shape.value, f"{prefix}{key}") for key, item in value.items())
    needed = [key for key in shape if not key.endswith("?") and key not in value]
    if needed:
        return f"{prefix}{needed[0]} is missing; it must be {_words(shape[needed[0]])}"
    there = {key.removesuffix("?"): one for key, one in shape.items() if key.removesuffix("?") in value}
    return _first(mismatch(value[key], one, f"{prefix}{key}") for key, one in there.items())


def _fits(value: object, shape: Shape) -> bool:
    if isinstance(shape, (Number, Text)):
        return shape.fits(value)
    if shape is float:
        return _ANY.fits(value)
    return value is None if shape is None else type(value) is shape


def _first(found) -> str:
    return next((why for why in found if why), "")


def _refused(value: object, shape: Shape, place: str) -> str:
    return f"{place or 'the whole'} is {_shown(value)}; it must be {_words(shape)}"


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of more than 19 digits"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _words(shape: Shape) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_words, shape))
    if isinstance(shape, (list, dict, Each)):
        return "a list" if isinstance(shape, list) else "a mapping"
    return str(shape) if isinstance(shape, (Number, Text)) else _WORDS[shape]
