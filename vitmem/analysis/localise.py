"""Where does the memory sit? One block and one kind of layer at a time is shrunk, rewound or edited; probes by depth.

Legend: N examples, D features, P label sets (the labels, then permutations of them).
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.analysis.answers import ACCURACIES, accuracies_of
from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.attacks.features import features_of
from vitmem.attacks.probes import label_probe, permuted
from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.batch import Examples
from vitmem.editing.kfac import EKFAC
from vitmem.models.anatomy import anatomy_of
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers

ALL = "all"
MODES = ("scale", "rewind", "ekfac")


@dataclass(frozen=True)
class Localise(EKFAC, Analysis):
    """What is left of memory and generalisation when one block and one kind of layer is changed; probes by depth.

    Rows of the modes ``scale`` (matrices times ``factor``), ``rewind`` (W0 + ``factor`` (W - W0)) and ``ekfac``
    (filtered, at rho) are for each block and kind of layer, such as ``mlp.fc1``, for all kinds of a block, all blocks
    of a kind, and all; ``none`` is the model itself. Rows of ``probe`` have, at each block, the accuracy of a linear
    probe for the given labels and for the true labels of what is to be forgotten, on held-out halves, with its null:
    ``permuted``, the mean accuracy for permuted labels, and the p-value. On ``retrain``, which never saw those labels,
    memory and the probe for given labels are a second null. Further options are those of ``ekfac``.

    Args:
        modes: of scale, rewind, ekfac, comma-separated.
        factor: strength of scale and rewind, in [0, 1).
        images: of each kind (to be forgotten, clean, validation), at most so many.
        permutations: permuted label sets of a probe; 0 fits no probes.
    """

    settings = ("mode", "block", "kind")

    rho: float = 0.6
    modes: str = ",".join(MODES)
    factor: float = 0.5
    images: int = 1000
    permutations: int = 20

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "images")
        if unknown := [mode for mode in self.modes.split(",") if mode not in MODES]:
            raise ValueError(f"modes has {unknown[0]!r}; choose from {', '.join(MODES)}, comma-separated")
        if not 0 <= self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must be in [0, 1)")
        if self.permutations < 0:
            raise ValueError(f"permutations is {self.permutations}; it must not be negative")

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each mode and place, and for each probe."""
        start = time.perf_counter()
        data.data.need_forget_set("this analysis measures memory")
        model, train = uncompiled(model), data.data.train_examples
        parts = (train.subset(train.to_forget), train.subset(train.to_retain), data.data.validation_examples)
        parts = [data.drawn(part, self.images, key) for key, part in enumerate(parts)]
        rows = [{"mode": "none", "block": "", "kind": ""} | accuracies_of(model, data.data, *parts)]
        skipped: dict[str, str] = {}
        for mode in self.modes.split(","):
            try:
                changed = self.changed(mode, model, data, generator)
            except ValueError as error:  # initial weights that are not known, say
                skipped[mode] = str(error)
                continue
            for (block, kind), names in places(model, list(changed)).items():
                state = dict(model.state_dict())
                for name in names:
                    state |= changed[name]
                found = accuracies_of(with_weights(model, state), data.data, *parts)
                lost = {f"{n.removesuffix('_accuracy')}_lost": rows[0][n] - found[n] for n in ACCURACIES}
                rows.append({"mode": mode, "block": block, "kind": kind} | found | lost)
        rows += self.probes(model, data, parts[0], generator) if self.permutations else []
        report = {"seconds": time.perf_counter() - start, "skipped": [f"{m}: {why}" for m, why in skipped.items()]}
        return AnalysisResult(rows, report)

    def changed(
        self, mode: str, model: nn.Module, data: AnalysisData, generator: torch.Generator
    ) -> dict[str, dict[str, Tensor]]:
        """Return, by layer, the entries of the state dict that a mode changes."""
        if mode == "ekfac":
            curvature = data.curvature(model, self)
            return {
                name: layer.map.state(layer.map.matrix_of(self.edited(model, {name: layer}, generator, {})[0]))
                for name, layer in curvature.layers.items()
            }
        maps = linear_maps(select_layers(model, self.layers), self.bias)
        initial = data.seen.initial(model) if mode == "rewind" else None
        found = {}
        for name, layer in maps.items():
            w_OI = layer.matrix()
            origin_OI = torch.zeros_like(w_OI) if initial is None else layer.matrix_of(initial)
            found[name] = layer.state(torch.lerp(origin_OI, w_OI, self.factor))
        return found

    def probes(self, model: nn.Module, data: AnalysisData, forget: Examples, generator: torch.Generator) -> list[dict]:
        """Return how well linear probes at each block find the given and the true labels of what is to be forgotten."""
        noisy = forget.subset(forget.is_noisy)
        if len(noisy) < 4:
            return []
        rows, classes = [], data.data.data.num_classes
        order = torch.randperm(len(noisy), generator=generator)
        features = features_of(model, data.data, noisy)
        for kind, label_N in {"given": noisy.given_label, "true": noisy.true_label}.items():
            label_PN = permuted(label_N, self.permutations, generator)
            for place, x_ND in features.items():
                found = label_probe(x_ND, label_PN, order, classes, generator)
                named = {"accuracy": "accuracy", "accuracy_low": "accuracy_low", "accuracy_high": "accuracy_high"}
                named |= {"permuted_mean": "permuted", "p_value": "p"}
                rows.append({"mode": "probe", "block": place, "kind": kind} | {n: found[k] for k, n in named.items()})
        return rows


def places(model: nn.Module, names: list[str]) -> dict[tuple[str, str], list[str]]:
    """Return the layers of each place: by number of the block and kind, with ``all`` for all of either."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        block, kind = _place(model, name)
        for key in ((block, kind), (block, ALL), (ALL, kind), (ALL, ALL)):
            found.setdefault(key, []).append(name)
    return found


def _place(model: nn.Module, name: str) -> tuple[str, str]:
    """Return the number of a layer's block and its name in it; ``outside`` for one that is in none."""
    for number, block in enumerate(anatomy_of(model).blocks):
        if name == block or name.startswith(f"{block}."):
            return str(number), name.removeprefix(block).removeprefix(".") or name
    return "outside", name
