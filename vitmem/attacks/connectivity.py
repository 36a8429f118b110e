"""Linear paths between models: is there a barrier, and how much of an edit must be undone until the memory is back?

Vision transformers have no batch statistics, so the weights between two models need no recalibration.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.finetune import fine_tune
from vitmem.attacks.scoring import ACCURACIES
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples, keyed_generator
from vitmem.datamodules.module import MemorisationData
from vitmem.evaluation.metrics import compute
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.models.anatomy import anatomy_of
from vitmem.models.build import with_weights
from vitmem.training.errors import TrainingDiverged

LOSSES = ("given_cross_entropy", "true_cross_entropy", "clean_train_cross_entropy", "validation_cross_entropy")


@dataclass(frozen=True)
class Connectivity(Attack):
    """Accuracies and losses on the straight lines from a model to base, to retrain and to itself relearned.

    Each row is a point of a path, named by its end: alpha 0 is the attacked model, 1 the end. The report has, for each
    path, the barrier of each loss, ``memory_back`` (first alpha at which memorized accuracy is half of base's, linear
    between points) and the distances of the weights by block. The path between base and retrain is that of an attack on
    base. Relearned means fine-tuned on right labels alone, by AdamW without decay.

    Args:
        points: on each path, ends included.
        examples: noisy, clean and validation examples that are measured, at most so many of each.
        relearn_steps: steps of the relearned end, on batches of 128; 0 leaves it out.
        relearn_lr: its learning rate.
    """

    settings = ("path", "alpha")

    points: int = 21
    examples: int = 500
    relearn_steps: int = 50
    relearn_lr: float = 1e-4

    def __post_init__(self):
        for option, least in (("points", 2), ("examples", 1), ("relearn_steps", 0)):
            if getattr(self, option) < least:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be at least {least}")
        if not (math.isfinite(self.relearn_lr) and self.relearn_lr > 0):
            raise ValueError(f"relearn_lr is {self.relearn_lr}; it must be positive and finite")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return one row for each point of each path."""
        start = time.perf_counter()
        ends = {name: data.reference(name) for name in ("base", "retrain") if name != data.subject}
        drawn, order = torch.randint(2**62, (2,), generator=generator).tolist()
        undefined: dict[str, str] = {}
        if self.relearn_steps:
            right = data.data.train_examples.subset(data.data.train_examples.to_retain)
            batches = data.data.loader(right, 128, shuffle=True, seed=order)
            try:
                data.data.need_forget_set("relearning sees the examples whose labels are right")
                ends["relearned"] = fine_tune(model, batches, self.relearn_steps, lr=self.relearn_lr)
            except (ValueError, TrainingDiverged) as error:
                ends["relearned"], undefined["relearned"] = None, str(error)
        loaders = _loaders(data.data, self.examples, drawn)
        base = model if data.subject == "base" else ends["base"]
        memorized = math.nan if base is None else measure(base, loaders)["memorized_accuracy"]
        alphas = [point / (self.points - 1) for point in range(self.points)]
        rows, paths = [], {}
        for name, end in ends.items():
            if end is None:
                undefined.setdefault(name, f"there is no {name} model")
                continue
            states = [uncompiled(side).state_dict() for side in (model, end)]
            found = [measure(with_weights(uncompiled(model), between(*states, alpha)), loaders) for alpha in alphas]
            rows += [{"path": name, "alpha": alpha, **values} for alpha, values in zip(alphas, found, strict=True)]
            back, why = memory_back(alphas, [values["memorized_accuracy"] for values in found], memorized)
            undefined |= {f"{name}.memory_back": why} if why else {}
            paths[name] = {
                "barrier": {loss: barrier(alphas, [values[loss] for values in found]) for loss in LOSSES},
                "memory_back": back,
                "distance": distances(*states, anatomy_of(uncompiled(model)).blocks),
            }
        return AttackResult(rows, {"paths": paths, "undefined": undefined, "seconds": time.perf_counter() - start})


def between(first: Mapping[str, Tensor], last: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return first + alpha (last - first), exact at both ends; integer buffers are the first's."""
    return {
        name: torch.lerp(value, last[name].to(value), alpha) if value.is_floating_point() else value
        for name, value in first.items()
    }


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """Return the largest excess of a loss over the chord between its ends, which is at least 0; NaN if any is NaN.

    Source: the chord form, as in Entezari et al. 2022, definition 2.2.
    """
    excess = [l - (losses[0] + a * (losses[-1] - losses[0])) for a, l in zip(alphas, losses, strict=True)]  # noqa: E741
    return math.nan if any(map(math.isnan, excess)) else max(0.0, *excess)


def memory_back(alphas: Sequence[float], memorized: Sequence[float], base: float) -> tuple[float, str]:
    """Return the first alpha at which memorized accuracy is half of base's, and why it is NaN if it is.

    Args:
        alphas: rising, from 0 to 1.
        memorized: memorized accuracy at each.
        base: that of the base model.
    """
    if not base > 0:
        return math.nan, "there is no base model, or it has memorised nothing"
    if memorized[0] >= base / 2:
        return 0.0, ""
    for (a, low), (b, high) in itertools.pairwise(zip(alphas, memorized, strict=True)):
        if high >= base / 2:
            return a + (b - a) * (base / 2 - low) / (high - low), ""
    return math.nan, "memorized accuracy stays below half of base's"


def distances(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], blocks: Sequence[str] = ()
) -> dict[str, dict[str, float]]:
    """Return the Euclidean distance by block and in total, and relative to the norm of the last model's weights.

    Args:
        first: weights by name.
        last: weights by name.
        blocks: names of the blocks; what lies in none counts by the first part of its name.
    """
    squares: dict[str, Tensor] = {}
    for name, value in last.items():
        if value.is_floating_point():
            block = next((b for b in blocks if name.startswith(f"{b}.")), name.partition(".")[0])
            gap = first[name].to(value).double() - value.double()
            pair = torch.stack([gap.square().sum(), value.double().square().sum()]).cpu()
            for group in (block, "total"):
                squares[group] = squares.get(group, 0) + pair
    return {
        group: {"distance": math.sqrt(gap), "relative": math.sqrt(gap / norm) if norm else math.nan}
        for group, (gap, norm) in ((group, pair.tolist()) for group, pair in squares.items())
    }


def measure(model: nn.Module, loaders: Mapping[int, object]) -> dict[str, float]:
    """Return accuracies and losses of a model."""
    found = compute(predict(model, loaders, next(model.parameters()).device))
    return {name: found[name].value for name in (*ACCURACIES, *LOSSES)}


def _loaders(data: MemorisationData, examples: int, seed: int) -> dict[int, object]:
    def some(part: Examples) -> Tensor:
        return torch.randperm(len(part), generator=keyed_generator(seed))[:examples].sort().values

    train, validation = data.train_examples, data.validation_examples
    rows = [torch.nonzero(mask).flatten() for mask in (train.remembered, train.to_retain)]
    chosen = torch.cat([part[some(part)] for part in rows])
    return {TRAIN: data.loader(train.subset(chosen)), VALIDATION: data.loader(validation.subset(some(validation)))}
