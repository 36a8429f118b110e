"""What an edit may see of the training data, and how much of it it was served."""

import math
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from vitmem.curvature.cache import Curvature, CurvatureCache, CurvatureConfig
from vitmem.datamodules.batch import Batch, Examples, InMemoryLoader, keyed_generator
from vitmem.datamodules.module import MemorisationData
from vitmem.distributed import share
from vitmem.editing.known import tuning_half
from vitmem.files import digest


class EditData:
    """The training data, as far as an edit declares that it sees them, and a count of what was served.

    What is to be forgotten are the wrongly labelled examples, or a forget set that was chosen. Of these some are known
    (``forget``). The others are in neither set: ``retain`` holds the examples that were verified to be right, which is
    all clean ones, or those that were not chosen. An edit that declares ``retain`` together with
    ``unlabeled`` or ``given`` could tell the unknown ones by elimination; none may. Edits see only the half of the
    validation set that ``tuning_half`` returns.

    Args:
        data: the data module of the run, or a function that returns it, called when an example is asked for.
        sees: what the edit declares.
        cache: where curvature is kept between edits.
        known: N, bool, the training examples that are known to be forgotten; all of them by default.
        initial: returns the weights that training started from, by name, or told ``early_stop`` those of that
            reference model; None where they are not known.

    Attributes:
        served: examples handed out so far, each as often as it was; cached curvature counts as if it were collected.
        reused: curvature came from the cache.
    """

    def __init__(
        self,
        data: MemorisationData | Callable[[], MemorisationData],
        sees: frozenset[str],
        cache: CurvatureCache | None = None,
        known: Tensor | None = None,
        initial: Callable[..., dict[str, Tensor]] | None = None,
    ):
        self._given, self._sees, self._cache = data, sees, cache or CurvatureCache()
        self._known = self._data.train_examples.to_forget if known is None else known
        self._initial = initial
        self.served, self.reused = 0, False

    @cached_property
    def _data(self) -> MemorisationData:
        return self._given() if callable(self._given) else self._given

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self._data.data.num_classes

    @property
    def passes(self) -> float:
        """Examples served, in training sets."""
        return self.served / len(self._known)

    def _allow(self, *kinds: str) -> None:
        if not self._sees.intersection(kinds):
            raise PermissionError(
                f"this edit declares that it sees {sorted(self._sees) or 'no data'}, but it asked for {kinds[0]!r}; "
                "declare it in `sees`, so that comparisons stay fair"
            )

    def unlabeled(self, examples: int, batch_size: int, seed: int = 0) -> "MaskedLoader":
        """Return training images, drawn at random, in batches whose label fields are -1 and False.

        Args:
            examples: how many; all if there are fewer.
            batch_size: images in a batch.
            seed: of the draw.
        """
        self._allow("unlabeled", "given", "retain", "forget")
        return self._sample(self._data.train_examples, examples, batch_size, seed)

    def given(self, examples: int, batch_size: int, seed: int = 0, shared: bool = True) -> "MaskedLoader":
        """Return training images with their given labels; which are wrong stays hidden.

        Args:
            examples: how many; all if there are fewer.
            batch_size: images in a batch.
            seed: of the draw.
            shared: every process gets its share of them, not all.
        """
        self._allow("given")
        return self._sample(self._data.train_examples, examples, batch_size, seed, with_labels=True, shared=shared)

    def retain(self, batch_size: int, **options) -> InMemoryLoader:
        """Return the training examples whose labels were verified to be right: all clean ones.

        Raises:
            ValueError: nobody knows which these are.
        """
        self._allow("retain")
        examples = self._data.train_examples
        return self.serve(examples.subset(self._told(examples.to_retain)), batch_size, **options)

    def forget(self, batch_size: int, **options) -> InMemoryLoader:
        """Return the training examples that are known to be forgotten: those whose labels are known to be wrong.

        Raises:
            ValueError: nobody knows which these are.
        """
        self._allow("forget")
        return self.serve(self._data.train_examples.subset(self._told(self._known)), batch_size, **options)

    def _told(self, mask_N: Tensor) -> Tensor:
        """Return a mask of what is to be forgotten or kept, refused where nobody knows."""
        self._data.need_forget_set(f"this edit sees {', '.join(sorted(self._sees))}")
        return mask_N

    def validation(self, batch_size: int) -> InMemoryLoader:
        """Return the validation examples of even index; the others are kept for reporting."""
        self._allow("validation")
        return self.serve(tuning_half(self._data.validation_examples), batch_size)

    def initial(self, model: nn.Module, checkpoint: str = "initial") -> dict[str, Tensor]:
        """Return the weights that a model's training started from, by name, on the model's device.

        Args:
            model: the trained classifier.
            checkpoint: initial, or early_stop: those of the reference model.

        Raises:
            ValueError: they are not known, or are not those of this model.
        """
        self._allow("initial")
        if checkpoint != "initial":
            self._allow("validation")
        if self._initial is None:
            raise ValueError("the weights that training started from are not known, and this edit needs them")
        found, trained = self._initial(*[checkpoint] if checkpoint != "initial" else []), model.state_dict()
        if wrong := [n for n, value in trained.items() if n not in found or found[n].shape != value.shape]:
            raise ValueError(f"the initial weights are another model's: {wrong[0]} is missing or of another shape")
        return {name: found[name].to(value) for name, value in trained.items()}

    def curvature(
        self, model: nn.Module, config: CurvatureConfig, origin: Mapping[str, Tensor] | None = None
    ) -> Curvature:
        """Return the curvature of a model on the images that the options choose, from the cache if it is there.

        Args:
            model: the classifier.
            config: the options.
            origin: what is taken off the weights, by layer, as ``CurvatureCache.get``.
        """
        manifest = self._data.manifest
        known = self._known.nonzero()[:, 0].tolist() if config.noisy == "only" else []
        fingerprint = digest([manifest.data_fingerprint, manifest.header()["sha256"], *known])
        before, images = self.served, min(config.examples, len(self._chosen(config)))
        found = self._cache.get(model, config, lambda: self.images(config), fingerprint, origin)
        self.reused |= self.served == before
        passes = 2 if config.moments == "ekfac" else 1
        groups = math.ceil(len(found.layers) / config.layers_per_pass) if config.layers_per_pass else 1
        self.served = before + images * passes * groups  # the same whether or not the cache had it
        return found

    def images(self, config: CurvatureConfig, shared: bool = True) -> "MaskedLoader":
        """Return the images that curvature options choose, this process's share of them or all."""
        with_labels = _takes_labels(config)
        return self._sample(self._chosen(config), config.examples, config.batch_size, config.seed, with_labels, shared)

    def _chosen(self, config: CurvatureConfig) -> Examples:
        if _takes_labels(config):
            self._allow("given")
        if config.split == "validation":
            self._allow("validation")
            chosen = tuning_half(self._data.validation_examples)
        else:
            chosen = self._data.train_examples
            if config.noisy == "included":
                self._allow("unlabeled", "given", "retain", "forget")
            else:
                excluded = config.noisy == "excluded"
                self._allow("retain" if excluded else "forget")
                chosen = chosen.subset(self._told(chosen.to_retain if excluded else self._known))
        if len(chosen) == 0:
            raise ValueError(f"there are no images to collect from: noisy is {config.noisy!r}, and no label fits that")
        return chosen

    def _sample(
        self,
        chosen: Examples,
        examples: int,
        batch_size: int,
        seed: int,
        with_labels: bool = False,
        shared: bool = True,
    ) -> "MaskedLoader":
        if examples < len(chosen):
            drawn = torch.randperm(len(chosen), generator=keyed_generator(seed, 4))[:examples].sort().values
            chosen = chosen.subset(drawn)
        rank, processes = share() if shared else (0, 1)
        return MaskedLoader(self.serve(chosen.subset(slice(rank, None, processes)), batch_size), with_labels)

    def serve(self, examples: Examples, batch_size: int, **options) -> InMemoryLoader:
        """Return a loader whose batches are counted, over examples that an edit was given, or made from these."""
        loader = self._data.loader(examples, batch_size, **options)
        serve = loader.batch

        def counted(position: Tensor, number: int = 0) -> Batch:
            self.served += len(position)
            return serve(position, number)

        loader.batch = counted
        return loader


def _takes_labels(config: CurvatureConfig) -> bool:
    """Tell whether curvature is taken at given labels; that of inputs needs none."""
    return config.labels == "given" and config.moments != "inputs"


class MaskedLoader:
    """Batches of a loader with true labels hidden, and given labels too unless they are wanted.

    Args:
        loader: what to mask.
        with_labels: keep the given labels.
    """

    def __init__(self, loader: InMemoryLoader, with_labels: bool = False):
        self._loader, self._with_labels = loader, with_labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """C, H, W, told without serving an image."""
        return tuple(self._loader.examples.image.shape[1:])

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self):
        for batch in self._loader:
            hidden = torch.full_like(batch.index, -1)
            given = batch.given_label if self._with_labels else hidden
            yield Batch(batch.image, given, hidden, torch.zeros_like(batch.is_noisy), batch.index)
