"""Views: is a wrong label still given to altered copies of the image that it was learnt from?

Legend: B images of a batch, C channels, H x W pixels, V altered copies, N noisy examples.
"""

import io
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.scoring import KNOWN, evenly, scored
from vitmem.evaluation.metrics import accuracy
from vitmem.evaluation.predict import TRAIN, predict
from vitmem.models.finite import NOTHING

# An altered copy of images B C H W in [0, 1]; the generator is for those that draw.
View = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Views(Attack):
    """Show altered copies of the noisy images: mirrored, shifted, cropped, turned, compressed, noisy, brighter.

    The row ``any`` counts an image if any altered copy gets its wrong label, ``mean`` averages over the copies; the
    largest over many copies is inflated by chance, so both are to be compared with retrain's.

    Args:
        shift: of eight directions, share of the side, padded by reflection; at least one pixel.
        crops: shares of the side that centre crops keep before they are resized.
        degrees: rotations, both ways.
        jpeg: qualities, 1 to 100.
        noise: standard deviations of Gaussian noise on images in [0, 1].
        brightness: relative changes, both ways.
        examples: most noisy examples scored.
    """

    settings = ("view",)
    version = 1

    shift: float = 0.125
    crops: tuple[float, ...] = (0.8, 0.9)
    degrees: tuple[float, ...] = (5.0, 10.0)
    jpeg: tuple[int, ...] = (50, 75, 95)
    noise: tuple[float, ...] = (0.01, 0.03)
    brightness: tuple[float, ...] = (0.1,)
    examples: int = 10_000

    def __post_init__(self):
        if not 0 <= self.shift < 0.5:
            raise ValueError(f"shift is {self.shift}; it is a share of the side, in [0, 0.5)")
        if wrong := [crop for crop in self.crops if not 0 < crop <= 1]:
            raise ValueError(f"crops: {wrong[0]} is not a share of the side, in (0, 1]")
        if wrong := [quality for quality in self.jpeg if not 1 <= quality <= 100]:
            raise ValueError(f"jpeg: {wrong[0]} is not a quality, 1 to 100")
        if wrong := [degrees for degrees in self.degrees if not 0 <= degrees <= 180]:
            raise ValueError(f"degrees: {wrong[0]} is not a rotation, both ways, in [0, 180]")
        if wrong := [change for change in self.brightness if not 0 <= change <= 1]:
            raise ValueError(f"brightness: {wrong[0]} is not a relative change, both ways, in [0, 1]")
        if wrong := [sd for sd in self.noise if sd < 0]:
            raise ValueError(f"noise: {wrong[0]} is not a standard deviation; it must not be negative")
        if self.examples < 1:
            raise ValueError(f"examples is {self.examples}; it must be at least 1")

    def views(self, image_shape: tuple[int, int, int]) -> dict[str, View]:
        """Return the altered copies by name; JPEG only for images of one or three channels."""
        from torchvision.transforms.v2 import functional as T

        channels, height, width = image_shape
        across, down = (max(1, round(self.shift * side)) if self.shift else 0 for side in (width, height))
        directions = [d for d in itertools.product((-1, 0, 1), repeat=2) if any(d)] if self.shift else []
        found: dict[str, View] = {"mirrored": lambda x, g: T.horizontal_flip(x)}
        for dx, dy in directions:
            found[f"shifted {dx * across:+d} {dy * down:+d}"] = _shifted(dx * across, dy * down)
        for share in self.crops:
            found[f"cropped {share:g}"] = _cropped(round(share * height), round(share * width))
        for angle in (sign * degrees for degrees in self.degrees for sign in (-1, 1)):
            found[f"turned {angle:+g}"] = _turned(angle)
        for quality in self.jpeg if channels in (1, 3) else ():
            found[f"jpeg {quality}"] = _compressed(quality)
        for sd in self.noise:
            found[f"noise {sd:g}"] = _noisy(sd)
        for change in (sign * change for change in self.brightness for sign in (-1, 1)):
            found[f"brightness {change:+g}"] = _brightened(1 + change)
        return found

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the metrics of the noisy examples for each view, for any of them, and their mean."""
        start = time.perf_counter()
        device = next(model.parameters()).device
        examples = data.data.train_examples
        noisy = examples.remembered.nonzero()[:, 0]
        chosen = examples.subset(noisy[evenly(len(noisy), self.examples)])
        seed = int(torch.randint(2**31, (), generator=generator))
        tables = {}
        if len(chosen):
            tables["identity"] = predict(model, {TRAIN: data.data.loader(chosen)}, device, data.known)
        shape = data.data.data.image_shape
        for name, view in self.views(shape).items() if len(chosen) else ():
            loader = data.data.loader(chosen, seed=seed)
            loader.augment = on_pixels(view)
            tables[name] = predict(model, {TRAIN: loader}, device, data.known)
        rows = [{"view": name, **scored(table)} for name, table in tables.items()]
        altered = [table for name, table in tables.items() if name != "identity"]
        if altered:
            hit_VN, known_N = np.stack([table.prediction == table.given for table in altered]), altered[0].is_known
            parts = {"memorized_accuracy": np.ones_like(known_N)}
            if known_N.any():
                parts |= dict(zip(KNOWN, (known_N, ~known_N), strict=True))
            broken = any((table.prediction == NOTHING).any() for table in altered)
            for name, counted in (("any", hit_VN.any(0, keepdims=True)), ("mean", hit_VN)):
                row: dict = {"view": name}
                for metric, part_N in parts.items():
                    value = math.nan if broken else accuracy(counted[:, part_N].ravel()).value
                    row |= {metric: value, f"{metric}_n": int(part_N.sum())}
                rows.append(row)
        report = {
            "seconds": round(time.perf_counter() - start, 3),
            "views": len(altered),
            "skipped": [] if shape[0] in (1, 3) else [f"jpeg: needs 1 or 3 channels, not {shape[0]}"],
        }
        return AttackResult(rows, report)


def on_pixels(view: View) -> Callable:
    """Return a view of images in [0, 1] as a loader's augmentation."""

    def augment(raw_BCHW, label_B, normalise, seed):
        x_BCHW = raw_BCHW.float() / 255 if raw_BCHW.dtype == torch.uint8 else raw_BCHW.float()
        return normalise(view(x_BCHW, torch.Generator().manual_seed(seed)).clamp(0, 1)), None

    return augment


def _shifted(dx: int, dy: int) -> View:
    """Return a shift by pixels to the right and down."""
    from torchvision.transforms.v2 import functional as T

    left, right, top, bottom = max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)

    def shift(x_BCHW: Tensor, _: torch.Generator) -> Tensor:
        height, width = x_BCHW.shape[-2:]
        padded = T.pad(x_BCHW, [left, top, right, bottom], padding_mode="reflect")
        return T.crop(padded, bottom, right, height, width)

    return shift


def _cropped(height: int, width: int) -> View:
    from torchvision.transforms.v2 import functional as T

    size = [max(1, height), max(1, width)]
    return lambda x, _: T.resize(T.center_crop(x, size), list(x.shape[-2:]), antialias=True)


def _turned(angle: float) -> View:
    from torchvision.transforms.v2 import functional as T

    return lambda x, _: T.rotate(x, angle, interpolation=T.InterpolationMode.BILINEAR)


def _noisy(sd: float) -> View:
    return lambda x, g: x + sd * torch.randn(x.shape, generator=g)


def _brightened(factor: float) -> View:
    return lambda x, _: x * factor


def _compressed(quality: int) -> View:
    def compress(x_BCHW: Tensor, _: torch.Generator) -> Tensor:
        pixels_BHWC = (x_BCHW * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        decoded = np.stack([_jpeg(image.squeeze(-1).numpy(), quality) for image in pixels_BHWC])
        return torch.from_numpy(decoded).view(pixels_BHWC.shape).permute(0, 3, 1, 2).float() / 255

    return compress


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image, H W or H W 3 in uint8, as JPEG leaves it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer, formats=("JPEG",)))
