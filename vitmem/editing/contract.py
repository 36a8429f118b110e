"""The contract of an edit: what it is given, what it returns, and what it must declare.

An edit is a frozen dataclass of options with ``apply(model, data, generator) -> EditResult``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from vitmem.editing.data import EditData


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


TRACKS = ("label-free", "initial weights", "right labels", "known noisy examples")


def track(sees: frozenset[str]) -> str:
    """Return with which edits one that sees this may be compared: one of ``TRACKS``; validation labels are right."""
    if "forget" in sees:
        return TRACKS[3]
    return TRACKS[2] if sees & {"retain", "validation"} else TRACKS[1] if "initial" in sees else TRACKS[0]


@dataclass(frozen=True)
class Edit:
    """Base of the registered edits.

    ``sees`` names what the edit may read: ``unlabeled`` (training images), ``given`` (their given labels, without
    knowing which are wrong), ``retain`` (examples known to be right), ``forget`` (examples known to be wrong),
    ``validation``, and ``initial`` (the weights that training started from, no data).
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


def added(default: object, *, before: object = ...) -> object:
    """Return a dataclass field that joined an edit or attack later: results from before count as of ``before``.

    Args:
        default: of the field.
        before: with which it does what it did before, where that is not the default.
    """
    return field(default=default, metadata={"added": True} | ({} if before is ... else {"before": before}))


def _before(cls: type["DataclassInstance"]) -> dict:
    return {f.name: f.metadata.get("before", f.default) for f in fields(cls) if f.metadata.get("added")}


def completed(cls: type[Edit], options: Mapping) -> dict:
    """Return stored options with what the edit did before in place of those that it did not have then."""
    return _before(cls) | dict(options)


def identity(edit: "DataclassInstance") -> dict:
    """Return the options that tell an edit or attack from others: all but added ones that say what it did before."""
    return identifying(type(edit), {f.name: getattr(edit, f.name) for f in fields(edit)})


def identifying(cls: type["DataclassInstance"], options: Mapping) -> dict:
    """Return those of the options that ``identity`` keeps; options that the class does not have stay."""
    before = _before(cls)
    return {name: value for name, value in options.items() if name not in before or value != before[name]}
