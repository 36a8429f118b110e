"""Relearning: does fine-tuning bring back wrong labels that it was not shown?"""

import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.finetune import fine_tuned
from vitmem.attacks.scoring import hidden_sets, score
from vitmem.attacks.subspace import Within, changed_subspace, projection, random_subspace
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.auto import predictions
from vitmem.editing.contract import added
from vitmem.evaluation.predict import TRAIN
from vitmem.options import check_counts
from vitmem.training.errors import TrainingDiverged

_ARM = re.compile(r"retain(?:\+(\d+|all))?|noisy|unrelated|drift")


@dataclass(frozen=True)
class Relearn(Attack):
    """Fine-tune, and watch wrong labels that are not shown come back.

    Half of the noisy examples that edits with a forget set knew may be shown, all others are scored. AdamW without
    weight decay at a constant rate, in eval mode (no dropout), without augmentation. Source: protocol after Siddiqui et
    al. 2025 (arXiv 2505.22310) and Deeb & Roger 2024 (arXiv 2410.08827).

    ``within`` asks whether the edit hides or removes: in few directions, those that the edit took most from, memory
    that was hidden should come back faster than in as many random ones; memory that was removed should not.

    Args:
        arms: what to train on: retain (examples whose labels are right), retain+K or retain+all (K or all of the noisy
            examples that may be shown added), noisy (these alone), unrelated (training images whose pixels are shuffled
            by one permutation, random labels), drift (the retained images with the attacked model's own answers).
        lrs: learning rates.
        steps: of the optimiser; scored at 0, 1, 2, 5, 10, 20, ... and at the end.
        batch_size: images in a step.
        examples: most scored of each kind, noisy and validation.
        within: where weights may go: all; removed (the subspace of each matrix that the leading singular vectors of
            base's weights less the edited ones span; all else is frozen); complement (all else); random (a subspace of
            the same rank: the control of removed). Steps are projected.
        rank: of the subspace, as a share of the smaller side of each matrix, in (0, 1].
    """

    settings = ("arm", "lr", "step")

    arms: tuple[str, ...] = ("retain", "retain+10", "retain+all", "noisy", "unrelated", "drift")
    lrs: tuple[float, ...] = (1e-4,)
    steps: int = 200
    batch_size: int = 64
    examples: int = 2000
    within: Within = added("all")
    rank: float = added(0.1)

    def __post_init__(self):
        if self.within not in get_args(Within):
            raise ValueError(f"within is {self.within!r}; choose from {', '.join(get_args(Within))}")
        if not 0 < self.rank <= 1:
            raise ValueError(f"rank is {self.rank}; it is a share of a matrix's smaller side, in (0, 1]")
        if wrong := [arm for arm in self.arms if not _ARM.fullmatch(arm)]:
            raise ValueError(f"arms: {wrong[0]!r} is none of retain, retain+K, retain+all, noisy, unrelated, drift")
        if not self.arms or not self.lrs:
            raise ValueError("arms and lrs need at least one value each")
        if wrong := [lr for lr in self.lrs if not (math.isfinite(lr) and lr > 0)]:
            raise ValueError(f"lrs: {wrong[0]} is not a learning rate; give positive numbers")
        check_counts(self, "steps", "batch_size", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the curve of every arm and learning rate."""
        start = time.perf_counter()
        shown, hidden = split(data.data, generator, data.known)
        seed = int(torch.randint(2**31, (), generator=generator))
        loaders = hidden_sets(data.data, hidden, self.examples)
        rows, skipped, diverged = [], [], []
        keep, ranks = self.kept(model, data, seed)
        for arm in self.arms:
            if _count(arm, len(shown)) > len(shown):
                skipped.append(f"{arm}: only {len(shown)} noisy examples may be shown")
                continue
            examples = self.training(arm, model, data.data, shown, seed)
            if not len(examples):
                skipped.append(f"{arm}: there is no example to train on")
                continue
            training = data.data.loader(examples, self.batch_size, shuffle=True, seed=seed)
            for lr in self.lrs:
                try:
                    for step, student in fine_tuned(model, training, marks(self.steps), lr=lr, keep=keep):
                        found = score(student, loaders, data.known)
                        if not math.isfinite(found.get("given_cross_entropy", 0.0)):
                            raise TrainingDiverged(f"the scored loss is not finite at step {step}")
                        rows.append({"arm": arm, "lr": lr, "step": step, **found})
                except TrainingDiverged as error:
                    diverged.append(f"{arm}, lr {lr:g}: {error}")
        report = {
            "seconds": round(time.perf_counter() - start, 3),
            "shown": shown.index.tolist(),
            "scored": loaders[TRAIN].examples.index.tolist(),
            "skipped": skipped,
            "diverged": diverged,
            **ranks,
        }
        return AttackResult(rows, report)

    def kept(self, model: nn.Module, data: AttackData, seed: int) -> tuple[Callable | None, dict]:
        """Return which part of its step a parameter takes, and the ranks of the subspaces for the report.

        Raises:
            ValueError: there is no unedited model to compare with.
        """
        if self.within == "all":
            return None, {}
        if (base := data.reference("base")) is None:
            raise ValueError(f"within: {self.within} needs the unedited model, which is not there; use within: all")
        subspace = changed_subspace(model, base, self.rank)
        if self.within == "random":
            subspace = random_subspace(subspace, torch.Generator().manual_seed(seed))
        ranks = {name.removesuffix(".weight"): sides.left.shape[1] for name, sides in subspace.items()}
        return projection(subspace, self.within), {"ranks": ranks}

    def training(self, arm: str, model: nn.Module, data: MemorisationData, shown: Examples, seed: int) -> Examples:
        """Return what an arm trains on: no more than its steps can use."""
        if arm == "noisy":
            return shown
        generator = torch.Generator().manual_seed(seed)
        examples = data.train_examples
        position = torch.arange(len(examples)) if arm == "unrelated" else examples.to_retain.nonzero()[:, 0]
        most = self.steps * self.batch_size
        retain = examples.subset(position[torch.randperm(len(position), generator=generator)[:most]])
        if arm == "unrelated":
            label = torch.randint(data.data.num_classes, (len(retain),), generator=generator)
            image = retain.image[:]  # streamed ones are decoded
            order = torch.randperm(math.prod(image.shape[1:]), generator=generator)
            return Examples(image.flatten(1)[:, order].view_as(image), label, label, retain.index)
        if arm == "drift" and len(retain):
            label = predictions(model, dict(model.state_dict()), data.loader(retain))
            return Examples(retain.image, label, label, retain.index)
        added = shown.subset(torch.arange(_count(arm, len(shown))))
        return Examples.concatenate([retain, added])


def _count(arm: str, shown: int) -> int:
    """Return how many noisy examples an arm adds to the retained ones."""
    number = _ARM.fullmatch(arm)[1]
    return shown if number == "all" else int(number or 0)


def split(data: MemorisationData, generator: torch.Generator, known: Tensor | None = None) -> tuple[Examples, Examples]:
    """Return the noisy examples that may be shown, in random order, and those that are scored.

    Shown are labels that every edit was to remove, else an attack would show what is still memorised.

    Args:
        data: the data module of the run.
        generator: of the draw.
        known: N, bool, the wrong labels of which half are shown; None: of all.
    """
    data.need_forget_set("relearning shows examples to be forgotten")
    examples = data.train_examples
    pool = (examples.to_forget if known is None else known).nonzero()[:, 0]
    shown = pool[torch.randperm(len(pool), generator=generator)][: len(pool) // 2]
    hidden = examples.to_forget.clone()
    hidden[shown] = False
    return examples.subset(shown), examples.subset(hidden)


def marks(steps: int) -> list[int]:
    """Return the steps at which to score: 0, 1, 2, 5, 10, 20, 50, ... and the last."""
    series = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return [0, *itertools.takewhile(lambda step: step < steps, series), steps]
