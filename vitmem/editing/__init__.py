"""The contract of an edit, what an edit may see, and the registry.

An edit is a frozen dataclass of options with ``apply(model, data, generator) -> EditResult``. To add one, write a file
with such a class and one line in ``edits()`` below; another package registers it in the entry-point group
``vitmem.edits``.
"""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from datamodules.batch import Batch, Examples, InMemoryLoader, keyed_generator
from datamodules.module import MemorisationData
from datamodules.registry import registered
from vitmem.curvature.cache import Curvature, CurvatureCache, CurvatureConfig
from vitmem.distributed import share
from vitmem.editing.cost import ExtraMemory
from vitmem.editing.known import tuning_half
from vitmem.runs import digest


@dataclass(frozen=True, eq=False)
class EditResult:
    """What an edit returns.

    Args:
        state_dict: all weights, edited ones replaced.
        report: JSON-able: ``layers`` (one row for each edited layer), ``seconds`` (by stage), and ``extra_parameters``
            (numbers held beside the model's own while editing: scores, masks, importances, a teacher's weights).
    """

    state_dict: dict[str, Tensor]
    report: dict


class EditDiverged(Exception):
    """An edit whose loss or weights are not finite: a row of the table says so, and nothing else stops."""


TRACKS = ("label-free", "right labels", "known noisy examples")


def track(sees: frozenset[str]) -> str:
    """Return with which edits one that sees this may be compared: one of ``TRACKS``; validation labels are right."""
    return TRACKS[2] if "forget" in sees else TRACKS[1] if sees & {"retain", "validation"} else TRACKS[0]


@dataclass(frozen=True)
class Edit:
    """Base of the registered edits.

    ``sees`` names what the edit may read: ``unlabeled`` (training images), ``given`` (their given labels, without
    knowing which are wrong), ``retain`` (examples known to be right), ``forget`` (examples known to be wrong) and
    ``validation``.
    ``main_option`` is the option that a result's name carries, as in ``kfac-rho0.95``.
    ``search`` is what tuning may choose, by option: ``("log", low, high)``, ``("uniform", low, high)``,
    ``("int", low, high)`` or ``("choice", a, b, ...)``.
    """

    sees: ClassVar[frozenset[str]] = frozenset()
    main_option: ClassVar[str | None] = None
    search: ClassVar[dict[str, tuple]] = {}

    @property
    def track(self) -> str:
        """With which edits this one may be compared: one of ``TRACKS``, or a bound that reads what no method may."""
        return track(self.sees)

    @property
    def idle(self) -> frozenset[str]:
        """Options that have no effect beside the others as they are; tuning leaves them alone."""
        return frozenset()

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
    """The training data, as far as an edit declares that it sees them, and a count of what was served.

    Of the wrongly labelled examples some are known (``forget``). The others are in neither set: ``retain`` holds the
    examples that were verified to be right, which is all clean ones. An edit that declares ``retain`` together with
    ``unlabeled`` or ``given`` could tell the unknown ones by elimination; none may. Edits see only the half of the
    validation set that ``tuning_half`` returns.

    Args:
        data: the data module of the run.
        sees: what the edit declares.
        cache: where curvature is kept between edits.
        known: N, bool, the wrongly labelled training examples that are known; all by default.

    Attributes:
        served: examples handed out so far, each as often as it was; cached curvature counts as if it were collected.
        reused: curvature came from the cache.
    """

    def __init__(
        self,
        data: MemorisationData,
        sees: frozenset[str],
        cache: CurvatureCache | None = None,
        known: Tensor | None = None,
    ):
        self._data, self._sees, self._cache = data, sees, cache or CurvatureCache()
        self._known = data.train_examples.is_noisy if known is None else known
        self.served, self.reused = 0, False

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

    def given(self, examples: int, batch_size: int, seed: int = 0) -> "MaskedLoader":
        """Return training images with their given labels; which are wrong stays hidden. Arguments as ``unlabeled``."""
        self._allow("given")
        return self._sample(self._data.train_examples, examples, batch_size, seed, with_labels=True)

    def retain(self, batch_size: int, **options) -> InMemoryLoader:
        """Return the training examples whose labels were verified to be right: all clean ones."""
        self._allow("retain")
        examples = self._data.train_examples
        return self.serve(examples.subset(~examples.is_noisy), batch_size, **options)

    def forget(self, batch_size: int, **options) -> InMemoryLoader:
        """Return the training examples whose labels are known to be wrong."""
        self._allow("forget")
        return self.serve(self._data.train_examples.subset(self._known), batch_size, **options)

    def validation(self, batch_size: int) -> InMemoryLoader:
        """Return the validation examples of even index; the others are kept for reporting."""
        self._allow("validation")
        return self.serve(tuning_half(self._data.validation_examples), batch_size)

    def curvature(self, model: nn.Module, config: CurvatureConfig) -> Curvature:
        """Return the curvature of a model on the images that the options choose, from the cache if it is there."""
        manifest = self._data.manifest
        known = self._known.nonzero()[:, 0].tolist() if config.noisy == "only" else []
        fingerprint = digest([manifest.data_fingerprint, manifest.header()["sha256"], *known])
        before, images = self.served, min(config.examples, len(self._chosen(config)))
        found = self._cache.get(model, config, lambda: self.images(config), fingerprint)
        self.reused |= self.served == before
        passes = 2 if config.moments == "ekfac" else 1
        groups = math.ceil(len(found.layers) / config.layers_per_pass) if config.layers_per_pass else 1
        self.served = before + images * passes * groups  # the same whether or not the cache had it
        return found

    def images(self, config: CurvatureConfig, shared: bool = True) -> "MaskedLoader":
        """Return the images that curvature options choose, this process's share of them or all."""
        with_labels = config.labels == "given"
        return self._sample(self._chosen(config), config.examples, config.batch_size, config.seed, with_labels, shared)

    def _chosen(self, config: CurvatureConfig) -> Examples:
        if config.labels == "given":
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
                chosen = chosen.subset(~chosen.is_noisy if excluded else self._known)
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


class MaskedLoader:
    """Batches of a loader with true labels hidden, and given labels too unless they are wanted.

    Args:
        loader: what to mask.
        with_labels: keep the given labels.
    """

    def __init__(self, loader: InMemoryLoader, with_labels: bool = False):
        self._loader, self._with_labels = loader, with_labels

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self):
        for batch in self._loader:
            hidden = torch.full_like(batch.index, -1)
            given = batch.given_label if self._with_labels else hidden
            yield Batch(batch.image, given, hidden, torch.zeros_like(batch.is_noisy), batch.index)


@dataclass(frozen=True, eq=False)
class Attempt:
    """What became of an edit, and its cost.

    Args:
        result: None if the edit diverged.
        status: ``ok``, ``diverged: reason`` or ``failed: reason``.
        passes: examples that were served, in training sets; curvature from the cache counts as if it were collected.
        seconds: of the whole; with curvature from the cache, less than what the result's report adds up.
        extra_memory: peak above what was in use before, in bytes; None if curvature came from the cache.
    """

    result: EditResult | None
    status: str
    passes: float
    seconds: float
    extra_memory: int | None


def attempt(
    edit: Edit, model: nn.Module, data: EditData, generator: torch.Generator, *, keep_going: bool = False
) -> Attempt:
    """Apply an edit, and tell whether its weights are finite and what it cost.

    With ``keep_going`` one that cannot be applied is an attempt that failed; else its error is raised.
    """
    result, start = None, time.perf_counter()
    with ExtraMemory(next(model.parameters()).device) as memory:
        try:
            result, status = edit.apply(model, data, generator), "ok"
        except EditDiverged as error:
            status = f"diverged: {' '.join(str(error).split())}"
        except (ValueError, RuntimeError, ArithmeticError) as error:
            if not keep_going:
                raise
            status = f"failed: {' '.join(str(error).split())[:300]}"
    seconds = time.perf_counter() - start
    broken = [name for name, value in (result.state_dict if result else {}).items() if not torch.isfinite(value).all()]
    if broken:
        result, status = None, f"diverged: {broken[0]} is not finite"
    return Attempt(result, status, data.passes, seconds, None if data.reused else memory.bytes)


def edits() -> dict[str, type[Edit]]:
    """Return the registered edits by name: ours, and those of installed packages (group ``vitmem.edits``)."""
    from vitmem.editing import distill, finetune, salun, subnet
    from vitmem.editing.auto import AutoEKFAC
    from vitmem.editing.dampening import SSD, Potion
    from vitmem.editing.kfac import EKFAC, KFAC, RandomPairs, TopRemoved
    from vitmem.editing.polish import PolishedEKFAC
    from vitmem.editing.prune import Magnitude, Wanda
    from vitmem.editing.sap import SAP
    from vitmem.editing.svd import SVD
    from vitmem.editing.task_vector import TaskVector
    from vitmem.editing.weight_space import Midpoint, WeightDistance, WeightDistortion

    builtin = {
        "kfac": KFAC,
        "ekfac": EKFAC,
        "ekfac_auto": AutoEKFAC,
        "ekfac_polish": PolishedEKFAC,
        "svd": SVD,
        "random_pairs": RandomPairs,
        "top_removed": TopRemoved,
        # trained
        "bad_teacher": distill.BadTeacher,
        "balanced_subnet": subnet.BalancedSubnet,
        "cfk": finetune.CFk,
        "euk": finetune.EUk,
        "finetune": finetune.FineTune,
        "gradient_ascent": finetune.GradientAscent,
        "l1_sparse": finetune.L1Sparse,
        "neggrad": finetune.NegGrad,
        "npo": finetune.NPO,
        "oracle_labels": finetune.OracleLabels,
        "random_labels": finetune.RandomLabels,
        "salun": salun.SalUn,
        "scrub": distill.SCRUB,
        "subnet": subnet.Subnet,
        # closed-form and weight-space methods
        "magnitude": Magnitude,
        "midpoint": Midpoint,
        "potion": Potion,
        "sap": SAP,
        "ssd": SSD,
        "task_vector": TaskVector,
        "wanda": Wanda,
        "weight_dist_reg": WeightDistance,
        "weight_distortion": WeightDistortion,
    }
    return registered("vitmem.edits", builtin)
