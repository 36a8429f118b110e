"""Data sets, label noise and loaders. Imports nothing from vitmem."""

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.folder import ImageFolder
from vitmem.datamodules.imagenet import ImageNet
from vitmem.datamodules.npz import Npz
from vitmem.datamodules.published import SVHN, Cifar10, Cifar100, FashionMNIST
from vitmem.datamodules.sources import DataSet
from vitmem.registry import registered

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
