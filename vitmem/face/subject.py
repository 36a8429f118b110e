"""What the verbs of the Python interface work on: a trained classifier with its data."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Recipe
from vitmem.curvature.cache import CurvatureCache
from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Examples, normalise
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.known import check_share, known_noisy
from vitmem.face.images import Images, data_module, gathered, taken_out
from vitmem.models.anatomy import ATTRIBUTE, Anatomy, seen_anatomy
from vitmem.models.attention import opened, opened_state
from vitmem.models.build import with_weights
from vitmem.models.outputs import with_logits
from vitmem.runs.fresh import recipe_of
from vitmem.runs.trained import REFERENCES, TrainedRun

Fit = Callable[[object, int], nn.Module]


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained classifier with its data: what is edited, measured and attacked; nothing changes it.

    Args:
        model: in eval mode; fused attentions of PyTorch are opened into linear layers, so that they can be edited.
        data: images, labels, and which of them are wrong, as far as that is known.
        seed: of the known wrong labels, and of all draws of edits and attacks.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        initial: returns the weights that training started from, as ``TrainedRun.start``; None if they are not known.
        reference: returns the model of an id (retrain, clean, early_stop), or None where there is none.
        recipe: how models are trained as this one was; None if that is not known.
    """

    model: nn.Module
    data: MemorisationData
    seed: int = 0
    known: float = 0.5
    initial: Callable[..., dict[str, Tensor]] | None = None
    reference: Callable[[str], nn.Module | None] = lambda kind: None
    recipe: Recipe | None = None
    cache: CurvatureCache = field(default_factory=CurvatureCache)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def known_noisy(self) -> Tensor:
        """N, bool: the wrong labels that edits with a forget set know."""
        return known_noisy(self.data.train_examples.to_forget, self.known, self.data.manifest.seed, self.seed)

    @cached_property
    def folder(self) -> Path:
        """Where attacks keep what further attacks reuse; it goes with this process."""
        self.__dict__["_folder"] = tempfile.TemporaryDirectory(prefix="vitmem-")
        return Path(self.__dict__["_folder"].name)

    def with_state(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return a twin of the model with other weights, given under the names of the model that was adopted."""
        inside = opened_state(self.model, state)
        return with_weights(self.model, {name: value.to(self.device) for name, value in inside.items()})


def open_run(path: str | Path, *, known: float = 0.5, root: str | None = None) -> Subject:
    """Return the trained model of a run folder with its data.

    Args:
        path: a run folder, as ``vitmem train`` and ``vitmem adopt`` make them.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        root: folder or file of the data, where it is not the one that they were in.

    Raises:
        ValueError: it is no finished run folder, or something in it was changed.

    Example:
        >>> subject = vitmem.open_run("runs/digits/seed0")
    """
    run = TrainedRun.open(path, known=known, place=root)

    def reference(kind: str) -> nn.Module | None:
        if kind == "base":
            return run.model
        try:
            return run.reference(kind).model if kind in REFERENCES else None
        except ValueError:
            return None

    recipe = None if run.is_adopted else recipe_of(run.config, run.data)
    return Subject(run.model, run.data, run.config.seed, known, run.start, reference, recipe, run.cache)


def adopt(
    model: nn.Module,
    train: Images,
    validation: Images | None = None,
    *,
    true: Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    logits: Callable[[object], Tensor] | None = None,
    head: str | None = None,
    blocks: Sequence[str] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    references: Mapping[str, nn.Module] | None = None,
    fit: Fit | None = None,
    known: float = 0.5,
    seed: int = 0,
) -> Subject:
    """Return any trained classifier with its data, as what edits, measurements and attacks work on.

    Args:
        model: maps images B C H W to logits B K; it is copied, and stays as it is.
        train: the images and labels that it was trained on: tensors (images N C H W, labels N) or (images, labels, true
            labels), a dataset of such examples, or a loader of such batches. They are held in memory.
        validation: images and right labels that it was not trained on, likewise.
        true: N, the true labels of the training images, if they are known and ``train`` does not hold them.
        mean: of the images by channel, in [0, 1], as the model was trained with; None: images are normalised already.
        std: standard deviation, likewise.
        logits: takes the logits from what the model returns; by default itself, its ``logits``, or its first part.
        head: name of the linear layer that returns the logits; by default it is found by one forward pass.
        blocks: names of the blocks, from the first on; by default the modules of the kind that repeats most.
        initial: weights that training started from, by name, for edits that go back there.
        references: models by ``retrain``, ``clean`` or ``early_stop``, to which attacks compare.
        fit: ``fit(loader, seed)`` trains a model as this one on batches that begin with images and labels: shadows.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        seed: of all draws.

    Raises:
        ValueError: the model returns no logits, or the data do not fit it.

    Example:
        >>> subject = vitmem.adopt(model, (images, labels, true_labels), (others, their_labels))
    """
    check_share(known)
    if unknown := sorted(set(references or ()) - set(REFERENCES)):
        raise ValueError(f"references: {unknown[0]!r} is none of {', '.join(REFERENCES)}")
    model, shown = _checked(model), gathered(train, "train", true)
    held_out = None if validation is None else gathered(validation, "validation")
    normalisation = taken_out(shown.image, mean, std)

    def inside(other: nn.Module) -> nn.Module:
        return with_logits(copy.deepcopy(opened(other)).eval().requires_grad_(True), logits)

    twin = inside(model)
    some = normalise(shown.image[:2], *(torch.tensor(value).view(-1, 1, 1) for value in normalisation))
    classes = _anatomy(twin, some, head, blocks)
    data = data_module(shown, held_out, classes, normalisation, seed)
    others = {"base": twin} | {kind: inside(other) for kind, other in (references or {}).items()}
    start = None if initial is None else _start(opened_state(twin, initial), others)
    recipe = None if fit is None else _recipe(fit, data, inside)
    return Subject(twin, data, seed, known, start, others.get, recipe)


def _checked(model: nn.Module) -> nn.Module:
    """Return a model as it is without compilation.

    Raises:
        ValueError: it has weights under two names, or of another type than float32.
    """
    model, names = uncompiled(model), dict[int, str]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if (first := names.setdefault(id(parameter), name)) != name:
            raise ValueError(
                f"{first} and {name} are one tied weight, which an edit would change under one name only; give a model "
                "that holds them apart"
            )
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ValueError(f"{name} is {parameter.dtype}; edits are computed in float32: give model.float()")
    return model


def _anatomy(model: nn.Module, image_BCHW: Tensor, head: str | None, blocks: Sequence[str] | None) -> int:
    """Give a model its anatomy, and return the number of its classes.

    Raises:
        ValueError: it has no parameters, returns no logits, or has no part of that name.
    """
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError(f"the model, a {type(model).__name__}, has no parameters; give a trained classifier")
    image_BCHW = image_BCHW.to(parameters[0])
    with torch.no_grad():
        logits_BK = model(image_BCHW)
    if logits_BK.ndim != 2 or len(logits_BK) != len(image_BCHW):
        raise ValueError(
            f"the model returns {tuple(logits_BK.shape)} for {len(image_BCHW)} images; expected B K; give logits="
        )
    found = seen_anatomy(model, image_BCHW)
    names = dict(model.named_modules())
    for name in (*([head] if head else ()), *(blocks or ())):
        if name not in names:
            raise ValueError(f"the model has no part {name!r}; its parts are: {', '.join([*names][1:20])} ...")
    setattr(model, ATTRIBUTE, Anatomy(head or found.head, tuple(blocks or found.blocks)))
    return int(logits_BK.shape[1])


def _start(initial: dict[str, Tensor], others: Mapping[str, nn.Module]) -> Callable[..., dict[str, Tensor]]:
    """Return a function that returns the initial weights, or told so those of a reference.

    Raises:
        ValueError: (the function) there is no such reference.
    """

    def start(checkpoint: str = "initial") -> dict[str, Tensor]:
        if checkpoint == "initial":
            return initial
        if checkpoint not in others:
            raise ValueError(f"there is no {checkpoint} model; give it in references")
        return others[checkpoint].state_dict()

    return start


def _recipe(fit: Fit, data: MemorisationData, inside: Callable[[nn.Module], nn.Module]) -> Recipe:
    """Return how models are trained as the adopted one was."""

    def train(examples: Examples, seed: int, folder: Path) -> nn.Module:
        return inside(fit(data.loader(examples, data.batch_size, shuffle=True, seed=seed), seed))

    return Recipe(train, "given")
