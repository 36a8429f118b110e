"""Where a model's blocks and its classifier are, by the names of its modules: nothing here knows whose model it is.

A model may say it itself, by an attribute ``anatomy``; otherwise its structure tells.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.models.kinds import is_linear

ATTRIBUTE = "anatomy"


@dataclass(frozen=True)
class Anatomy:
    """The parts of a classifier.

    Args:
        head: name of the linear layer whose output are the logits.
        blocks: names of the blocks, from the first on; none lies in another.
    """

    head: str
    blocks: tuple[str, ...]


def anatomy_of(model: nn.Module) -> Anatomy:
    """Return the parts of a classifier: as its attribute ``anatomy`` says, else by its structure.

    Blocks are the modules of the kind that occurs most often among those that hold linear layers, the outermost such
    kind where several occur as often; where none occurs twice, every linear layer but the head is a block. The head is
    the last linear layer.

    Raises:
        ValueError: it has no linear layer.
    """
    if isinstance(known := getattr(model, ATTRIBUTE, None), Anatomy):
        return known
    linear = _linear(model)
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer, so no classifier is found")
    return _with_head(model, linear[-1])


def seen_anatomy(model: nn.Module, image_BCHW: Tensor) -> Anatomy:
    """Return the parts of a classifier whose head is the linear layer that returns the logits in a forward pass.

    Where none does, as in a distilled transformer that means two, it is the last one by structure.
    """
    outputs: dict[str, Tensor] = {}

    def watch(name: str):
        return lambda module, inputs, output: outputs.update({name: output})

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in _linear(model)]
    try:
        with torch.no_grad():
            logits_BK = model(image_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    found = [n for n, out in outputs.items() if out.shape == logits_BK.shape and torch.equal(out, logits_BK)]
    return _with_head(model, found[-1]) if found else anatomy_of(model)


def _linear(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if name and is_linear(module)]


def _with_head(model: nn.Module, head: str) -> Anatomy:
    blocks = _repeated(model) or [name for name in _linear(model) if name != head]
    return Anatomy(head, tuple(blocks))


def _repeated(model: nn.Module) -> list[str]:
    found: dict[type, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        kind = type(module)
        plain = kind in (nn.Sequential, nn.ModuleList, nn.Identity) or not any(True for _ in module.children())
        if not name or plain or not any(is_linear(part) for part in module.modules()):
            continue
        if not any(name.startswith(f"{outer}.") for outer in found[kind]):
            found[kind].append(name)
    most = max((len(names) for names in found.values()), default=0)
    return next((names for names in found.values() if len(names) == most), []) if most > 1 else []


def head_of(model: nn.Module) -> tuple[str, nn.Linear]:
    """Return the one linear layer whose output are the logits, with its name.

    Raises:
        ValueError: the model's classifier is of another kind, or there are two, as in a distilled transformer.
    """
    name = anatomy_of(model).head
    head, outer = model.get_submodule(name), model.get_submodule(name.rpartition(".")[0])
    if not isinstance(head, nn.Linear):
        raise ValueError(f"the classifier {name} is a {type(head).__name__}; this needs one nn.Linear there")
    shapes = {n: part.weight.shape for n, part in outer.named_children() if isinstance(part, nn.Linear)}
    if twins := [n for n, shape in shapes.items() if shape == head.weight.shape and shape[0] != shape[1]][:-1]:
        raise ValueError(f"the model has several classifiers ({name} and {twins[0]}); this needs one nn.Linear")
    return name, head


def depths(model: nn.Module) -> dict[str, int]:
    """Return how deep each parameter lies, by name: 0 before the first block, 1 to n in blocks, n + 1 behind the last.

    What is registered between two blocks counts to the one before it.
    """
    anatomy, found, reached = anatomy_of(model), {}, 0
    blocks = anatomy.blocks
    last_seen = False
    for name, _ in model.named_parameters():
        inside = next((i for i, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
        if name.startswith(f"{anatomy.head}."):  # wherever it was registered
            found[name] = len(blocks) + 1
        elif inside is not None:
            reached, last_seen = inside + 1, inside + 1 == len(blocks)
            found[name] = reached
        else:
            found[name] = len(blocks) + 1 if last_seen else reached
    return found
