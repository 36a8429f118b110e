"""The training loop that unlearning methods share: a method adds its loss and says what takes part.

Models are trained in eval mode, that is without dropout and stochastic depth, so that a loss is a function of weights
and batch alone. Legend: B examples of a batch, K classes.
"""

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Batch, InMemoryLoader, keyed_generator
from vitmem.editing.contract import Edit, EditDiverged, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.kfac import relative_change
from vitmem.models.build import is_decayed
from vitmem.models.layers import select_layers


class Step(NamedTuple):
    """What one step sees: examples known to be wrong, known to be right, or both."""

    forget: Batch | None = None
    retain: Batch | None = None
    done: float = 0.0  # share of the steps taken so far, in [0, 1)
    epoch: int = 0  # of edits that see the two sets in turn


@dataclass(frozen=True, eq=False)
class Objective:
    """What a method minimises.

    Args:
        loss: of a step, a scalar.
        held: how many numbers it holds beside the model's own, a teacher's weights for example.
        after_step: done after every step of the optimiser.
    """

    loss: Callable[[Step], Tensor]
    held: int = 0
    after_step: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Training(Edit):
    """Base of the edits that train.

    Args:
        lr: learning rate.
        epochs: passes over the data; where both sets are seen at once, over the one with more batches.
        steps: number of steps; replaces epochs.
        batch_size: examples per step.
        optimiser: sgd, adam (weight decay is added to the gradient) or adamw (it is decoupled).
        momentum: of sgd, in [0, 1).
        weight_decay: of matrices; biases, norms, positions and tokens are not decayed.
        clip: largest gradient norm; 0 switches clipping off.
    """

    main_option = "lr"

    lr: float = 1e-2
    epochs: int = 10
    steps: int | None = None
    batch_size: int = 256
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 0.0

    def __post_init__(self):
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be positive and finite")
        for option in ("epochs", "steps", "batch_size", "forget_batch_size"):
            if getattr(self, option, None) is not None and getattr(self, option) < 1:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be at least 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be in [0, 1)")
        self.not_negative("weight_decay", "clip")

    @property
    def idle(self) -> frozenset[str]:
        """Epochs, where steps replace them."""
        return frozenset({"epochs"} if self.steps else ())

    def not_negative(self, *options: str) -> None:
        """Refuse options that are negative or not finite."""
        for option in options:
            value = getattr(self, option)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{option} is {value}; it must be finite and not negative")

    def student(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the copy of the model that is trained; parameters that stay as they are need no gradient."""
        return thawed_copy(model)

    def objective(self, student: nn.Module, model: nn.Module, data: EditData, generator: torch.Generator) -> Objective:
        """Return what is minimised.

        Args:
            student: the copy that is trained.
            model: the model that was given.
            data: what the edit may see.
            generator: source of the loss's own randomness.
        """
        raise NotImplementedError("abstract")

    def rate(self, step: Step) -> float:
        """Return the factor of the learning rate in a step."""
        return 1.0

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Tell whether weight decay applies to a parameter."""
        return is_decayed(name, parameter)

    def loaders(self, data: EditData, seed: int) -> dict[str, InMemoryLoader]:
        """Return shuffled loaders of what the edit sees, by field of ``Step``.

        A ragged last batch is left out until the next order: a few known wrong examples would be a step of their own.

        Raises:
            ValueError: there are no such examples.
        """
        found = {}
        if "forget" in self.sees:
            size = getattr(self, "forget_batch_size", self.batch_size)
            found["forget"] = data.forget(size, shuffle=True, seed=seed)
        if "retain" in self.sees:
            found["retain"] = data.retain(self.batch_size, shuffle=True, seed=seed + 1)
        for kind, loader in found.items():
            loader.drop_last = len(loader.examples) > loader.batch_size
            if len(loader) == 0:
                known = {"forget": "wrong", "retain": "right"}[kind]
                raise ValueError(f"no example is known to be {known}, and this edit needs some")
        return found

    def number(self, loaders: Mapping[str, InMemoryLoader]) -> int:
        """Return how many steps are taken."""
        return self.steps or self.epochs * max(len(loader) for loader in loaders.values())

    def stream(self, loaders: Mapping[str, InMemoryLoader]) -> Iterator[Step]:
        """Yield steps without end: a batch of every loader at once, each loader in a new order after each pass."""
        for batches in zip(*map(forever, loaders.values()), strict=True):
            yield Step(**dict(zip(loaders, batches, strict=True)))

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the trained weights."""
        model = uncompiled(model)
        self.check(model)
        start = time.perf_counter()
        seed = int(torch.randint(2**62, (), generator=generator))
        student = self.student(model, keyed_generator(seed, 0))
        objective = self.objective(student, model, data, keyed_generator(seed, 1))
        trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
        report = self.fit(trained, objective, self.loaders(data, seed))
        before, state = model.state_dict(), {key: value.detach() for key, value in student.state_dict().items()}
        rows = [
            {"layer": name, "relative_change": relative_change(before[key], state[key])}
            for name in select_layers(student, "*")
            if (key := f"{name}.weight") in trained
        ]
        return EditResult(state, {"layers": rows, "seconds": {"train": time.perf_counter() - start}, **report})

    def fit(
        self, parameters: Mapping[str, nn.Parameter], objective: Objective, loaders: Mapping[str, InMemoryLoader]
    ) -> dict:
        """Train parameters in place and return the report's entries about it.

        Raises:
            EditDiverged: a loss or a parameter is not finite.
        """
        optimiser = self.make_optimiser(parameters)
        some, steps = next(iter(parameters.values())), self.number(loaders)
        for number, step in enumerate(itertools.islice(self.stream(loaders), steps)):
            step = Step(*(_moved(batch, some) for batch in step[:2]), number / steps, step.epoch)
            for group in optimiser.param_groups:
                group["lr"] = self.lr * self.rate(step)
            optimiser.zero_grad()
            loss = objective.loss(step)
            if not torch.isfinite(loss):
                raise EditDiverged(f"loss is not finite at step {number}; lower lr")
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(parameters.values(), self.clip)
            optimiser.step()
            objective.after_step()
        if not all(torch.isfinite(p).all() for p in parameters.values()):
            raise EditDiverged(f"weights are not finite after step {steps - 1}; lower lr")
        return {
            "steps": steps,
            "final_loss": loss.item(),
            "extra_parameters": objective.held,
            "options": dataclasses.asdict(self),
        }

    def make_optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser, with two groups: decayed and not."""
        decayed = {name: self.decays(name, p) for name, p in parameters.items()}
        groups = [
            {"params": [p for name, p in parameters.items() if decayed[name] is decay], "weight_decay": amount}
            for decay, amount in ((True, self.weight_decay), (False, 0.0))
        ]
        if self.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimiser](groups, lr=self.lr)


@dataclass(frozen=True)
class TrainingOnBoth(Training):
    """Base of the edits that train on examples known to be wrong and on examples known to be right, at once.

    Args:
        batch_size: examples known to be right per step.
        forget_batch_size: examples known to be wrong per step.
    """

    sees: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})

    forget_batch_size: int = 64


@dataclass(frozen=True)
class TrainingInTurn(TrainingOnBoth):
    """Base of the edits that see the two sets in turn: an epoch passes over the one, then over the other."""

    def passes(self, epoch: int) -> Sequence[str]:
        """Return over what an epoch passes."""
        return ("forget", "retain")

    def number(self, loaders: Mapping[str, InMemoryLoader]) -> int:
        """Return how many steps are taken."""
        return self.steps or sum(len(loaders[kind]) for e in range(self.epochs) for kind in self.passes(e))

    def stream(self, loaders: Mapping[str, InMemoryLoader]) -> Iterator[Step]:
        """Yield steps without end: pass by pass, epoch by epoch."""
        for epoch in itertools.count():
            for kind in self.passes(epoch):
                loaders[kind].set_epoch(epoch)
                yield from (Step(**{kind: batch}, epoch=epoch) for batch in loaders[kind])


def forever(loader: InMemoryLoader) -> Iterator[Batch]:
    """Yield the batches of a loader without end, in a new order after each pass."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def _moved(batch: Batch | None, where: Tensor) -> Batch | None:
    """Return a batch on the device of a tensor, its images also in the tensor's type."""
    return batch and batch.map(lambda field: field.to(where.device))._replace(image=batch.image.to(where))


def thawed_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode without gradients, all of whose parameters can be trained."""
    copied = copy.deepcopy(model).eval().requires_grad_(True)
    copied.zero_grad(set_to_none=True)
    return copied


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode that cannot be trained: a teacher."""
    return thawed_copy(model).requires_grad_(False)


def fresh_copy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return an untrained copy: its modules and its own ``init_weights`` draw anew, normals of deviation 0.02 the rest.

    Vectors that nothing draws are what they are in a new norm: 0 if named bias, else 1.
    """
    copied = thawed_copy(model).cpu()  # so that the draws are the same wherever the model is
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for module in copied.modules():
            if hasattr(module, "reset_parameters"):  # norms: not every version of timm resets them below
                module.reset_parameters()
        if hasattr(copied, "init_weights"):  # timm's, which also draws positions and tokens
            copied.init_weights()
        trained = dict(model.named_parameters())
        for name, parameter in copied.named_parameters():
            if torch.equal(parameter, trained[name].to(parameter)):  # a bare one, or a constant
                _draw(name, parameter)
    return copied.to(next(model.parameters()).device)


@torch.no_grad()
def _draw(name: str, parameter: Tensor) -> None:
    if parameter.numel() == max(parameter.shape, default=1):
        parameter.fill_(float(not name.endswith("bias")))
    else:
        parameter.normal_(std=0.02)


def parameter_count(model: nn.Module) -> int:
    """Return how many numbers the parameters of a model hold."""
    return sum(p.numel() for p in model.parameters())


def on_both(forward: Callable[[Tensor], Tensor], step: Step) -> tuple[Tensor, Tensor]:
    """Return the logits of a step's two batches, B K each, from one forward pass."""
    logits = forward(torch.cat([step.forget.image, step.retain.image]))
    return logits[: len(step.forget.image)], logits[len(step.forget.image) :]


def distillation(student_BK: Tensor, teacher_BK: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 times the mean over examples of KL(teacher || student) at temperature T.

    Args:
        student_BK: logits.
        teacher_BK: logits, constants.
        temperature: T.

    Source: Hinton et al. 2015, section 2.
    """
    student, teacher = (F.log_softmax(logits / temperature, 1) for logits in (student_BK, teacher_BK.detach()))
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")
