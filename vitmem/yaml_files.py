"""YAML, read as data: one mapping of plain values, of bounded size, in which nothing stands twice. Knows no option."""

import os
import re
import stat
from pathlib import Path

import yaml

LARGEST_FILE = 1_000_000  # bytes
DEEPEST = 30  # levels; ours have four
LONGEST_LIST = 2000  # jsonargparse takes time by its square; longer lists of classes have files of their own
MOST_NODES = 20_000  # with every alias counted as what it stands for


class _Plain(yaml.SafeLoader):
    """PyYAML's safe loader, without what it does silently or without bounds.

    Of two equal keys it would take the last; aliases of aliases grow without bounds, deep nesting ends Python's stack,
    and tags ask for objects that no option takes.
    """

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
        if self._nodes > MOST_NODES:
            raise yaml.YAMLError(f"{line}: there are more than {MOST_NODES:,} values, with aliases written out")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.SequenceNode) and len(node.value) > LONGEST_LIST:
            raise yaml.YAMLError(f"{line} begins a list of {len(node.value):,} values; {LONGEST_LIST:,} are allowed")
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


def load_yaml(text: str) -> object:
    """Return the plain value that a text holds: numbers, texts, lists and mappings. ``1e-4`` is a number.

    Raises:
        yaml.YAMLError: it is no YAML, or nested too deep, too large, or holds a key twice.
    """
    try:
        return yaml.load(text, Loader=_Plain)
    except ValueError as error:  # an integer of more digits than Python reads
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> dict:
    """Return the mapping that a YAML file holds.

    Raises:
        ValueError: the file is not there, is no regular file, is too large, is not YAML, or holds no mapping of names.
    """
    try:
        content = load_yaml(_text(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a mapping of options")
    return content


def _text(path: Path) -> str:
    """Return the text of a regular file: a named pipe would be waited for, a device has no end."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"there is no file {path}") from None
    except ValueError as error:  # a null character
        raise ValueError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ValueError(f"{path} is {kind}; expected a YAML file")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        size = max(os.stat(path).st_size, len(content))
        raise ValueError(f"{path} has {size:,} bytes; a YAML file of options has at most {LARGEST_FILE:,}")
    return content.decode()
