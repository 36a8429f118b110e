"""Augmentation of training batches, on the device that the batch is on.

Legend: B images, C channels, H x W pixels, K classes.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

_GROUP = 8  # images that share one draw of RandAugment


@dataclass(frozen=True)
class Augment:
    """Augmentation of the training images; all of it is off by default, since it suppresses memorisation.

    Args:
        flip: mirror each image left to right with probability 1/2.
        pad: shift each image by up to so many pixels in both directions: padding, then a random crop.
        fill: what a shift brings in: the image reflected, or zeros.
        crop: smallest share of the area that a random resized crop keeps, in (0, 1]; 1 is off. Streamed images only.
        randaugment: number of RandAugment operations (Cubuk et al. 2019); every 8 images of a batch share a draw.
        magnitude: strength of RandAugment, 0 to 30.
        erase: share of the images in which a rectangle is replaced by noise (Zhong et al. 2017).
        mixup: alpha of mixup (Zhang et al. 2017); 0 is off. With cutmix too, each batch gets one of the two.
        cutmix: alpha of CutMix (Yun et al. 2019); 0 is off.
    """

    flip: bool = False
    pad: int = 0
    fill: Literal["reflect", "zero"] = "reflect"
    crop: float = 1.0
    randaugment: int = 0
    magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self):
        for option, most in (("pad", 2**16), ("randaugment", 100), ("mixup", 1e6), ("cutmix", 1e6)):
            if not 0 <= getattr(self, option) <= most:
                raise ValueError(
                    f"augment.{option} is {getattr(self, option)}; it must not be negative, and at most {most:g}"
                )
        if not 0 < self.crop <= 1:
            raise ValueError(f"augment.crop is {self.crop}; it is a share of the area in (0, 1], and 1 is off")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"augment.magnitude is {self.magnitude}; it must be in [0, 30]")
        if not 0 <= self.erase <= 1:
            raise ValueError(f"augment.erase is {self.erase}; it is a share in [0, 1]")

    @property
    def is_on(self) -> bool:
        """Something is done to batches; ``crop`` is done where images are decoded."""
        idle = asdict(Augment(fill=self.fill, magnitude=self.magnitude, crop=self.crop))
        return asdict(self) != idle

    def apply(
        self,
        image_BCHW: Tensor,
        label_B: Tensor,
        normalise: Callable[[Tensor], Tensor],
        seed: int,
        num_classes: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Return augmented, normalised images, and B x K soft targets if images were mixed.

        Args:
            image_BCHW: raw images, uint8 or float in [0, 1].
            label_B: the labels that training sees.
            normalise: what makes them float, of mean 0 and standard deviation 1.
            seed: of all draws; the global generators are left as they were.
            num_classes: K.
        """
        from timm.data.random_erasing import RandomErasing  # before the draws: both take seconds to import
        from torchvision.transforms import v2

        target = None
        with seeded(seed, image_BCHW.device):
            if self.flip:
                mirrored = (torch.rand(len(image_BCHW)) < 0.5).to(image_BCHW.device)
                image_BCHW = torch.where(mirrored[:, None, None, None], image_BCHW.flip(3), image_BCHW)
            if self.pad:
                image_BCHW = shifted(image_BCHW, *torch.randint(-self.pad, self.pad + 1, (2, len(label_B))), self.fill)
            if self.randaugment:
                change = v2.RandAugment(self.randaugment, self.magnitude)
                image_BCHW = torch.cat([change(group) for group in image_BCHW.split(_GROUP)])
            image_BCHW = normalise(image_BCHW)
            if self.erase:
                image_BCHW = RandomErasing(self.erase, mode="pixel", device=image_BCHW.device)(image_BCHW)
            kinds = ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
            if mixers := [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]:
                image_BCHW, target = v2.RandomChoice(mixers)(image_BCHW, label_B)
        return image_BCHW, target


def shifted(image_BCHW: Tensor, down_B: Tensor, right_B: Tensor, fill: str) -> Tensor:
    """Return images moved by so many pixels each; what comes in is the image reflected at its edge, or zeros.

    A shift must be less than the image's sides to be reflected.
    """
    device, (height, width) = image_BCHW.device, image_BCHW.shape[2:]
    row_BH = torch.arange(height) - down_B[:, None]
    column_BW = torch.arange(width) - right_B[:, None]
    inside = ((row_BH >= 0) & (row_BH < height))[:, :, None] & ((column_BW >= 0) & (column_BW < width))[:, None, :]
    row_BH, column_BW = (_reflected(row_BH, height).to(device), _reflected(column_BW, width).to(device))
    number = torch.arange(len(image_BCHW), device=device)[:, None, None]
    moved = image_BCHW[number, :, row_BH[:, :, None], column_BW[:, None, :]].permute(0, 3, 1, 2)
    if fill == "zero":
        moved = moved * inside[:, None].to(device)
    return moved.contiguous()


def _reflected(position: Tensor, size: int) -> Tensor:
    """Return positions inside [0, size), mirrored at the edge without repeating it."""
    return (size - 1 - (size - 1 - position.abs()).abs()).clamp(min=0)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of Python and torch, which libraries draw from, and put them back afterwards."""
    before = random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
