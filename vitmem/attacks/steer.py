"""Steering: does a vector, added to the features of a block, bring back wrong labels, without changing a weight?

Legend: N examples, C features, K classes.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.features import features_of, pooling_of, steered
from vitmem.attacks.prototype import first_of_each
from vitmem.attacks.relearn import split
from vitmem.attacks.scoring import hidden_sets, score
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.module import MemorisationData
from vitmem.evaluation.metrics import accuracy
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.models.anatomy import anatomy_of
from vitmem.options import check_counts

Direction = Literal["base", "label"]


@dataclass(frozen=True)
class Steer(Attack):
    """Add a direction to what a block says, at the positions that the classifier reads, in several strengths.

    ``base``: one vector for every image, the mean over shown wrong labels of base's features less the attacked model's;
    of base itself, and of an edit that changes nothing, it is 0. ``label``: a vector for each class, the mean features
    of clean examples of the class less those of all classes, in the attacked model; a noisy image is steered to its
    given label, and, as a control, to other wrong ones (``other_label``: how often it then says those); a validation
    image to a wrong class drawn at random. Any model says at last what it is steered to: what counts is what
    ``memorized_accuracy`` has above ``other_label``, and above retrain, steered alike.

    Source: Jang et al. 2026 (arXiv 2602.18505), who steer by those directions of a sparse autoencoder, trained on the
    unedited model, that answer to one class above all. A mean difference is one dense direction for a class, of the
    attacked model: it needs no training, and cannot tell what in it is the class's own.

    Args:
        directions: base, label.
        depths: which blocks, as shares of their number: 1 is the last.
        alphas: how much of the vector is added; 1 is all of it.
        per_class: clean examples of each class for the means of ``label``.
        controls: other wrong labels that each noisy image is steered to.
        examples: most scored of each kind, noisy and validation.
    """

    settings = ("direction", "place", "alpha")

    directions: tuple[Direction, ...] = ("base", "label")
    depths: tuple[float, ...] = (0.5, 0.75, 1.0)
    alphas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    per_class: int = 20
    controls: int = 4
    examples: int = 2000

    def __post_init__(self):
        if wrong := [name for name in self.directions if name not in get_args(Direction)]:
            raise ValueError(f"directions: {wrong[0]!r} is none of {', '.join(get_args(Direction))}")
        if not (self.directions and self.depths and self.alphas):
            raise ValueError("directions, depths and alphas need at least one value each")
        if wrong := [depth for depth in self.depths if not 0 < depth <= 1]:
            raise ValueError(f"depths: {wrong[0]} is not a share of the blocks, in (0, 1]")
        if wrong := [alpha for alpha in self.alphas if not (math.isfinite(alpha) and alpha > 0)]:
            raise ValueError(f"alphas: {wrong[0]} is not a strength; give positive numbers")
        check_counts(self, "per_class", "controls", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the metrics of every direction, block and strength; alpha 0 is the model as it is."""
        start, model = time.perf_counter(), uncompiled(model)
        shown, hidden = split(data.data, generator, data.known)
        if not len(shown):
            raise ValueError("there is no noisy example to be shown; steering needs at least 1, and 1 to score")
        loaders = hidden_sets(data.data, hidden, self.examples)
        device = next(model.parameters()).device
        pooling = pooling_of(model, next(iter(loaders[TRAIN])).image[:4].to(device))
        targets = self.targets(loaders, data.data.data.num_classes, generator)
        clean = self.clean(data.data, generator)
        plain, rows = score(model, loaders, data.known), []
        for direction in self.directions:
            vectors = to_base(model, data, shown) if direction == "base" else to_labels(model, data.data, clean)
            for block in self.blocks(model):
                place = f"blocks.{block}"
                at = {"direction": direction, "place": place}
                rows.append({**at, "alpha": 0.0, **plain})
                for alpha in self.alphas:
                    hook = partial(steered, model, pooling, block)
                    found = steer(model, loaders, data.known, hook, alpha * vectors[place], targets)
                    rows.append({**at, "alpha": alpha, **found})
        report = {
            "seconds": round(time.perf_counter() - start, 3),
            "shown": shown.index.tolist(),
            "scored": loaders[TRAIN].examples.index.tolist(),
        }
        return AttackResult(rows, report)

    def blocks(self, model: nn.Module) -> list[int]:
        """Return the numbers of the blocks to be steered."""
        count = len(anatomy_of(model).blocks)
        return list(dict.fromkeys(math.ceil(depth * count) - 1 for depth in self.depths))

    def clean(self, data: MemorisationData, generator: torch.Generator) -> Examples:
        """Return a few examples of each class whose labels are right."""
        examples = data.train_examples
        position = examples.to_retain.nonzero()[:, 0]
        order = torch.randperm(len(position), generator=generator)
        return examples.subset(position[first_of_each(examples.given_label[position], order, self.per_class)])

    def targets(self, loaders: Mapping[int, InMemoryLoader], classes: int, generator: torch.Generator) -> "Targets":
        """Return the classes that images are steered to."""
        noisy, validation = loaders[TRAIN].examples, loaders[VALIDATION].examples
        away = torch.randint(1, classes, (len(validation),), generator=generator)
        own = torch.cat([noisy.given_label, (validation.true_label + away) % classes])
        steps = 1 + torch.randperm(classes - 1, generator=generator)[: self.controls]
        return Targets(own, (noisy.given_label + steps[:, None]) % classes)


class Targets(NamedTuple):
    """The classes that images are steered to.

    Attributes:
        own: N: of noisy examples their given label, of validation examples a wrong one.
        other: controls x noisy examples: labels other than the given one.
    """

    own: Tensor
    other: Tensor


def to_base(model: nn.Module, data: AttackData, shown: Examples) -> dict[str, Tensor]:
    """Return one vector 1 C for every block: base's mean features of wrong labels less the model's.

    Raises:
        ValueError: there is no unedited model.
    """
    if (base := data.reference("base")) is None:
        raise ValueError("the direction base needs the unedited model, which is not there; use directions: label")
    theirs, own = (features_of(m, data.data, shown) for m in (base, model))
    return {place: (theirs[place] - own[place]).mean(0, keepdim=True) for place in own}


def to_labels(model: nn.Module, data: MemorisationData, clean: Examples) -> dict[str, Tensor]:
    """Return a vector for each class, K C, for every block: its mean features less the mean of these means.

    The vector of a class without examples is 0.
    """
    found = {}
    for place, x_NC in features_of(model, data, clean).items():
        label_NK = F.one_hot(clean.given_label, data.data.num_classes).to(x_NC)
        count_K1 = label_NK.sum(0)[:, None]
        mean_KC = label_NK.T @ x_NC / count_K1.clamp(min=1)
        found[place] = (mean_KC - mean_KC[count_K1[:, 0] > 0].mean(0)) * (count_K1 > 0)
    return found


def steer(
    model: nn.Module,
    loaders: Mapping[int, InMemoryLoader],
    known: Tensor | None,
    hook: Callable[[Tensor], AbstractContextManager],
    by_PC: Tensor,
    targets: Targets,
) -> dict[str, float]:
    """Return the metrics of a steered model; with a vector for each class, those of the control too.

    Args:
        model: the classifier.
        loaders: noisy and validation examples.
        known: see ``AttackData``.
        hook: steers images by vectors N C.
        by_PC: one vector for all, or one for each class.
        targets: classes to steer to.
    """
    if len(by_PC) == 1:
        with hook(by_PC.expand(len(targets.own), -1)):
            return score(model, loaders, known)
    with hook(by_PC[targets.own]):
        row = score(model, loaders, known)
    said, meant, device = [], [], by_PC.device
    for to_N in targets.other:
        with hook(by_PC[to_N]):
            table = predict(model, {TRAIN: loaders[TRAIN]}, device)
        wrong = to_N.numpy() != table.true
        said.append(table.prediction[wrong])
        meant.append(to_N.numpy()[wrong])
    hit = np.concatenate(said) == np.concatenate(meant)
    return row | {"other_label": accuracy(hit).value, "other_label_n": len(hit)}
