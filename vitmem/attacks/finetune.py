"""A short fine-tuning of all weights, as a step of other attacks."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional as F

from datamodules.batch import InMemoryLoader
from vitmem.curvature.collect import uncompiled
from vitmem.models import is_decayed
from vitmem.training import TrainingDiverged


def fine_tune(
    model: nn.Module, loader: InMemoryLoader, steps: int, *, lr: float, weight_decay: float = 0.0
) -> nn.Module:
    """Return a tuned copy of a model, in eval mode throughout (no dropout), by AdamW on the given labels.

    Args:
        model: the classifier, which is not changed.
        loader: batches to learn; its order is drawn anew in every pass.
        steps: optimiser steps.
        lr: constant learning rate.
        weight_decay: decoupled, of the parameters that training decays.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    tuned = copy.deepcopy(uncompiled(model)).eval().requires_grad_(True)
    parameters = list(tuned.named_parameters())
    groups = [
        {"params": [p for n, p in parameters if is_decayed(n, p) is decay], "weight_decay": weight_decay * decay}
        for decay in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr)
    device = parameters[0][1].device
    with torch.enable_grad():
        for step, batch in enumerate(itertools.islice(_passes(loader), steps)):
            loss = F.cross_entropy(tuned(batch.image.to(device)), batch.given_label.to(device))
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss of the attack's fine-tuning is not finite at step {step}; lower its lr"
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return tuned.requires_grad_(False)


def _passes(loader: InMemoryLoader):
    if len(loader) == 0:
        raise ValueError("the attack has no example to train on")
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader
