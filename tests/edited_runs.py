"""Edits that read what they may and that fail in one way or another."""

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from vitmem.editing.contract import Edit, EditDiverged, EditResult
from vitmem.files import write_json

SEEN: list[torch.Tensor] = []


@dataclass(frozen=True)
class Reader(Edit):
    """Read what is to be forgotten and what is to be kept."""

    sees: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "validation"})
    epochs: int = 2

    def apply(self, model, data, generator):
        SEEN[:] = [batch.index for _ in range(self.epochs) for batch in data.forget(7)]
        for loader in (data.retain(100), data.validation(100)):
            next(iter(loader))
        return EditResult(dict(model.state_dict()), {"layers": [], "seconds": {"apply": 1.0}, "extra_parameters": 5})


@dataclass(frozen=True)
class Explode(Edit):
    """Fail in one way or another."""

    how: str = "raises"

    def apply(self, model, data, generator):
        if self.how == "raises":
            raise EditDiverged("the loss is nan\nat step 3")
        if self.how == "fails":
            raise RuntimeError("there is no kernel")
        if self.how == "memory":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        state = {k: torch.full_like(v, math.nan) if k == "head.bias" else v for k, v in model.state_dict().items()}
        return EditResult(state, {"layers": [], "seconds": {"apply": 0.0}})


def rewritten(path, **changes):
    """Write a file of a run folder as vitmem would have with other values, and return what it holds."""
    content = json.loads(path.read_text())
    del content["checksum"]
    return write_json(path, content | changes)
