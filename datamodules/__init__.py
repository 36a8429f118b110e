"""Data sets, label noise and loaders. Imports nothing from vitmem."""

from datamodules.digits import Digits
from datamodules.folder import ImageFolder
from datamodules.imagenet import ImageNet
from datamodules.npz import Npz
from datamodules.published import SVHN, Cifar10, Cifar100, FashionMNIST
from datamodules.registry import registered
from datamodules.sources import DataSet

_BUILTIN: dict[str, type[DataSet]] = {
    "digits": Digits,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "fashion_mnist": FashionMNIST,
    "svhn": SVHN,
    "imagefolder": ImageFolder,
    "imagenet": ImageNet,
    "npz": Npz,
}


def datasets() -> dict[str, type[DataSet]]:
    """Return the registered data sets by name: ours, and those of installed packages (group ``vitmem.datasets``)."""
    return registered("vitmem.datasets", _BUILTIN)
