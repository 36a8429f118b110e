"""An edit applied, with what became of it and what it cost."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from vitmem.editing.contract import Edit, EditDiverged, EditResult
from vitmem.editing.cost import ExtraMemory
from vitmem.editing.data import EditData
from vitmem.models.finite import broken
from vitmem.models.memory import ran_out


@dataclass(frozen=True, eq=False)
class Attempt:
    """What became of an edit, and its cost.

    Args:
        result: None if the edit diverged.
        status: ``ok``, ``diverged: reason`` or ``failed: reason``.
        passes: examples that were served, in training sets; curvature from the cache counts as if it were collected.
        seconds: of the whole; with curvature from the cache, less than what the result's report adds up.
        extra_memory: peak above what was in use before, in bytes; None if curvature came from the cache.
    """

    result: EditResult | None
    status: str
    passes: float
    seconds: float
    extra_memory: int | None


def applied(edit: Edit, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
    """Apply an edit.

    Raises:
        EditDiverged: a weight is not finite.
    """
    result = edit.apply(model, data, generator)
    if name := broken(result.state_dict):
        raise EditDiverged(f"{name} is not finite")
    return result


def attempt(
    edit: Edit, model: nn.Module, data: EditData, generator: torch.Generator, *, keep_going: bool = False
) -> Attempt:
    """Apply an edit, and tell whether its weights are finite and what it cost.

    With ``keep_going`` one that cannot be applied is an attempt that failed; else its error is raised. So is want of
    memory, always: it says nothing of the edit.
    """
    result, start = None, time.perf_counter()
    with ExtraMemory(next(model.parameters()).device) as memory:
        try:
            result, status = edit.apply(model, data, generator), "ok"
        except EditDiverged as error:
            status = f"diverged: {' '.join(str(error).split())}"
        except (ValueError, RuntimeError, ArithmeticError) as error:
            if not keep_going or ran_out(error):
                raise
            status = f"failed: {' '.join(str(error).split())[:300]}"
    seconds = time.perf_counter() - start
    if result is not None and (name := broken(result.state_dict)):
        result, status = None, f"diverged: {name} is not finite"
    return Attempt(result, status, data.passes, seconds, None if data.reused else memory.bytes)
