"""The choice of a model's linear layers, and of its norms, by name.

Layer names are the model's own module names: those of timm are ``blocks.0.attn.qkv``, ``blocks.0.mlp.fc1``, ``head``.
Where a model has other names, ``blocks.N`` stands for its N-th block from 0 on, ``head`` for its classifier
(``vitmem.models.anatomy``), and ``patch_embed.proj`` for its first linear layer.
"""

import fnmatch
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from vitmem.models.anatomy import anatomy_of
from vitmem.models.kinds import is_linear, is_norm

LONGEST_PATTERN, MOST_PATTERNS = 10_000, 10_000  # characters; what braces may stand for


def select_layers(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Module]:
    """Return the linear layers whose names match, in the model's order.

    Linear layers are ``nn.Linear`` modules, and convolutions without groups, such as the one that embeds patches.

    Args:
        model: a vision transformer.
        patterns: one glob pattern or several (a string may hold several, separated by commas or spaces) over module
            names: ``*``, ``?``, ``[0-3]``, and braces as in ``blocks.{0,11}.mlp.*``. One with ``!`` in front takes
            away, as in ``blocks.*, !blocks.0.attn.qkv``; where all do, they take from all layers.

    Raises:
        ValueError: a pattern matches no linear layer.
    """
    return _select(model, patterns, is_linear, "linear layer")


def select_norms(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Module]:
    """Return the norms that have a scale and whose names match, as ``select_layers`` does for linear layers."""
    return _select(model, patterns, is_norm, "norm with a scale")


def _select(
    model: nn.Module, patterns: str | Iterable[str], wanted: Callable[[nn.Module], bool], kind: str
) -> dict[str, nn.Module]:
    names = [name for name, module in model.named_modules() if wanted(module)]
    given = split_patterns(patterns) if isinstance(patterns, str) else list(patterns)
    chosen = set(names) if given and all(pattern.startswith("!") for pattern in given) else set()
    taken: set[str] = set()
    for pattern in given:
        found = set()
        for plain in expand_braces(pattern.removeprefix("!")):
            found |= set(fnmatch.filter(names, plain)) or _by_standard_name(model, names, plain)
        if not found:
            raise ValueError(f"the pattern {pattern!r} matches no {kind}; there are: {summarise(names) or 'none'}")
        if pattern.startswith("!"):
            taken |= found
        else:
            chosen |= found
    chosen -= taken
    if not chosen:
        why = "the patterns take away all that they choose" if given else "no pattern was given for the layers to edit"
        raise ValueError(f"{why}; there are: {summarise(names) or 'none'}")
    return {name: model.get_submodule(name) for name in names if name in chosen}


def _by_standard_name(model: nn.Module, names: Sequence[str], pattern: str) -> set[str]:
    """Return the modules that match by the names that they would have in timm: blocks, the head and the embedding."""
    linear = [name for name, module in model.named_modules() if name and is_linear(module)]
    if not linear:
        return set()
    anatomy = anatomy_of(model)
    parts = [(block, f"blocks.{number}") for number, block in enumerate(anatomy.blocks)]
    called = {
        standard + name.removeprefix(part): name
        for part, standard in (*parts, (anatomy.head, "head"), (linear[0], "patch_embed.proj"))
        for name in names
        if name == part or name.startswith(f"{part}.")
    }
    return {called[name] for name in fnmatch.filter(called, pattern)}


def split_patterns(text: str) -> list[str]:
    """Return the patterns of a text that separates them by commas or spaces; commas in braces belong to a pattern.

    Raises:
        ValueError: the text is absurdly long.
    """
    if len(text) > LONGEST_PATTERN:
        raise ValueError(f"the pattern {text[:50]!r} ... has {len(text):,} characters; {LONGEST_PATTERN:,} are allowed")
    return [part for part in re.split(r"[\s,]+(?![^{}]*\})", text) if part]


def expand_braces(pattern: str) -> list[str]:
    """Return the patterns that a pattern with braces stands for: ``a{b,c}`` is ``ab`` and ``ac``.

    Raises:
        ValueError: there are absurdly many.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    if (number := math.prod(map(len, choices))) > MOST_PATTERNS:
        raise ValueError(
            f"the braces of the pattern {pattern[:50]!r} ... stand for {float(number):.2g} patterns; "
            f"{MOST_PATTERNS:,} are allowed"
        )
    return ["".join(choice) for choice in itertools.product(*choices)]


def summarise(names: Iterable[str]) -> str:
    """Return layer names in one short line: block numbers are replaced by a range."""
    shapes: dict[str, list[int]] = {}
    for name in names:
        found = re.match(r"(.*?\.)(\d+)(\..*)", name)
        key = f"{found.group(1)}{{}}{found.group(3)}" if found else name
        shapes.setdefault(key, []).append(int(found.group(2)) if found else 0)
    return ", ".join(
        key.replace("{}", f"{{{numbers[0]}..{numbers[-1]}}}" if len(numbers) > 1 else str(numbers[0]))
        for key, numbers in shapes.items()
    )
