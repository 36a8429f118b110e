"""A short fine-tuning of all weights, as a step of other attacks."""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Batch, InMemoryLoader
from vitmem.models.build import is_decayed
from vitmem.models.finite import broken
from vitmem.training.errors import TrainingDiverged


def fine_tune(
    model: nn.Module, loader: InMemoryLoader, steps: int, *, lr: float, weight_decay: float = 0.0
) -> nn.Module:
    """Return what ``fine_tuned`` yields after so many steps, without gradients."""
    ((_, tuned),) = fine_tuned(model, loader, [steps], lr=lr, weight_decay=weight_decay)
    return tuned.requires_grad_(False)


def fine_tuned(
    model: nn.Module,
    loader: InMemoryLoader,
    steps: Sequence[int],
    *,
    lr: float,
    weight_decay: float = 0.0,
    keep: Callable[[str, Tensor], Tensor] | None = None,
) -> Iterator[tuple[int, nn.Module]]:
    """Yield a copy of a model at each of the given steps of fine-tuning; afterwards it goes on changing.

    It is in eval mode throughout (no dropout) and learns the given labels by AdamW.

    Args:
        model: the classifier, which is not changed.
        loader: batches to learn; its order is drawn anew in every pass.
        steps: numbers of optimiser steps, ascending.
        lr: constant learning rate.
        weight_decay: decoupled, of the parameters that training decays.
        keep: which part of its step a parameter takes, given its name; all of it by default. Steps are projected, not
            gradients: an optimiser that rescales those entry by entry leaves any subspace.

    Raises:
        TrainingDiverged: the loss or a weight is not finite.
        ValueError: there is no example to learn.
    """
    tuned = copy.deepcopy(uncompiled(model)).eval().requires_grad_(True)
    parameters = list(tuned.named_parameters())
    groups = [
        {"params": [p for n, p in parameters if is_decayed(n, p) is decay], "weight_decay": weight_decay * decay}
        for decay in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr)
    device = parameters[0][1].device
    batches, done = _passes(loader), 0
    for mark in steps:
        for batch in itertools.islice(batches, mark - done):
            with torch.enable_grad():
                loss = F.cross_entropy(tuned(batch.image.to(device)), batch.given_label.to(device))
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss of the attack's fine-tuning is not finite at step {done}; lower its lr"
                )
            optimiser.zero_grad()
            loss.backward()
            before = {name: p.detach().clone() for name, p in parameters} if keep else {}
            optimiser.step()
            with torch.no_grad():
                for name, p in parameters if keep else ():
                    p.copy_(before[name] + keep(name, p - before[name]))
            done += 1
        if name := broken(tuned.state_dict()):
            raise TrainingDiverged(f"{name} is not finite after step {done} of the attack's fine-tuning; lower its lr")
        yield mark, tuned


def _passes(loader: InMemoryLoader) -> Iterator[Batch]:
    if len(loader) == 0:
        raise ValueError("the attack has no example to train on")
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader
