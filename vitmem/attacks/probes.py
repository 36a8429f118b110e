"""Linear probes: do the features still carry the wrong labels that the classifier no longer says?

Wrong labels that were drawn at random cannot be guessed from an image, so a probe that finds them for images it was not
fitted to reads a trace of training. What a true label tells of a wrong one (that they differ) it also finds on retrain,
whose accuracy is therefore subtracted when results are read (``excess_over_retrain`` in ``attacks.csv``).

Legend: B images, S tokens, C channels, N noisy examples, D features, P label sets (the labels,
then permutations of them), K classes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.features import HEAD, features_of
from vitmem.attacks.finetune import fine_tune
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples, keyed_generator
from vitmem.datamodules.module import MemorisationData
from vitmem.evaluation.logistic import choose_l2, fit_logistic, log_probabilities, standardised
from vitmem.evaluation.metrics import accuracy
from vitmem.models.anatomy import anatomy_of
from vitmem.models.finite import answers
from vitmem.options import check_counts


@dataclass(frozen=True)
class Probes(Attack):
    """Linear probes of every block for the given label, and a new head fitted to right labels.

    Rows of ``probe: given``: a logistic regression on one half of the noisy examples is tested on the other, and the
    other way round; its l2 comes from cross-validation inside the fitted half. Beside it stands the same with permuted
    labels. Features are standardised, and pooled as the classifier reads them; ``head`` is what it reads. The row of
    ``probe: head`` has the accuracies of a head fitted to clean training examples.

    Args:
        permutations: permuted label sets, at least 1; the p-value cannot be below 1 / (permutations + 1).
        examples: examples of each kind (noisy, clean, validation), at most so many.
    """

    settings = ("probe", "place")

    permutations: int = 20
    examples: int = 5000

    def __post_init__(self):
        check_counts(self, "permutations", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return one row for each place of a probe."""
        start = time.perf_counter()
        rows, undefined = self.probe(model, data.data, generator)
        return AttackResult(rows, {"undefined": undefined, "seconds": time.perf_counter() - start})

    def probe(
        self, model: nn.Module, data: MemorisationData, generator: torch.Generator
    ) -> tuple[list[dict], dict[str, str]]:
        """Return the rows, and why what is undefined in them is so."""
        data.need_forget_set("probes look at the examples to be forgotten")
        train, classes = data.train_examples, data.data.num_classes
        parts = (train.subset(train.to_forget), train.subset(train.to_retain), data.validation_examples)
        noisy, clean, validation = (_some(part, self.examples, generator) for part in parts)
        features = {part: features_of(model, data, part) for part in (noisy, clean, validation)}
        rows, undefined = [], {}
        if len(noisy) < 4:
            undefined["given"] = f"needs at least 4 noisy examples; there are {len(noisy)}"
        else:
            label_PN = permuted(noisy.given_label, self.permutations, generator)
            order = torch.randperm(len(noisy), generator=generator)
            for place, x_ND in features[noisy].items():
                rows.append(
                    {"probe": "given", "place": place, **label_probe(x_ND, label_PN, order, classes, generator)}
                )
        if not len(clean):
            undefined[HEAD] = "there are no clean examples to fit a head to"
        else:
            none = features[clean][HEAD][:0]
            heads = [features[part].get(HEAD, none) for part in (clean, noisy, validation)]
            rows.append({"probe": HEAD, "place": HEAD, **new_head(heads, clean, noisy, validation, classes, generator)})
        return rows, undefined


@dataclass(frozen=True)
class Imprint(Probes):
    """Train all layers on another task, each time with more weight decay, then look for the old labels with the probes.

    The tasks use clean training images: ``rotation`` tells by how many quarter turns an image was rotated, ``labels``
    says the true class shifted by some classes. By default the training is so light that without decay the unedited
    model's labels stay readable; a trace is what stays so at a decay at which retrain shows none. Rows are those of
    ``Probes`` for each weight decay, and further ones: the accuracy in the task (``probe: task``), without which
    nothing was learnt, and the accuracies with the head from before (``probe: old_head``).

    Args:
        permutations: permuted label sets, at least 1; the p-value cannot be below 1 / (permutations + 1).
        examples: examples of each kind (noisy, clean, validation), at most so many.
        task: rotation or labels.
        steps: of AdamW on batches of 64.
        lr: learning rate, constant.
        weight_decays: decoupled l2 of matrices, each from the same weights and with the same batches; of weights that
            nothing else moves, training leaves (1 - lr * weight_decay)^steps.
    """

    settings = ("probe", "place", "weight_decay")

    task: Literal["rotation", "labels"] = "rotation"
    steps: int = 100
    lr: float = 3e-5
    weight_decays: tuple[float, ...] = (0.0, 10.0, 30.0, 100.0, 200.0, 300.0, 1000.0)

    def __post_init__(self):
        super().__post_init__()
        if self.task not in ("rotation", "labels"):
            raise ValueError(f"task is {self.task!r}; choose rotation or labels")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be positive and finite")
        if not self.weight_decays:
            raise ValueError("weight_decays needs at least one value")
        if wrong := [decay for decay in self.weight_decays if not 0 <= decay * self.lr < 1]:
            raise ValueError(f"weight_decays: {wrong[0]} is out of range; with lr {self.lr}, give 0 to below 1 / lr")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the rows of ``Probes`` on the models that learned the other task, by weight decay."""
        start = time.perf_counter()
        data.data.need_forget_set("probes look at the examples to be forgotten")
        train, classes = data.data.train_examples, data.data.data.num_classes
        clean = train.subset(train.to_retain)
        if not isinstance(clean.image, Tensor):  # no more than is used, since rotated images are held
            clean = _some(clean, self.steps * 64, generator)
        other = other_task(clean, self.task, classes, generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        loader = data.data.loader(other, 64, shuffle=True, seed=seed)
        drawn, rows = generator.get_state(), []
        for decay in self.weight_decays:
            generator.set_state(drawn)  # the same examples, halves and permutations
            tuned = fine_tune(model, loader, self.steps, lr=self.lr, weight_decay=decay)
            found, undefined = self.probe(tuned, data.data, generator)
            found += self.heads(model, tuned, data.data, other, generator)
            rows += [{"weight_decay": decay, **row} for row in found]
        return AttackResult(rows, {"undefined": undefined, "seconds": time.perf_counter() - start})

    def heads(
        self, model: nn.Module, tuned: nn.Module, data: MemorisationData, other: Examples, generator: torch.Generator
    ) -> list[dict]:
        """Return the rows of the task, and of the head from before, which is put onto the tuned model."""
        train = data.train_examples
        noisy, clean, validation = (
            _some(part, self.examples, generator)
            for part in (train.subset(train.to_forget), train.subset(train.to_retain), data.validation_examples)
        )
        said, right = predictions(tuned, data, _some(other, self.examples, generator))
        head = anatomy_of(tuned).head
        tuned.get_submodule(head).load_state_dict(uncompiled(model).get_submodule(head).state_dict())
        answers = [predictions(tuned, data, part)[0] for part in (clean, noisy, validation)]
        return [
            {"probe": "task", "place": HEAD, "accuracy": float((said == right).double().mean())},
            {"probe": "old_head", "place": HEAD, **_accuracies(answers, clean, noisy, validation)},
        ]


def label_probe(x_ND: Tensor, label_PN: Tensor, order_N: Tensor, classes: int, generator: torch.Generator) -> dict:
    """Return how well a linear probe finds labels in held-out halves, and how well permuted ones.

    Args:
        x_ND: features.
        label_PN: the labels, then permutations of them.
        order_N: a permutation of the examples; its first half is one half, the rest the other.
        classes: K.
        generator: draws the folds in which the strength of regularisation is chosen.
    """
    label_PN, order_N = label_PN.to(x_ND.device), order_N.to(x_ND.device)
    correct_PN = torch.zeros_like(label_PN, dtype=torch.bool)
    halves = order_N[: len(order_N) // 2], order_N[len(order_N) // 2 :]
    strengths = []
    for fitted, held in (halves, halves[::-1]):
        fitted_x, held_x = standardised(x_ND[fitted], x_ND[held])
        l2 = choose_l2(fitted_x, label_PN[0, fitted], classes, generator)
        weight = torch.ones_like(label_PN[:, fitted], dtype=fitted_x.dtype)
        coefficient = fit_logistic(fitted_x, label_PN[:, fitted], weight, l2, classes)
        correct_PN[:, held] = log_probabilities(held_x, coefficient).argmax(2) == label_PN[:, held]
        strengths.append(l2)
    found = accuracy(correct_PN[0].cpu().numpy())
    null = correct_PN[1:].double().mean(1).cpu().numpy()
    return {
        "accuracy": found.value,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "n": found.n,
        "permuted_mean": float(null.mean()),
        "permuted_sd": float(null.std(ddof=1)) if len(null) > 1 else math.nan,
        "excess_over_permuted": found.value - float(null.mean()),
        "p_value": float((1 + (null >= found.value).sum()) / (1 + len(null))),
        "l2": strengths[0],
        "l2_swapped": strengths[1],
    }


def permuted(label_N: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the labels, then ``count`` permutations of them."""
    return torch.stack([label_N, *(label_N[torch.randperm(len(label_N), generator=generator)] for _ in range(count))])


def new_head(
    head_features: Sequence[Tensor],
    clean: Examples,
    noisy: Examples,
    validation: Examples,
    classes: int,
    generator: torch.Generator,
) -> dict:
    """Return the accuracies of a logistic regression from features of clean examples to their true labels.

    Args:
        head_features: what the classifier reads, of the clean, the noisy and the validation examples.
        clean: fitted and measured.
        noisy: measured.
        validation: measured.
        classes: K.
        generator: draws the folds in which the strength of regularisation is chosen.
    """
    xs = standardised(*head_features)
    label = clean.given_label.to(xs[0].device)
    l2 = choose_l2(xs[0], label, classes, generator)
    coefficient = fit_logistic(xs[0], label[None], torch.ones_like(label[None], dtype=xs[0].dtype), l2, classes)
    answers = [log_probabilities(x_ND, coefficient)[0].argmax(1).cpu() for x_ND in xs]
    return {**_accuracies(answers, clean, noisy, validation), "l2": l2}


def _accuracies(answers: Sequence[Tensor], clean: Examples, noisy: Examples, validation: Examples) -> dict[str, float]:
    on_clean, on_noisy, on_validation = answers
    correct = {
        "memorized_accuracy": on_noisy == noisy.given_label,
        "ground_truth_accuracy": (on_noisy == noisy.true_label)[noisy.is_noisy],
        "clean_train_accuracy": on_clean == clean.given_label,
        "validation_accuracy": on_validation == validation.true_label,
    }
    return {name: accuracy(np.asarray(values)).value for name, values in correct.items()}


def other_task(clean: Examples, task: str, classes: int, generator: torch.Generator) -> Examples:
    """Return images with the labels of another task.

    Raises:
        ValueError: rotations need square images and at least 4 classes.
    """
    if task == "labels":
        shift = int(torch.randint(1, classes, (), generator=generator))
        label = (clean.given_label + shift) % classes
        return Examples(clean.image, label, label, clean.index)
    height, width = clean.image.shape[-2:]
    if height != width or classes < 4:
        raise ValueError(
            f"the task rotation needs square images and 4 outputs; there are {height} x {width} pixels and {classes} "
            "outputs: use task labels"
        )
    turns = torch.randint(4, (len(clean),), generator=generator)
    image = clean.image[:].clone()  # streamed ones are decoded
    for turn in (1, 2, 3):
        image[turns == turn] = torch.rot90(image[turns == turn], turn, (2, 3))
    return Examples(image, turns, turns, clean.index)


@torch.no_grad()
def predictions(model: nn.Module, data: MemorisationData, examples: Examples) -> tuple[Tensor, Tensor]:
    """Return what a model in eval mode says, and the given labels."""
    device = next(model.parameters()).device
    said = [torch.empty(0, dtype=torch.int64)]
    said += [answers(model(batch.image.to(device))).cpu() for batch in data.loader(examples)]
    return torch.cat(said), examples.given_label


def _some(examples: Examples, count: int, generator: torch.Generator) -> Examples:
    """Return at most so many examples, drawn at random, in their order."""
    drawn = torch.randperm(len(examples), generator=keyed_generator(int(torch.randint(2**62, (), generator=generator))))
    return examples.subset(drawn[:count].sort().values)
