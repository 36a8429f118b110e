"""The contract of an analysis: what it may look at, and what it returns.

An analysis asks what a model holds, and where. It is a frozen dataclass of options with
``apply(model, data, generator) -> AnalysisResult``; every number stands beside what a null control gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vitmem.curvature.cache import Curvature, CurvatureConfig
from vitmem.datamodules.batch import Examples, keyed_generator
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.data import EditData
from vitmem.evaluation.predict import ExampleTable, training

EVERYTHING = frozenset({"unlabeled", "given", "retain", "forget", "validation", "initial"})  # that there is to see


@dataclass(frozen=True, eq=False)
class AnalysisResult:
    """What an analysis returns.

    Args:
        rows: JSON-able measurements, one for each setting, such as a layer and a band. A key is one of the analysis's
            ``settings``, or names a number; ``<name>_low`` and ``<name>_high`` are its 95 % interval.
        report: JSON-able facts of the whole analysis, such as ``seconds``.
        scores: by name, N numbers, one for each training example, NaN where there is none: higher is more suspect.
        arrays: by name, whatever its figure needs besides rows, such as small images.
    """

    rows: list[dict]
    report: dict
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


class MadeEdit(NamedTuple):
    """What is told of an edit of the run.

    Attributes:
        name: as it is registered.
        option: its main one; empty where it has none.
        value: of that; NaN where it is no number.
        sees: what it was told of the data.
    """

    name: str
    option: str
    value: float
    sees: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class AnalysisData:
    """What an analysis may look at: everything that the run folder knows.

    Args:
        data: the data module of the run.
        subject: id of the model: ``base``, ``retrain``, ``clean``, ``early_stop`` or an edit's.
        seed: of the run.
        seen: gives curvature and the initial weights of the base model, which may be unknown.
        reference: returns the model of another id in eval mode, or None where there is none.
        table: returns what the model of an id says of every example, measured if need be; None where there is no such
            model, or an edit's weights are not at hand and were not measured.
        edits: by id, the edits of the run that neither diverged nor left a model at chance.
        losses: returns the losses E N of the training examples over the epochs, in nats; None where none were kept.
        epochs: returns the weights that training kept, by the number of epochs after which they are; each is a function
            that reads them.
        seeds: returns the base models of the other seeds of the experiment, by seed.
        trained: epochs after which the model's weights were taken; None where they are not known.
    """

    data: MemorisationData
    subject: str
    seed: int
    seen: EditData
    reference: Callable[[str], nn.Module | None]
    table: Callable[[str], ExampleTable | None]
    edits: Callable[[], Mapping[str, MadeEdit]]
    losses: Callable[[], Tensor | None]
    epochs: Callable[[], Mapping[int, Callable[[], dict[str, Tensor]]]]
    seeds: Callable[[], Mapping[int, nn.Module]]
    trained: int | None = None

    def curvature(self, model: nn.Module, config: CurvatureConfig, *, keep: bool = True) -> Curvature:
        """Return the curvature of a model, from the run's cache if it is there.

        Args:
            model: the analysed model, or another.
            config: the options.
            keep: leave it in the cache; False for the models of others, whose spectra are not this run's.
        """
        if keep:
            return self.seen.curvature(model, config)
        return EditData(self.data, EVERYTHING).curvature(model, config)

    def training_table(self, of: str) -> ExampleTable | None:
        """Return what a model says of the training examples, in the order of their indices; as ``table``."""
        found = self.table(of)
        return None if found is None else training(found)

    def groups(self, most: int, generator: torch.Generator) -> tuple[Examples, Examples]:
        """Return memorised and clean training examples, at most so many of each, drawn at random.

        Memorised ones are to be forgotten, and the base model says their given label; clean ones are to be kept, and it
        says theirs, too. The same images serve every model of a run.

        Raises:
            ValueError: there are fewer than 2 of one kind, or nobody knows which are wrong.
        """
        self.data.need_forget_set("this analysis compares memorised with clean examples")
        table, train = self.training_table("base"), self.data.train_examples
        if table is None:
            raise ValueError("the base model of this run is not beside it; analyse it where it is")
        fits = torch.from_numpy(table.prediction == table.given)
        kinds = {"memorised": train.to_forget, "clean": train.to_retain}
        found = []
        for what, mask in kinds.items():
            positions = (mask & fits).nonzero()[:, 0]
            if len(positions) < 2:
                raise ValueError(f"the base model fits {len(positions)} {what} examples; at least 2 are needed")
            drawn = torch.randperm(len(positions), generator=generator)[:most]
            found.append(train.subset(positions[drawn].sort().values))
        return found[0], found[1]

    def drawn(self, examples: Examples, most: int, key: int = 0) -> Examples:
        """Return at most so many of some examples, drawn by the run's seed, in their order."""
        drawn = torch.randperm(len(examples), generator=keyed_generator(self.seed, 11, key))[:most]
        return examples.subset(drawn.sort().values)


@dataclass(frozen=True)
class Analysis:
    """Base of the registered analyses.

    ``settings`` names the keys of a row that say under which setting it was measured; the others are numbers.
    ``version`` is raised when the analysis finds something else with the same options: what is stored is made again.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 0

    @property
    def looks_across(self) -> bool:
        """It looks at models of other seeds, so that these must have been trained."""
        return False

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return what the analysis finds; the model itself is not changed.

        Args:
            model: the classifier, in eval mode.
            data: what there is to look at.
            generator: source of all randomness; the same for all models of a run.
        """
        raise NotImplementedError("abstract")


def check_counts(options: object, *names: str) -> None:
    """Raise ValueError unless options are at least 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name} is {getattr(options, name)}; it must be at least 1")
