"""YAML, read as data: one mapping of plain values, of bounded size, in which nothing stands twice. Knows no option."""

import copy
import re
from functools import lru_cache
from pathlib import Path

import yaml

from vitmem.files import read_text

LARGEST_FILE = 1_000_000  # bytes
DEEPEST = 30  # levels; ours have four
LARGEST_OWN, MOST_OWN = 1 << 24, 1_000_000  # bytes, and values, of a file that vitmem wrote and sealed
LONGEST_LIST = 2000  # jsonargparse takes time by its square; longer lists of classes have files of their own
MOST_NODES = 20_000  # with every alias counted as what it stands for


class _Plain(yaml.SafeLoader):
    """PyYAML's safe loader, without what it does silently or without bounds.

    Of two equal keys it would take the last; aliases of aliases grow without bounds, deep nesting ends Python's stack,
    and tags ask for objects that no option takes.
    """

    longest_list, most_nodes = LONGEST_LIST, MOST_NODES

    def __init__(self, text: str):
        super().__init__(text)
        self._depth, self._nodes, self._sizes = 0, 0, {}

    def compose_node(self, parent, index):
        """Return the next node, within the bounds."""
        event, before = self.peek_event(), self._nodes
        line, is_alias = f"line {event.start_mark.line + 1}", isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor in self.anchors and event.anchor not in self._sizes:
            raise yaml.YAMLError(f"{line}: *{event.anchor} stands for something that it is a part of")
        if not is_alias and event.tag is not None:
            raise yaml.YAMLError(f"{line} has the tag {event.tag}; give plain values, without tags")
        self._depth += 1
        self._nodes += self._sizes.get(event.anchor, 1) if is_alias else 1
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"{line} is nested too deep; {DEEPEST} levels are allowed")
        if self._nodes > self.most_nodes:
            raise yaml.YAMLError(f"{line}: there are more than {self.most_nodes:,} values, with aliases written out")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.SequenceNode) and len(node.value) > self.longest_list:
            raise yaml.YAMLError(
                f"{line} begins a list of {len(node.value):,} values; {self.longest_list:,} are allowed"
            )
        if event.anchor is not None and not is_alias:
            self._sizes[event.anchor] = self._nodes - before
        return node

    def construct_mapping(self, node, deep=False):
        """Return the mapping of a node, whose keys all differ; merged mappings (``<<``) give way to them."""
        seen: dict[object, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in seen:
                raise yaml.YAMLError(f"the key {name!r} comes twice, in lines {seen[name]} and {line}")
            seen[name] = line
        return super().construct_mapping(node, deep)


_Plain.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in ("timestamp", "value", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Plain.add_implicit_resolver(  # PyYAML's takes 1e-4 for a text
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


class _Own(_Plain):
    """The loader of what vitmem wrote: a run with many classes opens again."""

    longest_list = most_nodes = MOST_OWN


class _Writer(yaml.SafeDumper):
    """PyYAML's safe dumper, with quotes around texts such as ``1e3`` that ``load_yaml`` would take for numbers."""


_Writer.yaml_implicit_resolvers = {
    first: [*known, *_Plain.yaml_implicit_resolvers.get(first, ())]
    for first, known in {**dict.fromkeys("-+.0123456789", ()), **yaml.SafeDumper.yaml_implicit_resolvers}.items()
}


def dump_yaml(content: dict) -> str:
    """Return a mapping of plain values as YAML that ``load_yaml`` reads as it was, in its order."""
    return yaml.dump(content, Dumper=_Writer, sort_keys=False)


def load_yaml(text: str, *, own: bool = False) -> object:
    """Return the plain value that a text holds: numbers, texts, lists and mappings. ``1e-4`` is a number.

    Args:
        text: of at most ``LONGEST_LIST`` values in a list, and ``MOST_NODES`` in all.
        own: vitmem wrote it, and there may be more of them.

    Raises:
        yaml.YAMLError: it is no YAML, or nested too deep, too large, or holds a key twice.
    """
    if len(text) > _LONGEST_KEPT:
        return _loaded(text, own)
    return copy.deepcopy(_kept(text, own))


def _loaded(text: str, own: bool) -> object:
    try:
        return yaml.load(text, Loader=_Own if own else _Plain)
    except ValueError as error:  # an integer of more digits than Python reads
        raise yaml.YAMLError(str(error)) from error


_LONGEST_KEPT = 10_000  # characters
_kept = lru_cache(1000)(_loaded)  # a verb reads a text more than once, and an option's default often


def read_yaml(path: Path, *, own: bool = False) -> dict:
    """Return the mapping that a YAML file holds.

    Args:
        path: the file.
        own: as for ``load_yaml``.

    Raises:
        ValueError: the file is not there, is no regular file, is too large, is not YAML, or holds no mapping of names.
    """
    text = read_text(path, LARGEST_OWN if own else LARGEST_FILE)
    try:
        content = load_yaml(text, own=own)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a mapping of options")
    return content
