"""Labels that the tests of noise share."""

import numpy as np
import torch

from vitmem.datamodules.class_names import CIFAR10
from vitmem.datamodules.sources import ImageData

LABELS = np.random.RandomState(0).randint(0, 7, size=4000)


def labelled(label=LABELS, names=tuple("abcdefg"), train_name=(), side=1):
    """Return random images with the given labels."""
    image = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (len(label), 1, side, side), np.uint8))
    return ImageData(image, torch.from_numpy(label), image[:1], torch.tensor([0]), names, tuple(train_name))


def cifar(label=LABELS, names=CIFAR10, **options):
    return labelled(label, names, **options)
