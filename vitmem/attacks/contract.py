"""The contract of an attack: what it may use, and what it returns.

An attack asks one model whether what was removed can be brought back. It is a frozen dataclass of options with
``apply(model, data, generator) -> AttackResult``; what it measures on ``base`` and ``retrain`` normalises the rest,
when results are read (``vitmem.evaluation.recovery``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.contract import EditResult


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack returns.

    Args:
        rows: JSON-able measurements, one for each setting of the attack (a step, a bit width, a point of a path). A key
            is one of the attack's ``settings`` or names a number; ``<metric>_n`` is its number of examples.
        report: JSON-able facts of the whole attack, such as ``seconds``.
    """

    rows: list[dict]
    report: dict


@dataclass(frozen=True, eq=False)
class Recipe:
    """How the run's model was trained, as a function of other examples.

    Args:
        train: trains a model on examples, with a seed, and returns it in eval mode on the run's device; checkpoints go
            into the folder, so that the same call goes on where it was cut off.
        key: tells recipes of other options, start, data or seed apart.
        tuned: the training was chosen by validation images, so that models that learn those cannot be compared with it.
    """

    train: Callable[[Examples, int, Path], nn.Module]
    key: str
    tuned: bool = False


@dataclass(frozen=True, eq=False)
class AttackData:
    """What an attack may use: everything; an attacker is not handicapped.

    Args:
        data: the data module of the run.
        subject: id of the attacked weights: ``base``, ``retrain``, ``clean`` or an edit's.
        reference: returns the model of another id in eval mode, or None where there is none.
        folder: where an attack may keep what further attacks of the same run reuse, such as shadow models.
        seed: of the run.
        again: applies the subject's own edit to a model in a round, counted from 1, statistics estimated and numbers
            drawn anew; None where the subject is no edit.
        known: N, bool, the wrong labels that the subject, or else edits with a forget set, knew; None if that was all.
        recipe: trains fresh models as the run's own was; None where it is not known how.
    """

    data: MemorisationData
    subject: str
    reference: Callable[[str], nn.Module | None]
    folder: Path
    seed: int = 0
    again: Callable[[nn.Module, int], EditResult] | None = None
    known: Tensor | None = None
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Attack:
    """Base of the registered attacks.

    ``settings`` names the keys of a row that say under which setting it was measured; the others are numbers. Rows of
    two models are compared setting by setting, so a setting must not depend on the model. ``version`` is raised when
    the attack measures something else with the same options: what is stored of it is made again.
    """

    settings: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 0

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return what the attack measures; the model itself is not changed.

        Args:
            model: the attacked classifier, in eval mode.
            data: what the attacker has.
            generator: source of all its randomness; the same for all models of a run, so that they are attacked alike.
        """
        raise NotImplementedError("abstract")
