"""Tiny models and data that the tests share."""

import torch
from torch import nn

from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.models.build import create
from vitmem.models.config import ModelConfig

TINY = ModelConfig(width=16, depth=2, heads=2, patch=4)
VITS = {
    "token": TINY,
    "avg": ModelConfig(width=16, depth=2, heads=2, patch=4, pool="avg"),
    "one_block": ModelConfig(width=12, depth=1, heads=3, patch=8),
}


def vit(name: str = "token", classes: int = 5, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a tiny vision transformer on 8 x 8 grey images, with weights that are not near zero."""
    model = create(VITS[name].timm_arguments((1, 8, 8), classes), seed=0).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype))
    return model


class DoubleLoader(InMemoryLoader):
    """Serves float64 images."""

    def batch(self, position, number=0):
        """Return a batch in float64."""
        batch = super().batch(position, number)
        return batch._replace(image=batch.image.double())


def loader(n: int = 11, batch_size: int = 4, classes: int = 5) -> InMemoryLoader:
    """Return random examples, a third of them with wrong labels."""
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(n, 1, 8, 8, generator=generator)
    true = torch.randint(classes, (n,), generator=generator)
    given = torch.where(torch.arange(n) % 3 == 0, (true + 1) % classes, true)
    return DoubleLoader(Examples(image, given, true, torch.arange(n)), batch_size)


# How a run of a few seconds is asked for on the command line.
QUICK = [
    "--model.width=16", "--model.depth=2", "--model.heads=2", "--model.patch=4",
    "--train.epochs=2", "--train.batch_size=200", "--train.warmup_epochs=1",
]  # fmt: skip

# An experiment file of a few seconds.
SMALL = """references: [retrain]
figures: false
report: false
model: {width: 16, depth: 2, heads: 2, patch: 4}
train: {epochs: 2, batch_size: 400, warmup_epochs: 1}
edits: [{name: kfac, rho: [0.9, 0.8]}, {name: svd}]
"""
