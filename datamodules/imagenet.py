"""ImageNet-1k (ILSVRC 2012; Russakovsky et al. 2015) from its folders or official archives."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from vitmem.datamodules.folder import ImageFolder, Split
from vitmem.datamodules.tree import Tree, flat_images

_ARCHIVES = "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org"


@dataclass(frozen=True)
class ImageNet(ImageFolder):
    """ImageNet-1k from ROOT/train/WNID and ROOT/val, or from the official archives in ROOT.

    Labels follow the sorted WNIDs, as everywhere in the field. A flat val/ needs the official development kit beside
    it, which says what its images show. Access terms: non-commercial research and education.

    Args:
        root: the ILSVRC folder.
        size: side in pixels, by resizing the short side and cutting the centre out.
        classes: WNIDs to use, or a text file of them, one a line; None: all.
        per_class: at most so many training images of each class, the first by file name; None: all.
        per_class_validation: likewise for validation.
        skip_per_class: leave out the first so many training images of each class, before per_class counts.
        grey: one channel instead of three.
        validation_share: share of the training images to hold out, where there is no validation folder.
        cache: folder for the decoded images; None: ROOT/.vitmem_cache.
        max_gb: sets that take more gigabytes than this when decoded are streamed; all of ImageNet takes 200.
        streaming: decode images whenever they are needed, instead of once; None: only above max_gb. The pixels are the
            same, except with augment.crop.
        workers: processes that decode streamed images ahead of training; None: one a core, at most 32.
        interpolation: of resizing.
        num_classes: the first so many classes; None: all.
    """

    size: int | None = 224
    num_classes: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.num_classes is not None and self.num_classes < 2:
            raise ValueError(f"data.num_classes is {self.num_classes}; it must be at least 2")
        if self.num_classes is not None and self.classes is not None:
            raise ValueError("data.num_classes and data.classes are both set; set one of them")

    def splits(self, root: Path) -> dict[str, Split]:
        """Unpack the official archives where the folders are missing, then go on as for any folder."""
        for split, archive in (("train", "ILSVRC2012_img_train.tar"), ("val", "ILSVRC2012_img_val.tar")):
            if not (root / split).is_dir() and (root / archive).is_file():
                _official(root, split)
        if not (root / "train").is_dir():
            raise ValueError(f"{root} has neither train/ nor the official archives; put {_ARCHIVES} there")
        return super().splits(root)

    def chosen(self, found: Sequence[str], folder: Path) -> Sequence[str]:
        """Return the first ``num_classes`` WNIDs, or those that ``classes`` lists."""
        if self.num_classes is not None and self.num_classes > len(found):
            raise ValueError(f"data.num_classes is {self.num_classes}, but {folder} has {len(found)} classes")
        return super().chosen(found[: self.num_classes], folder)

    def validation(self, folder: Path, names: Sequence[str], tree: Tree) -> Split:
        """Return the validation images by class; the development kit names the classes of a flat folder."""
        flat = flat_images(folder)
        if not flat:
            return super().validation(folder, names, tree)
        wnids = _development_kit(folder.parent)
        if len(wnids) != len(flat):
            raise ValueError(f"{folder} holds {len(flat)} images; the development kit describes {len(wnids)}")
        found: dict[str, list[str]] = {name: [] for name in names}
        for wnid, file in zip(wnids, flat, strict=True):
            if wnid in found:
                found[wnid].append(file)
        return found


def _official(root: Path, split: str) -> None:
    """Unpack one split's archive; torchvision checks its MD5."""
    from torchvision.datasets import ImageNet as Official

    try:
        _wnids(root)
        Official(root, split)
    except Exception as error:  # a damaged archive fails in many ways
        message = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the ImageNet archives in {root} cannot be unpacked: {message}") from error


def _wnids(root: Path) -> list[str]:
    """Return what torchvision's meta.bin says of the validation images; made from the kit if missing or damaged."""
    from torchvision.datasets import imagenet

    def read() -> list[str] | None:
        file = root / imagenet.META_FILE
        with suppress(Exception):  # whatever is wrong with it, it is made again
            _, wnids = torch.load(file, weights_only=True) if file.is_file() else (None, None)
            if isinstance(wnids, list) and all(isinstance(wnid, str) for wnid in wnids):
                return wnids
        return None

    if (found := read()) is None:
        imagenet.parse_devkit_archive(root)
        found = read()
    if found is None:
        raise ValueError(f"{root / imagenet.META_FILE} is damaged; remove it")
    return found


def _development_kit(root: Path) -> list[str]:
    """Return the WNIDs of the validation images in the order of their names."""
    try:
        return _wnids(root)
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(
            f"{root / 'val'} has no class folders, and the development kit that describes its images cannot be read "
            f"({' '.join(str(error).split())}); put ILSVRC2012_devkit_t12.tar.gz from image-net.org into {root}"
        ) from error
