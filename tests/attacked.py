"""A data set and a model that the tests of attacks share."""

from dataclasses import dataclass

import torch
from cases import TINY

from vitmem.datamodules.noise import Symmetric
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.editing.contract import EditResult
from vitmem.runs.config import RunConfig
from vitmem.training.config import TrainConfig, TrainerConfig

CONFIG = RunConfig(
    model=TINY,
    train=TrainConfig(epochs=1, batch_size=200, warmup_epochs=0),
    trainer=TrainerConfig(accelerator="cpu"),
    noise=Symmetric(seed=3),
)


@dataclass(frozen=True)
class Random(DataSet):
    """Random images."""

    def load(self):
        generator = torch.Generator().manual_seed(3)
        image = torch.randint(256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
        label = torch.randint(5, (60,), generator=generator)
        return ImageData(image[:40], label[:40], image[40:], label[40:], tuple("abcde"))


def halved(model, number=1):
    return EditResult({name: value / 2 for name, value in model.state_dict().items()}, {})


def generator():
    return torch.Generator().manual_seed(5)
