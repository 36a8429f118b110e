"""The contract of an edit, what an edit may see, and the registry.

An edit is a frozen dataclass of options with ``apply(model, data, generator) -> EditResult``. To add one, write a file
with such a class and one line in ``_BUILTIN`` below; another package registers it in the entry-point group
``vitmem.edits``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from datamodules.batch import Batch, InMemoryLoader, keyed_generator
from datamodules.module import MemorisationData
from datamodules.registry import registered
from vitmem.curvature.cache import Curvature, CurvatureCache, CurvatureConfig
from vitmem.runs import digest


@dataclass(frozen=True, eq=False)
class EditResult:
    """What an edit returns.

    Args:
        state_dict: all weights, edited ones replaced.
        report: JSON-able: ``layers`` (one row for each edited layer) and ``seconds`` (by stage).
    """

    state_dict: dict[str, Tensor]
    report: dict


@dataclass(frozen=True)
class Edit:
    """Base of the registered edits.

    ``sees`` names what the edit may read: ``unlabeled`` (training images), ``given`` (their given labels, without
    knowing which are wrong), ``retain`` (examples known to be right) and ``forget`` (examples known to be wrong).
    ``main_option`` is the option that a result's name carries, as in ``kfac-rho0.95``.
    """

    sees: ClassVar[frozenset[str]] = frozenset()
    main_option: ClassVar[str | None] = None

    def check(self, model: nn.Module) -> None:
        """Raise ValueError if the edit cannot be applied to this model; the weights may be on the meta device."""

    def apply(self, model: nn.Module, data: "EditData", generator: torch.Generator) -> EditResult:
        """Return edited weights; the model itself is not changed.

        Args:
            model: the trained classifier.
            data: what the edit may see.
            generator: source of all its randomness.
        """
        raise NotImplementedError("abstract")


class EditData:
    """The training data, as far as an edit declares that it sees them.

    Args:
        data: the data module of the run.
        sees: what the edit declares.
        cache: where curvature is kept between edits.
    """

    def __init__(self, data: MemorisationData, sees: frozenset[str], cache: CurvatureCache | None = None):
        self._data, self._sees, self._cache = data, sees, cache or CurvatureCache()

    def _allow(self, *kinds: str) -> None:
        if not self._sees.intersection(kinds):
            raise PermissionError(
                f"this edit declares that it sees {sorted(self._sees) or 'no data'}, but it asked for {kinds[0]!r}; "
                "declare it in `sees`, so that comparisons stay fair"
            )

    def unlabeled(self, examples: int, batch_size: int, seed: int = 0) -> InMemoryLoader:
        """Return training images, drawn at random, in batches whose label fields are -1 and False.

        Args:
            examples: how many; all if there are fewer.
            batch_size: images in a batch.
            seed: of the draw.
        """
        self._allow("unlabeled", "given", "retain", "forget")
        loader = self._sample(examples, batch_size, seed)
        return _Unlabeled(loader)

    def given(self, examples: int, batch_size: int, seed: int = 0) -> InMemoryLoader:
        """Return training images with their given labels; which are wrong stays hidden."""
        self._allow("given")
        return _GivenOnly(self._sample(examples, batch_size, seed))

    def retain(self, batch_size: int, **options) -> InMemoryLoader:
        """Return the training examples whose labels are right."""
        self._allow("retain")
        examples = self._data.train_examples
        return self._data.loader(examples.subset(~examples.is_noisy), batch_size, **options)

    def forget(self, batch_size: int, **options) -> InMemoryLoader:
        """Return the training examples whose labels are wrong."""
        self._allow("forget")
        examples = self._data.train_examples
        return self._data.loader(examples.subset(examples.is_noisy), batch_size, **options)

    def curvature(self, model: nn.Module, config: CurvatureConfig) -> Curvature:
        """Return the curvature of a model on the images that the options choose."""
        read: Callable = self.given if config.labels == "given" else self.unlabeled
        self._allow("given" if config.labels == "given" else "unlabeled")
        manifest = self._data.manifest
        fingerprint = digest([manifest.data_fingerprint, manifest.header()["sha256"]])
        return self._cache.get(model, config, lambda c: read(c.examples, c.batch_size, c.seed), fingerprint)

    def _sample(self, examples: int, batch_size: int, seed: int) -> InMemoryLoader:
        everything = self._data.train_examples
        if examples < len(everything):
            chosen = torch.randperm(len(everything), generator=keyed_generator(seed, 4))[:examples].sort().values
            everything = everything.subset(chosen)
        return self._data.loader(everything, batch_size)


class _Masked:
    """Batches of a loader with label fields hidden."""

    def __init__(self, loader: InMemoryLoader):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self):
        return map(self._mask, self._loader)


class _Unlabeled(_Masked):
    @staticmethod
    def _mask(batch: Batch) -> Batch:
        hidden = torch.full_like(batch.index, -1)
        return batch._replace(given_label=hidden, true_label=hidden, is_noisy=torch.zeros_like(batch.is_noisy))


class _GivenOnly(_Masked):
    @staticmethod
    def _mask(batch: Batch) -> Batch:
        hidden = torch.full_like(batch.index, -1)
        return batch._replace(true_label=hidden, is_noisy=torch.zeros_like(batch.is_noisy))


def edits() -> dict[str, type[Edit]]:
    """Return the registered edits by name: ours, and those of installed packages (group ``vitmem.edits``)."""
    from vitmem.editing.kfac import KFAC, RandomPairs, TopRemoved
    from vitmem.editing.svd import SVD

    builtin = {"kfac": KFAC, "svd": SVD, "random_pairs": RandomPairs, "top_removed": TopRemoved}
    return registered("vitmem.edits", builtin)
