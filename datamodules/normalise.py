"""What is taken out of every image before a model sees it, as options."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Normalise:
    """Mean and standard deviation by channel, of images in [0, 1]; both or neither.

    Args:
        mean: a number for each channel, comma-separated; None: those of the training images.
        std: a number above 0 for each channel, comma-separated; None: those of the training images.
    """

    mean: tuple[float, ...] | float | str | None = None
    std: tuple[float, ...] | float | str | None = None

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if (self.mean is None) != (self.std is None):
            raise ValueError("normalise.mean and normalise.std belong together; give both, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"normalise.std is {_said(self.std)}; its numbers must be above 0")

    @property
    def pair(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation; None: those of the training images."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)


def _numbers(name: str, value: object) -> tuple[float, ...] | None:
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
    try:
        found = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"normalise.{name} is {value!r}; give a finite number for each channel, as 0.5,0.5,0.5")
    return found


def _said(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)
