"""Published benchmarks through torchvision's own classes: files, checksums and download."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from vitmem.datamodules import class_names, parquet
from vitmem.datamodules.sources import DataSet, ImageData


class File(NamedTuple):
    """A file that torchvision reads or downloads; ``path`` is relative to the root."""

    path: str
    md5: str | None
    url: str | None = None


@dataclass(frozen=True)
class Published(DataSet):
    """Options of the benchmarks that torchvision downloads.

    Args:
        root: folder of the files, or of the archives they come in.
        offline: never download; say what is missing and where it is to be had.
    """

    root: str = "data"
    offline: bool = False

    title: ClassVar[str]
    mirror: ClassVar[str] = ""

    def load(self) -> ImageData:
        """Return the training set, and the test set for validation.

        Raises:
            ValueError: files are missing, differ from the published ones, or cannot be downloaded.
        """
        root = Path(self.root).expanduser()
        self.check_files(root)
        try:
            splits = [self.read(root, train=train) for train in (True, False)]
        except (
            RuntimeError,
            OSError,
            AssertionError,
            EOFError,
            LookupError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            message = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(
                f"{self.title} cannot be read from {root} or downloaded: {message}{self.mirror}"
            ) from error
        return ImageData(*splits[0][:2], *splits[1][:2], tuple(splits[0][2]))

    def check_files(self, root: Path) -> None:
        """Refuse files of another content, and what an offline machine lacks."""
        from torchvision.datasets.utils import check_integrity

        unpacked, archives = self.files()
        for path, md5, _ in (*unpacked, *archives):
            if md5 and (root / path).is_file() and not check_integrity(root / path, md5):
                raise ValueError(
                    f"checksum mismatch: {root / path} is not the published file of {self.title} (MD5 {md5}); "
                    f"remove it, and download it again, from {archives[0].url}{self.mirror}"
                )
        if not self.offline or all((root / file.path).is_file() for file in archives):
            return
        if missing := [file.path for file in unpacked if not (root / file.path).is_file()]:
            sources = ", ".join(f"{file.url} as {file.path}" for file in archives)
            raise ValueError(
                f"{self.title} is not in {root} and data.offline is true: there is no {', '.join(missing)}; put there "
                f"{sources}{self.mirror}"
            )

    def files(self) -> tuple[list[File], list[File]]:
        """Return the files that are read, and the archives they come in."""
        raise NotImplementedError("abstract")

    def read(self, root: Path, train: bool) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
        """Return images N C H W, labels N and class names of one split, after a download where files are missing."""
        raise NotImplementedError("abstract")


class _Cifar(Published):
    torchvision: ClassVar[str]
    layout: ClassVar[parquet.Layout]

    @property
    def source(self):
        """Torchvision's class."""
        from torchvision import datasets as tv

        return getattr(tv, self.torchvision)

    def load(self) -> ImageData:
        """Read torchvision's files or archive if they are there; else the parquet copy; else download."""
        root, source = Path(self.root).expanduser(), self.source
        folder = parquet.folder_of(root, self.layout)
        if folder is None or (root / source.base_folder).is_dir() or (root / source.filename).is_file():
            return super().load()
        train, test = (parquet.read(folder, split, self.layout) for split in ("train", "test"))
        return ImageData(*train, *test, self.layout.class_names)

    def files(self):
        """Return the Python batches, and the archive they come in."""
        source = self.source
        unpacked = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        archive = File(source.filename, source.tgz_md5, source.url)
        return [File(f"{source.base_folder}/{name}", md5) for name, md5 in unpacked], [archive]

    def read(self, root, train):
        """Return one split."""
        split = self.source(root, train=train, download=True)  # goes online only for what is missing
        image = torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)))
        return image, torch.tensor(split.targets, dtype=torch.int64), split.classes


@dataclass(frozen=True)
class Cifar10(_Cifar):
    """CIFAR-10 (Krizhevsky 2009), 32 px colour: torchvision's files, or the Hugging Face parquet copy in ROOT.

    Args:
        root: folder of torchvision's files or archive, or of the parquet copy (train*.parquet, test*.parquet).
        offline: never download; say what is missing and where it is to be had.
    """

    title = "CIFAR-10"
    mirror = "; the parquet copy at huggingface.co/datasets/uoft-cs/cifar10 is the faster host"
    torchvision = "CIFAR10"
    layout = parquet.Layout(("", "plain_text", "cifar10"), "label", class_names.CIFAR10)


@dataclass(frozen=True)
class Cifar100(_Cifar):
    """CIFAR-100 (Krizhevsky 2009), 32 px colour, 100 fine labels: the same two forms.

    Args:
        root: folder of torchvision's files or archive, or of the parquet copy (train*.parquet, test*.parquet).
        offline: never download; say what is missing and where it is to be had.
    """

    title = "CIFAR-100"
    mirror = "; the parquet copy at huggingface.co/datasets/uoft-cs/cifar100 is the faster host"
    torchvision = "CIFAR100"
    layout = parquet.Layout(("", "cifar100"), "fine_label", class_names.CIFAR100)


FASHION_MNIST_MD5 = {  # of the unpacked files; torchvision knows the archives alone
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


@dataclass(frozen=True)
class FashionMNIST(Published):
    """Fashion-MNIST (Xiao et al. 2017), 28 px grey, 10 kinds of clothing, through torchvision.

    Args:
        root: folder that holds FashionMNIST/raw/.
        offline: never download; say what is missing and where it is to be had.
    """

    title = "Fashion-MNIST"

    def files(self):
        """Return the idx files and their compressed forms."""
        from torchvision import datasets as tv

        names = [(f"FashionMNIST/raw/{name}", md5) for name, md5 in tv.FashionMNIST.resources]
        archives = [File(path, md5, tv.FashionMNIST.mirrors[0] + Path(path).name) for path, md5 in names]
        unpacked = [path.removesuffix(".gz") for path, _ in names]
        return [File(path, FASHION_MNIST_MD5[Path(path).name]) for path in unpacked], archives

    def check_files(self, root):
        """Refuse, too, what torchvision up to 0.5 made of the files: it is read in their stead, and has no checksum."""
        if (processed := root / "FashionMNIST/processed").exists():
            raise ValueError(f"{processed} holds copies by an older torchvision, which cannot be checked; remove it")
        super().check_files(root)

    def read(self, root, train):
        """Return one split."""
        from torchvision import datasets as tv

        split = tv.FashionMNIST(root, train=train, download=True)
        return split.data[:, None], split.targets.long(), split.classes


@dataclass(frozen=True)
class SVHN(Published):
    """Street View House Numbers (Netzer et al. 2011), 32 px colour digits, through torchvision.

    Args:
        root: folder of train_32x32.mat and test_32x32.mat.
        offline: never download; say what is missing and where it is to be had.
    """

    title = "SVHN"

    def files(self):
        """Return the two .mat files, which are their own archives."""
        from torchvision import datasets as tv

        files = [File(name, md5, url) for url, name, md5 in (tv.SVHN.split_list[s] for s in ("train", "test"))]
        return files, files

    def read(self, root, train):
        """Return one split."""
        from torchvision import datasets as tv

        split = tv.SVHN(root, split="train" if train else "test", download=True)
        image = torch.from_numpy(np.ascontiguousarray(split.data))
        return image, torch.from_numpy(split.labels.astype(np.int64)), tuple(str(digit) for digit in range(10))
