"""Image files that are decoded when they are needed, for sets too large to hold, and the loader that decodes ahead.

Pixels are those that ``images.decode`` would have stored, so a streamed set trains as a decoded one does, bit by bit.
Legend: N images, B images of a batch, C channels, H x W pixels.
"""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitmem.datamodules.batch import Batch, InMemoryLoader, keyed_seed
from vitmem.datamodules.cache import cached, contents
from vitmem.datamodules.images import VERSION, cores, decode, read, reason, report, verify
from vitmem.datamodules.sources import uint8_mean_std

_CHUNK = 64  # images that a worker process decodes before it hands them over
_STATISTICS = 2000  # images, evenly spaced, that mean and standard deviation are taken from


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """N C H W, uint8, like a tensor that is indexed by positions; what is asked for is decoded then.

    Args:
        path: N file names, absolute, as bytes: processes share them without a copy.
        content: N x 32, uint8: the SHA-256 of every file.
        root: folder that names in messages and the fingerprint are relative to.
        width: in pixels.
        height: in pixels.
        resize: resize and cut the centre out; otherwise all files have that size.
        grey: one channel instead of three.
        mean_std: per-channel mean and standard deviation in [0, 1], of 2,000 images that are evenly spaced.
        workers: processes that decode for a loader; 0: none but the own.
        interpolation: of resizing, as ``images.decode``.
    """

    path: np.ndarray
    content: np.ndarray
    root: Path
    width: int
    height: int
    resize: bool
    grey: bool
    mean_std: tuple[tuple[float, ...], tuple[float, ...]]
    workers: int
    interpolation: str = "bilinear"

    ndim = 4
    dtype = torch.uint8
    device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.path)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, channels, height and width."""
        return len(self), 1 if self.grey else 3, self.height, self.width

    def __getitem__(self, positions: Tensor | np.ndarray | slice) -> Tensor:
        """Return the images at some positions, decoded by threads."""
        chosen = self.subset(positions)
        side = self.width if self.resize else None
        return torch.from_numpy(decode(chosen.files, chosen.names, side, self.grey, self.interpolation))

    def subset(self, selection: Tensor | np.ndarray | slice) -> "StreamedImages":
        """Return the selected images (a mask or positions), not decoded."""
        selection = selection.numpy() if isinstance(selection, Tensor) else selection
        return replace(self, path=self.path[selection], content=self.content[selection])

    @staticmethod
    def concatenate(parts: Sequence["StreamedImages"]) -> "StreamedImages":
        """Return the images of several parts of one data set, one after the other, not decoded."""
        path, content = (np.concatenate([getattr(part, name) for part in parts]) for name in ("path", "content"))
        return replace(parts[0], path=path, content=content)

    @property
    def files(self) -> list[str]:
        """N file names."""
        return [os.fsdecode(path) for path in self.path]

    @property
    def names(self) -> list[str]:
        """N names relative to the root."""
        return relative(self.files, self.root)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all names, the contents of all files, and the settings."""
        settings = (self.shape, self.resize, *([] if self.interpolation == "bilinear" else [self.interpolation]))
        digest = hashlib.sha256(repr(settings).encode())
        for name, content in zip(self.names, self.content, strict=True):
            digest.update(name.encode(errors="surrogateescape") + b"\0" + content.tobytes())
        return digest.hexdigest()

    def read(self, positions: Sequence[int], seed: int | None, crop: float) -> tuple[Tensor, list[str]]:
        """Return images decoded one after the other, and what is wrong with those that cannot be.

        Args:
            positions: of the images.
            seed: of the random resized crops; None: the centre.
            crop: smallest share of the area that a random crop keeps.
        """
        from torchvision.transforms import InterpolationMode, v2

        how = {"resize": self.resize, "grey": self.grey, "interpolation": self.interpolation}
        filtered = InterpolationMode(self.interpolation)
        image_BCHW, bad = np.zeros((len(positions), *self.shape[1:]), np.uint8), []
        window = v2.RandomResizedCrop(
            (self.height, self.width), scale=(crop, 1.0), interpolation=filtered, antialias=True
        )
        for k, position in enumerate(positions):
            cut = None if seed is None else partial(_seeded, window, keyed_seed(seed, position))
            file = os.fsdecode(self.path[position])
            try:
                image_BCHW[k] = read(file, (self.width, self.height), cut=cut, **how)
            except Exception as error:  # decoders fail in many ways; the loader reports every failure
                bad.append(f"{relative([file], self.root)[0]} ({reason(error)})")
        return torch.from_numpy(image_BCHW), bad


def _seeded(window: Callable, seed: int, image):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return window(image)


def streamed(
    files: Sequence[str],
    root: Path,
    cache: Path,
    *,
    size: tuple[int, int],
    resize: bool,
    grey: bool,
    workers: int | None,
    interpolation: str = "bilinear",
) -> StreamedImages:
    """Return images that are decoded when they are needed, after a look at the header of every file.

    Headers, contents and statistics are looked at once, and again when a file changes.

    Args:
        files: N image files.
        root: their folder.
        cache: folder for what was found.
        size: width and height.
        resize: resize and cut out the centre; otherwise every file must have that size.
        grey: one channel instead of three.
        workers: processes that decode; None: one a core.
        interpolation: of resizing.

    Raises:
        ValueError: files are no images, are damaged or of another size; all are counted, and the first 20 named.
    """
    names = relative(files, root)
    side = size[0] if resize else None

    def look() -> np.ndarray:
        verify(files, names, None if resize else size)
        chosen = evenly(len(files), _STATISTICS)
        image = decode([files[k] for k in chosen], [names[k] for k in chosen], side, grey, interpolation)
        return torch.stack(uint8_mean_std(torch.from_numpy(image))).numpy()

    settings = {"size": side, "grey": grey, "streamed": _STATISTICS}
    settings |= {} if interpolation == "bilinear" else {"interpolation": interpolation}
    sources = dict(zip(names, files, strict=True))
    mean, std = cached(cache, "streamed", settings, sources, look, VERSION)
    mean_std = tuple(round(m, 6) for m in mean.tolist()), tuple(round(max(s, 1e-6), 6) for s in std.tolist())
    path = np.array([os.fsencode(file) for file in files])
    workers = min(cores(), 32) if workers is None else workers
    content = contents(cache, sources)
    if bad := [f"{names[k]} (it could not be read)" for k in np.flatnonzero(~content.any(1))]:
        raise ValueError(report(bad, len(files)))
    return StreamedImages(path, content, root, *size, resize, grey, mean_std, workers, interpolation)


def relative(files: Sequence[str], root: Path) -> list[str]:
    """Return names relative to a folder, with forward slashes."""
    start = len(str(root)) + 1
    return [file[start:].replace(os.sep, "/") for file in files]


def evenly(length: int, most: int) -> list[int]:
    """Return at most so many positions, evenly spaced over [0, length)."""
    return [k * length // min(length, most) for k in range(min(length, most))]


class _Decoder(Dataset):
    """What worker processes run: a part of a batch in, its pixels out."""

    def __init__(self, image: StreamedImages, crop: float):
        self.image, self.crop = image, crop

    def __getitem__(self, part: tuple[list[int], int | None]) -> tuple[Tensor, list[str]]:
        return self.image.read(*part, self.crop)


class _Queue:
    """A sampler whose parts are replaced every epoch, while the worker processes live on."""

    def __init__(self):
        self.parts: Iterator = iter(())

    def __iter__(self):
        return iter(self.parts)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Let a signal to the whole group end the training, not its workers: the step is finished and saved first.

    Only the parent's SIGTERM counts, by which Python ends its children; ignored, it would wait for them for ever.
    """
    for number in (signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(parent_process().pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class StreamingLoader(InMemoryLoader):
    """Batches from image files, decoded ahead by worker processes; their number changes nothing but the speed.

    Args:
        crop: smallest share of the area that a random resized crop keeps; 1: the whole image is resized and its centre
            cut out, without any randomness.

    Further arguments are those of ``InMemoryLoader``.
    """

    def __init__(self, *args, crop: float = 1.0, **options):
        super().__init__(*args, **options)
        self.crop, self._queue, self._ahead = crop, _Queue(), None
        workers = self.examples.image.workers
        self._decoder = DataLoader(
            _Decoder(self.examples.image, crop),
            batch_size=None,
            sampler=self._queue,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.shuffle and workers > 0,  # evaluation comes and goes
            worker_init_fn=_leave_signals_to_the_parent,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator(),  # or else it draws from the global one
        )

    def __iter__(self) -> Iterator[Batch]:
        self._queue.parts = self._parts(self._first)
        self._ahead = iter(self._decoder)
        try:
            yield from super().__iter__()
        finally:
            self._ahead = None

    def _parts(self, first: int) -> Iterator[tuple[list[int], int | None]]:
        for position, number in self.plan(first):
            seed = None if self.crop == 1 else keyed_seed(self.seed, self.epoch, number, 3)
            for part in position.split(_CHUNK):
                yield part.tolist(), seed

    def images(self, position: Tensor) -> Tensor:
        """Return the images of the next batch, which have been decoded; outside an iteration, decode them."""
        if self._ahead is None:
            return super().images(position)
        found = [next(self._ahead) for _ in position.split(_CHUNK)]
        if bad := [text for _, texts in found for text in texts]:
            raise ValueError(report(bad, len(position)))
        return torch.cat([image.to(self.device, non_blocking=True) for image, _ in found])
