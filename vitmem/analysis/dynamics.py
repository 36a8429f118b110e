"""What did training add when, and is it what an edit removes? Over the weights that training kept along the way.

Legend: O outputs, I inputs of a layer, E edits, P parts of the training, R draws.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.analysis.answers import accuracies_of, answers_of
from vitmem.analysis.bands import Bands
from vitmem.analysis.contract import EVERYTHING, Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.analysis.others import REFERENCES, at, chosen_edits, memory
from vitmem.analysis.resample import null_numbers
from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.known import tuning_half
from vitmem.models.layers import select_layers

ALL = "all"
BASE = "base"
LEFT = 0.2  # memorised accuracy that the edit of a family is to be nearest to

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Dynamics(Analysis):
    """Accuracies over the epochs of training, and the overlap of what edits remove with what training added late.

    Rows of ``measure: accuracy``: the four accuracies at the start, after the epochs whose weights training kept
    (``train.keep_every``) and at the end; validation accuracy is of the half with odd indices, ``tuning_accuracy`` of
    the other half, by which the best epoch among the kept ones is chosen (the earliest of equals).
    Rows of ``measure: overlap``: the cosine of W - W_edit, what an edit removes, with ``late``, W - W_best, what
    training added after the best epoch, and with ``early``, W_best - W_0, layer by layer and over all of them. Null
    control: random directions of the same rank and norm, which are W - W_edit between two random rotations.
    Rows of ``measure: bands``, if asked for: what ``bands`` finds over all layers in each of these models. Accuracies
    of a reference are at start and end alone: the weights along the way are the base model's. Of an edit, only its
    overlap is measured.

    Args:
        layers: glob patterns over layer names, separated by commas.
        edits: names or ids of edits, as glob patterns separated by commas; empty: of each kind of edit the one whose
            memorised accuracy is nearest 0.2.
        images: of each kind, at most so many.
        draws: random directions.
        bands: measure bands, too.
    """

    settings = ("measure", "epoch", "edit", "against", "layer", "order", "definition", "band")

    layers: str = "blocks.*"
    edits: str = ""
    images: int = 1000
    draws: int = 100
    bands: bool = False

    def __post_init__(self):
        check_counts(self, "images", "draws")

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each epoch, and for each edit, part of training and layer.

        Raises:
            ValueError: nothing is known of the training.
        """
        start = time.perf_counter()
        model, skipped = uncompiled(model), {}
        is_edit = data.subject not in REFERENCES
        end = (data.reference(BASE) if is_edit else None) or model
        course = self.course(end, data, skipped)
        rows = [] if is_edit else self.accuracies(course, data)
        best = None
        if data.subject == BASE or is_edit:
            best = self.best(course, data)
            rows += self.overlaps(course, best, end, data, skipped, generator)
        if self.bands and not is_edit:
            rows += self.banded(course, data, skipped)
        if not rows or (len(course) == 1 and data.subject == BASE):
            why = "; ".join(f"{what}: {why}" for what, why in skipped.items())
            raise ValueError(f"nothing is known of how this model was trained ({why})")
        named = [dict.fromkeys(self.settings, "") | row for row in rows]
        report = {"seconds": time.perf_counter() - start, "best_epoch": best, "epochs": [epoch for epoch, _ in course]}
        return AnalysisResult(named, report | {"skipped": [f"{what}: {why}" for what, why in skipped.items()]})

    def course(
        self, end: nn.Module, data: AnalysisData, skipped: dict[str, str]
    ) -> list[tuple[int | None, Callable[[], nn.Module]]]:
        """Return the models along the training, by epochs done: start, kept ones, end; what is not known is left out.

        Args:
            end: the trained model.
            data: knows the others.
            skipped: is told what is left out, and why.
        """
        found: list[tuple[int | None, Callable[[], nn.Module]]] = []
        try:
            first = at(end, data.seen.initial(end))
            found.append((0, lambda: first))
        except ValueError as error:
            skipped["start"] = str(error)
        if data.subject in (REFERENCES[1:]):
            skipped["epochs"] = "the weights along the way are the base model's"
        else:
            kept = data.epochs()
            before = {epoch: read for epoch, read in kept.items() if data.trained is None or epoch < data.trained}
            found += [(epoch, lambda read=read: at(end, read())) for epoch, read in before.items()]
            if not kept:
                skipped["epochs"] = "training kept no weights along the way (train.keep_every)"
        return [*found, (data.trained, lambda: end)]

    def accuracies(self, course: list, data: AnalysisData) -> list[dict]:
        """Return a row for each model along the training."""
        train, validation = data.data.train_examples, data.data.validation_examples
        parts = (train.subset(train.to_forget), train.subset(train.to_retain))
        parts = [data.drawn(part, self.images, key) for key, part in enumerate(parts)]
        parts.append(data.drawn(validation.subset(validation.index % 2 == 1), self.images, 2))
        rows = []
        for epoch, read in course:
            model = read()
            found = accuracies_of(model, data.data, *parts) | {"tuning_accuracy": self.tuning(model, data)}
            rows.append({"measure": "accuracy", "epoch": epoch} | found)
        return rows

    def tuning(self, model: nn.Module, data: AnalysisData) -> float:
        """Return the accuracy on the half of the validation set by which epochs are chosen."""
        half = data.drawn(tuning_half(data.data.validation_examples), self.images, 3)
        said = answers_of(model, data.data, half).prediction
        return float((said == half.true_label).double().mean())

    def best(self, course: list, data: AnalysisData) -> int | None:
        """Return the kept epoch of highest validation accuracy, the earliest of equals; None if none was kept."""
        kept = data.epochs()
        found = {epoch: self.tuning(read(), data) for epoch, read in course if epoch in kept}
        return max(found, key=lambda epoch: (found[epoch], -epoch)) if found else None

    def overlaps(
        self,
        course: list,
        best: int | None,
        end: nn.Module,
        data: AnalysisData,
        skipped: dict[str, str],
        generator: torch.Generator,
    ) -> list[dict]:
        """Return a row for each edit, part of the training and layer."""
        edited = {edit_id: edit.state_dict() for edit_id, edit in self.edited(data, skipped).items()}
        if best is None or not edited:
            skipped["overlap"] = "it needs weights that training kept, and edits whose weights are at hand"
            return []
        states = {epoch: read().state_dict() for epoch, read in course if epoch in (0, best)}
        maps = linear_maps(select_layers(end, self.layers))
        last = {name: layer.matrix() for name, layer in maps.items()}
        removed = {
            name: torch.stack([last[name] - layer.matrix_of(edit) for edit in edited.values()])
            for name, layer in maps.items()
        }
        middle = {name: layer.matrix_of(states[best]) for name, layer in maps.items()}
        parts = {"late": {name: last[name] - middle[name] for name in maps}}
        if 0 in states:
            parts["early"] = {name: middle[name] - layer.matrix_of(states[0]) for name, layer in maps.items()}
        added = {name: torch.stack([part[name] for part in parts.values()]) for name in maps}
        return [
            {"measure": "overlap", "edit": edit_id, "against": against, "layer": layer}
            | {"value": float(value_EP[i, j]), "best_epoch": best}
            | null_numbers(float(value_EP[i, j]), null_REP[:, i, j])
            for layer, (value_EP, null_REP) in cosines(removed, added, self.draws, generator).items()
            for i, edit_id in enumerate(edited)
            for j, against in enumerate(parts)
            if bool(value_EP[i, j].isfinite())  # an edit that left a layer alone has none
        ]

    def edited(self, data: AnalysisData, skipped: dict[str, str]) -> dict[str, nn.Module]:
        """Return the edited models by id: those that were asked for, or one of each kind; of an edit, itself."""
        if data.subject != BASE:
            chosen = [[data.subject]]
        elif self.edits:
            chosen = [[edit_id] for edit_id in chosen_edits(data, self.edits)]
            if not chosen:
                there = ", ".join(sorted({made.name for made in data.edits().values()})) or "none"
                raise ValueError(f"edits is {self.edits!r}, which no usable edit fits; there are: {there}")
        else:
            families: dict[str, dict[str, float]] = {}
            for edit_id, made in data.edits().items():
                if (left := memory(data, edit_id)) is not None:
                    families.setdefault(made.name, {})[edit_id] = abs(left[0].value - LEFT)
            chosen = [sorted(family, key=family.__getitem__) for family in families.values()]
        found = {}
        for ids in chosen:
            models = ((edit_id, data.reference(edit_id)) for edit_id in ids)
            edit_id, model = next(((i, m) for i, m in models if m is not None), (ids[0], None))
            if model is None:
                skipped[edit_id] = "its weights are not at hand"
            else:
                found[edit_id] = model
        return found

    def banded(self, course: list, data: AnalysisData, skipped: dict[str, str]) -> list[dict]:
        """Return what bands finds over all layers, for each model along the training."""
        apart = dataclasses.replace(data, seen=EditData(data.data, EVERYTHING))  # their spectra are not this run's
        bands, rows = Bands(layers=self.layers, images=self.images), []
        for epoch, read in course:
            try:
                found = bands.apply(read(), apart, keyed_generator(data.seed, 13)).rows
            except ValueError as error:
                skipped[f"bands of epoch {epoch}"] = str(error)
                continue
            rows += [{"measure": "bands", "epoch": epoch} | row for row in found if row["layer"] == ALL]
        return rows


def cosines(
    removed: Mapping[str, Tensor], added: Mapping[str, Tensor], draws: int, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by layer and for all of them, cosines E P of directions with others, and their nulls R E P.

    The null turns the others by a random rotation on either side, which leaves rank and norm as they are. Each draw has
    one rotation for each size, whose axes are dealt out and signed anew for each layer.

    Args:
        removed: by layer, directions E O I.
        added: by layer, others P O I.
        draws: R.
        generator: of the rotations.
    """
    found = {name: [_products(d_EOI, added[name])] for name, d_EOI in removed.items()}
    for _ in range(draws):
        rotations: dict[int, Tensor] = {}
        for name, d_EOI in removed.items():
            for size in d_EOI.shape[1:]:
                if size not in rotations:
                    rotations[size] = random_rotation(size, d_EOI, generator)
            left_OO, right_II = (dealt(rotations[size], generator) for size in d_EOI.shape[1:])
            found[name].append(_products(d_EOI, left_OO @ added[name] @ right_II.T))
    products = {name: torch.stack(parts) for name, parts in found.items()}
    norms = {
        name: [part.double().square().sum((1, 2)).cpu() for part in (d_EOI, added[name])]
        for name, d_EOI in removed.items()
    }
    products[ALL] = torch.stack(list(products.values())).sum(0)
    norms[ALL] = [torch.stack(parts).sum(0) for parts in zip(*norms.values(), strict=True)]
    result = {}
    for name, product_REP in products.items():
        first_E, second_P = norms[name]
        cosine_REP = product_REP / (first_E[:, None] * second_P).sqrt()
        result[name] = cosine_REP[0], cosine_REP[1:]
    return result


def _products(first_EOI: Tensor, second_POI: Tensor) -> Tensor:
    return (first_EOI.flatten(1) @ second_POI.flatten(1).T).double().cpu()


def random_rotation(size: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return an orthogonal matrix, uniformly drawn (Haar), of a tensor's type and device."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator).to(like))
    return q * r.diagonal().sign()


def dealt(rotation: Tensor, generator: torch.Generator) -> Tensor:
    """Return a rotation with its rows dealt out and signed at random: as uniform, and uncorrelated with it."""
    order = torch.randperm(len(rotation), generator=generator)
    sign = torch.randint(2, (len(rotation), 1), generator=generator) * 2 - 1
    return rotation[order.to(rotation.device)] * sign.to(rotation)
