"""Editing, measuring and attacking a subject, in memory: nothing is written, and no model is changed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.curvature.cache import Curvature, CurvatureCache, CurvatureConfig
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.attempt import applied, attempt
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.evaluation.comparison import compare as compare_rows
from vitmem.evaluation.metrics import Metric, compute
from vitmem.evaluation.predict import predict
from vitmem.face.images import Images
from vitmem.face.subject import Subject, adopt
from vitmem.models.attention import closed_state
from vitmem.options import read_options
from vitmem.runs.named import read_attack, read_edit


@dataclass(frozen=True, eq=False)
class Edited:
    """What became of an edit.

    Args:
        state_dict: all weights, edited ones replaced, under the names of the model that was adopted; None if the edit
            diverged.
        report: of the edit: ``layers`` (one row for each edited layer), ``seconds``, ``extra_parameters``.
        status: ``ok``, or ``diverged: reason``.
        edit: its options.
        passes: examples that it was served, in training sets.
        seconds: of the whole.
    """

    state_dict: dict[str, Tensor] | None
    report: dict[str, Any]
    status: str
    edit: Edit
    passes: float
    seconds: float


Chosen = TypeVar("Chosen", Edit, Attack)
Weights = Edited | Mapping[str, Tensor] | nn.Module | None  # which weights: edited ones, or None for the subject's own


def edit(
    subject: Subject | nn.Module,
    name: str | Edit,
    train: Images | None = None,
    validation: Images | None = None,
    **options: object,
) -> Edited:
    """Edit the weights of a trained classifier, and return them; the model stays as it is.

    Args:
        subject: from ``open_run`` or ``adopt``; or a model, with ``train``.
        name: of a registered edit (``vitmem list``), or an edit with its options.
        train: where a model is given: its training images, as for ``adopt``.
        validation: likewise.
        options: of the edit, such as ``rho=0.8``; ``vitmem edit NAME --help`` lists them.

    Raises:
        ValueError: an option is unknown or out of range, or the edit cannot be applied.

    Example:
        >>> edited = vitmem.edit(subject, "kfac", rho=0.8)
        >>> model.load_state_dict(edited.state_dict)
    """
    subject = _subject(subject, train, validation)
    chosen = _chosen(name, options, Edit, read_edit)
    chosen.check(subject.model)
    data = EditData(subject.data, chosen.sees, subject.cache, subject.known_noisy, subject.initial)
    made = attempt(chosen, subject.model, data, keyed_generator(subject.seed, 5))
    state = None if made.result is None else closed_state(subject.model, made.result.state_dict)
    report = {} if made.result is None else made.result.report
    return Edited(state, report, made.status, chosen, made.passes, made.seconds)


def evaluate(
    subject: Subject | nn.Module, weights: Weights = None, train: Images | None = None, validation: Images | None = None
) -> dict[str, Metric]:
    """Measure a classifier on its training and validation images.

    Args:
        subject: from ``open_run`` or ``adopt``; or a model, with ``train``.
        weights: what ``edit`` returned, a state dict, or another model of the same kind; None: the subject's own.
        train: where a model is given: its training images, as for ``adopt``.
        validation: likewise.

    Returns:
        Each metric of ``vitmem list metrics`` with its value, its n and, for accuracies, a 95 % Wilson interval; those
        without examples are left out.

    Raises:
        ValueError: an edit that diverged has no weights.

    Example:
        >>> vitmem.evaluate(subject, edited)["memorized_accuracy"].value
    """
    subject = _subject(subject, train, validation)
    model = _model_of(subject, weights)
    found = compute(predict(model, subject.data.evaluation_loaders(), subject.device, subject.known_noisy))
    return {name: metric for name, metric in found.items() if metric.n}


def attack(
    subject: Subject | nn.Module,
    name: str | Attack,
    weights: Weights = None,
    train: Images | None = None,
    validation: Images | None = None,
    **options: object,
) -> AttackResult:
    """Ask whether what an edit removed can be brought back.

    Args:
        subject: from ``open_run`` or ``adopt``; or a model, with ``train``.
        name: of a registered attack (``vitmem list``), or an attack with its options.
        weights: what ``edit`` returned, a state dict, or another model of the same kind; None: the subject's own.
        train: where a model is given: its training images, as for ``adopt``.
        validation: likewise.
        options: of the attack, such as ``steps=100``.

    Returns:
        ``rows``, one for each setting of the attack, and a ``report``.

    Raises:
        ValueError: an option is unknown or out of range, or the attack needs what is not there.

    Example:
        >>> vitmem.attack(subject, "relearn", edited).rows
    """
    subject = _subject(subject, train, validation)
    chosen = _chosen(name, options, Attack, read_attack)
    made = weights.edit if isinstance(weights, Edited) else None
    data = AttackData(
        subject.data,
        "base" if weights is None else "edited",
        subject.reference,
        subject.folder,
        subject.seed,
        None if made is None else lambda model, number: _again(subject, made, model, number),
        subject.known_noisy if subject.known < 1 else None,
        subject.recipe,
    )
    return chosen.apply(_model_of(subject, weights), data, keyed_generator(subject.seed, 6))


def curvature_of(
    subject: Subject | nn.Module, train: Images | None = None, validation: Images | None = None, **options: object
) -> Curvature:
    """Measure the curvature of layers: eigenbases of their Kronecker factors, masses, and the weights' coordinates.

    Args:
        subject: from ``open_run`` or ``adopt``; or a model, with ``train``.
        train: where a model is given: its training images, as for ``adopt``.
        validation: likewise.
        options: of ``CurvatureConfig``, such as ``layers="blocks.*"``, ``moments="ekfac"``, ``labels="exact"``.

    Returns:
        ``layers`` by name, each with ``basis`` (eigenvectors O O and I I), ``mass`` (O I) and ``coordinates_OI``.

    Raises:
        ValueError: an option is unknown or out of range.

    Example:
        >>> vitmem.curvature_of(subject, moments="ekfac").layers["blocks.0.mlp.fc1"].mass.dense()
    """
    subject = _subject(subject, train, validation)
    config = read_options("curvature", CurvatureConfig, options)
    sees = frozenset({"unlabeled", "given", "retain", "forget", "validation"})
    data = EditData(subject.data, sees, subject.cache, subject.known_noisy)
    return data.curvature(subject.model, config)


def results(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of an experiment's or a run's table of results, numbers as numbers, unknown ones as NaN.

    Args:
        path: ``results.csv``, or the folder that holds it.

    Raises:
        ValueError: there is no such table.

    Example:
        >>> [row["memorized_accuracy"] for row in vitmem.results("runs/digits") if row["id"] == "base"]
    """
    from vitmem.experiment.comparing import table_of
    from vitmem.figures.tables import read_results

    found: list[dict[str, Any]] = read_results(table_of(Path(path)))
    return found


def compare(
    rows: list[dict[str, Any]] | str | Path,
    between: Sequence[str] | None = None,
    *,
    against: str | Sequence[str] | None = None,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    margin: float = 0.02,
) -> list[dict[str, Any]]:
    """Compare the models and edits of an experiment, paired over seeds.

    Args:
        rows: what ``results`` returns, or where the table lies.
        between: ids, patterns of ids, families or methods, as ``vitmem compare --between``; ``["*"]`` for all. Without
            it, methods are summed up at the operating points that they were tuned for.
        against: baselines that they are compared with; without ``between`` one method, by default ``kfac``.
        by: with ``between``: columns at whose values they are compared.
        metrics: with ``between``: columns; by default ground truth and validation.
        margin: with ``between``: largest difference that does not matter.

    Returns:
        With ``between`` the rows that ``vitmem compare --format csv`` writes: ``table`` is ``measured``, ``compared``,
        ``interactions`` or ``compared over examples``. Without it one row for each method and operating point: means
        over seeds, and paired differences to ``against`` with a 95 % t interval.

    Raises:
        ValueError: a name, factor or metric is not in the table.

    Example:
        >>> vitmem.compare("runs/digits", ["kfac-*"], against="base", margin=0.01)
        >>> vitmem.compare("runs/digits_contest", against="rewind")
    """
    baselines = (against,) if isinstance(against, str) else tuple(against or ())
    if between is None:
        if by or metrics or len(baselines) > 1:
            raise ValueError("by, metrics and several baselines need between, the names of what is compared")
        lines = compare_rows(rows if isinstance(rows, list) else results(rows), *baselines)
        if missing := set(baselines) - {line["method"] for line in lines}:
            raise ValueError(f"against: no method is called {missing.pop()!r}; there are: {_methods(lines)}")
        return lines
    from vitmem.evaluation.arms import Question
    from vitmem.evaluation.formats import rows_of
    from vitmem.experiment import comparing

    question = Question(tuple(between), baselines, tuple(by), tuple(metrics), margin)
    found = comparing.of_rows(rows) if isinstance(rows, list) else comparing.read([Path(rows)])
    return rows_of(comparing.compared(found, question).tables())


def _methods(lines: list[dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(line["method"] for line in lines))


def _subject(given: Subject | nn.Module, train: Images | None, validation: Images | None) -> Subject:
    if isinstance(given, Subject):
        if train is not None or validation is not None:
            raise ValueError("the subject has its data; give train and validation with a model alone")
        return given
    if not isinstance(given, nn.Module):
        raise ValueError(f"subject is a {type(given).__name__}; give what open_run or adopt returned, or a model")
    if train is None:
        raise ValueError("a model needs its training images: give train, or adopt it once with all that is known")
    return adopt(given, train, validation)


def _chosen(given: object, options: Mapping[str, object], kind: type[Chosen], read: Callable[..., Any]) -> Chosen:
    """Return an edit or attack that is given by its name and options, or as it is, some options replaced."""
    if isinstance(given, kind):
        return dataclasses.replace(given, **options) if options else given
    found: Chosen = read(given, options)
    return found


def _model_of(subject: Subject, weights: Weights) -> nn.Module:
    if weights is None:
        return subject.model
    if isinstance(weights, Edited):
        if weights.state_dict is None:
            raise ValueError(f"the edit has no weights: {weights.status}")
        weights = weights.state_dict
    return subject.with_state(weights.state_dict() if isinstance(weights, nn.Module) else weights)


def _again(subject: Subject, edit: Edit, model: nn.Module, number: int) -> EditResult:
    """Apply an edit to another model in a round, statistics estimated and numbers drawn anew."""
    data = EditData(subject.data, edit.sees, CurvatureCache(), subject.known_noisy, subject.initial)
    return applied(edit, model, data, keyed_generator(subject.seed, 5, number))
