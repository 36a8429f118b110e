"""Choosing how much to remove without any label of a wrongly labelled example.

Legend: N examples.
"""

import dataclasses
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Batch
from vitmem.editing.contract import EditResult
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC
from vitmem.models.finite import answers
from vitmem.models.layers import select_layers


@dataclass(frozen=True)
class AutoEKFAC(EKFAC):
    """EK-FAC with rho and g chosen on half of the validation set, by the one-standard-error rule. Options as for kfac.

    Among the candidates whose accuracy on the tuning half (validation examples of even index) is within one standard
    error of the best, the unedited model included, the one that changes most predictions on training images is taken:
    the strongest edit that validation cannot tell from the best. No label of a training example is read. Reported
    validation accuracy includes the tuning half. Source of the rule: Breiman et al. 1984, section 3.4.3.

    Args:
        rhos: candidates for rho, separated by commas or spaces.
        exponents: candidates for g, separated by commas or spaces.
        layer_choices: candidates for the layers to edit, separated by ``|``: patterns as for ``layers``, and within
            them; empty: ``layers`` itself.
    """

    main_option = None
    search: ClassVar[dict[str, tuple]] = {}  # it chooses by itself

    rhos: str = "0.97 0.95 0.92 0.9 0.87 0.85 0.82 0.8 0.77 0.75 0.7 0.65 0.6 0.5 0.4"
    exponents: str = "0.5 0.7 1"
    layer_choices: str = ""

    def __post_init__(self):
        super().__post_init__()
        for field in dataclasses.fields(EKFAC):
            if (
                field.name in ("rho", "exponent", "fraction", "pairs", "tau")
                and getattr(self, field.name) != field.default
            ):
                raise ValueError(
                    f"{field.name} is given, but ekfac_auto chooses it; give rhos and exponents, or use ekfac"
                )
        _ = self.candidates

    @property
    def choices(self) -> list[str]:
        """The layer patterns to choose from."""
        return [part.strip() for part in self.layer_choices.split("|") if part.strip()] or [self.layers]

    def check(self, model: nn.Module) -> None:
        """Refuse what ``EKFAC`` refuses, and layers to choose that are not among ``layers``."""
        super().check(model)
        collected = select_layers(model, self.layers)
        for pattern in self.choices:
            if outside := [name for name in select_layers(model, pattern) if name not in collected]:
                raise ValueError(
                    f"layer_choices: {pattern!r} chooses {outside[0]}, which is not among layers: {self.layers}"
                )

    @property
    def candidates(self) -> list[EKFAC]:
        """The edits to choose from."""
        try:
            grid = [(float(rho), float(g)) for g in _parts(self.exponents) for rho in _parts(self.rhos)]
        except ValueError as error:
            raise ValueError(f"rhos and exponents are numbers separated by commas: {error}") from error
        if not grid:
            raise ValueError("rhos and exponents hold no candidate; give numbers separated by commas")
        return [
            dataclasses.replace(_plain(self), rho=rho, exponent=g, layers=layers)
            for layers in self.choices
            for rho, g in grid
        ]

    @property
    def needs_images(self) -> bool:
        """Always: the choice is made on them."""
        return True

    @property
    def sees(self) -> frozenset[str]:
        """What EK-FAC sees, and the validation set."""
        return super().sees | {"validation"}

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the chosen candidate's weights, with the choice in the report."""
        model = uncompiled(model)
        self.check(model)
        origin = self.origin(model, data)
        curvature = self.curvature(model, data, origin)
        start = time.perf_counter()
        tuning = data.validation(self.batch_size)
        training = data.images(self, shared=False)  # every process must choose alike
        label_N = torch.cat([batch.true_label for batch in tuning])
        unedited = dict(model.state_dict())
        before_N = predictions(model, unedited, training)
        best = accuracy = float((predictions(model, unedited, tuning) == label_N).double().mean())
        layers = {p: {n: curvature.layers[n] for n in select_layers(model, p)} for p in [self.layers, *self.choices]}
        nothing = dataclasses.replace(_plain(self), rho=1.0)
        rows = [_row(nothing, accuracy, 0.0)]
        for candidate in self.candidates:
            state, _ = candidate.edited(model, layers[candidate.layers], generator, origin)
            accuracy = float((predictions(model, state, tuning) == label_N).double().mean())
            changed = float((predictions(model, state, training) != before_N).double().mean())
            rows.append(_row(candidate, accuracy, changed))
            best = max(best, accuracy)
        tolerance = math.sqrt(best * (1 - best) / len(label_N))
        choice = choose(rows, tolerance)
        options = {option: choice[option] for option in ("rho", "exponent", "layers")}
        chosen = dataclasses.replace(_plain(self), **options)
        state, report = chosen.edited(model, layers[chosen.layers], generator, origin)
        seconds = {**curvature.seconds, "apply": time.perf_counter() - start}
        found = {"choice": choice, "tolerance": tolerance, "candidates": rows, "lumped_trace": curvature.lumped}
        return EditResult(state, {"layers": report, "seconds": seconds, **found})


def _parts(text: str) -> list[str]:
    return text.replace(",", " ").split()


def choose(rows: list[dict], tolerance: float) -> dict:
    """Return the row that changes most among those within ``tolerance`` of the best tuning accuracy."""
    best = max(row["tuning_accuracy"] for row in rows)
    return max((row for row in rows if row["tuning_accuracy"] >= best - tolerance), key=lambda row: row["changed"])


def _row(edit: EKFAC, accuracy: float, changed: float) -> dict:
    chosen = {"rho": edit.rho, "exponent": edit.exponent, "layers": edit.layers}
    return {**chosen, "tuning_accuracy": accuracy, "changed": changed}


def _plain(edit: AutoEKFAC) -> EKFAC:
    return EKFAC(**{field.name: getattr(edit, field.name) for field in dataclasses.fields(EKFAC)})


@torch.no_grad()
def predictions(model: nn.Module, state: dict[str, Tensor], batches: Iterable[Batch]) -> Tensor:
    """Return the classes N that a model in eval mode with other weights predicts; the model is not changed."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found = [answers(functional_call(model, state, batch.image.to(device))).cpu() for batch in batches]
    model.train(was_training)
    return torch.cat(found)
