"""The ``sweep`` of an experiment file: cells, each an experiment that differs from the others in named options.

``sweep`` maps factors to what they vary; factors are crossed, and every cell has all seeds::

    sweep:
      noise.rate: [0.05, 0.1, 0.2]                              # an option and its values
      train.lr, train.epochs: [[1.0e-3, 30], [3.0e-4, 60]]      # options that change together
      size:                                                     # named points
        small: {model.width: 48, model.depth: 4}
        wide: {model.width: 192}
      edits.kfac.tokens: [cls, all]                             # of all edits with that id or registered name
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vitmem.experiment.plan import Experiment, PlannedEdit
from vitmem.files import LONGEST_NAME, check_name, digest
from vitmem.options import flat, short
from vitmem.runs.config import RunConfig
from vitmem.runs.edit import labelled
from vitmem.runs.named import read_analysis, read_attack, read_edit

MOST_CELLS = 5000
_OWN = ("known", "save_weights", "tune", "tuner", "attacked", "vary_noise")  # of an experiment, besides its base model
_LISTS = {"edits": "edit", "attacks": "attack", "analyses": "analysis"}
_READ = {"edits": read_edit, "attacks": read_attack, "analyses": read_analysis}
_FIXED = {
    *("seed", "seeds", "train_on", "references", "name", "other_rates", "figures", "report", "cache_gb"),
    *(f"trainer.{option}" for option in ("devices", "num_nodes", "strategy", "loggers", "online")),
}
_CHOICES = {"data": "name", "noise": "kind"}  # the option that says which further ones a section has
Overrides = Mapping[str, object]  # values by dotted option


@dataclass(frozen=True)
class Point:
    """What a cell has of one factor.

    Args:
        label: part of the cell's name.
        options: values by dotted option.
        factor: its name and that of the point, where both were given.
    """

    label: str
    options: Overrides
    factor: tuple[str, str] | None = None


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep.

    Args:
        experiment: named as the cell's folder.
        columns: what tells it from other cells: values by dotted option, and names of points by factor.
    """

    experiment: Experiment
    columns: Overrides

    @property
    def is_swept(self) -> bool:
        """It is a cell of a sweep, not an experiment without one."""
        return bool(self.columns)


def cells(experiment: Experiment, sweep: Mapping) -> tuple[Cell, ...]:
    """Return the experiments that a sweep makes of one, in the order of the file; itself without a sweep.

    Args:
        experiment: what the file says besides.
        sweep: by factor, as the module's docstring shows.

    Raises:
        ValueError: an option is unknown, a value out of range, or two factors vary one option.
    """
    if not isinstance(sweep, Mapping):
        raise ValueError(f"sweep is {short(sweep)}; give options with lists of values, such as noise.rate: [0.1, 0.2]")
    if not sweep:
        return (Cell(experiment, {}),)
    factors = [_points(str(name), values) for name, values in sweep.items()]
    varied = [sorted({option for point in points for option in point.options}) for points in factors]
    if twice := next((o for o in itertools.chain(*varied) if sum(o in options for options in varied) > 1), None):
        raise ValueError(f"sweep: two factors vary {twice}; give it in one")
    if (number := math.prod(map(len, factors))) > MOST_CELLS:
        raise ValueError(f"sweep: {number:,} cells; at most {MOST_CELLS:,} are allowed: give fewer values")
    found = [_cell(experiment, points) for points in itertools.product(*factors)]
    names = [cell.experiment.name for cell in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(
            f"sweep: two cells would be called {twice!r}; give their values names, as factor: {{name: {{}}}}"
        )
    return tuple(found)


def _points(name: str, values: object) -> list[Point]:
    """Return what a factor varies."""
    where = f"sweep: {name}"
    if not isinstance(values, (list, Mapping)) or not values:
        raise ValueError(f"{where} is {short(values)}; give a list of values, or points by name with their options")
    options = [part.strip() for part in name.split(",")]
    if isinstance(values, Mapping):
        check_name(where, name)
        points = []
        for label, content in values.items():
            if content is not None and not isinstance(content, Mapping):
                raise ValueError(f"{where}: {label} is {short(content)}; give options, as {{model.width: 48}}")
            points.append(Point(check_name(where, str(label)), dict(flat(content or {})), (name, str(label))))
        return points
    if len(options) == 1:
        rows: Iterable[Sequence] = [[value] for value in values]
    elif all(isinstance(row, list) and len(row) == len(options) for row in values):
        rows = values
    else:
        raise ValueError(f"{where}: give lists of {len(options)} values, one for each of {', '.join(options)}")
    points = [dict(zip(options, row, strict=True)) for row in rows]
    return [Point("-".join(labelled(o.rpartition(".")[2], value) for o, value in p.items()), p) for p in points]


def _cell(experiment: Experiment, points: Sequence[Point]) -> Cell:
    name = "-".join(point.label for point in points)
    if len(name.encode()) > LONGEST_NAME // 2:
        name = f"{name[: LONGEST_NAME // 4]}-{digest(name)[:8]}"
    options = {option: value for point in points for option, value in point.options.items()}
    try:
        changed = dataclasses.replace(_with(experiment, options), name=check_name("sweep", name))
    except ValueError as error:
        raise ValueError(f"sweep: {name}: {error}") from error
    return Cell(changed, options | dict(point.factor for point in points if point.factor))


def _with(experiment: Experiment, options: Overrides) -> Experiment:
    """Return an experiment with other values of options."""
    own = {option: value for option, value in options.items() if option in _OWN}
    lists = {option: value for option, value in options.items() if option.partition(".")[0] in _LISTS}
    of_run = {option: value for option, value in options.items() if option not in {*own, *lists}}
    for option in of_run:
        if option in _FIXED:
            raise ValueError(f"{option} cannot be swept: it is the same in every cell")
    if isinstance(own.get("attacked"), str):
        own["attacked"] = (own["attacked"],)
    for option, value in own.items():
        if type(value) is not type(getattr(experiment, option)) and not isinstance(value, (int, float)):
            raise ValueError(f"{option} is {short(value)}; give one like {short(getattr(experiment, option))}")
    found = dataclasses.replace(experiment, **own)
    if of_run:
        found = dataclasses.replace(found, run=_run_with(found.run, of_run))
    for option, value in lists.items():
        found = _list_with(found, option, value)
    return found


def _run_with(run: RunConfig, options: Overrides) -> RunConfig:
    content = run.to_dict()
    for option, value in options.items():
        section, _, name = option.partition(".")
        if name and section in _CHOICES and name == _CHOICES[section] and content[section][name] != value:
            content[section] = {name: value}  # options of another kind do not join
    for option, value in options.items():
        section, _, name = option.partition(".")
        if not name or not isinstance(content.get(section), dict):
            raise ValueError(f"unknown option {option!r}; give one of a run, such as noise.rate or train.lr")
        content[section][name] = value
    return RunConfig.from_dict(content)


def _list_with(experiment: Experiment, option: str, value: object) -> Experiment:
    """Return an experiment whose edits, attacks or analyses of one id or name have another value of an option."""
    kind, _, rest = option.partition(".")
    its_id, _, name = rest.rpartition(".")
    what = _LISTS[kind]
    planned = getattr(experiment, kind)
    ids = {f"{what}_id", "name", "prefix"}
    chosen = [p for p in planned if its_id in {getattr(p, field, None) for field in ids}]
    if not name or not chosen:
        there = ", ".join(dict.fromkeys(p.name for p in planned)) or "none"
        raise ValueError(f"{option}: there is no {what} {its_id!r}; there are: {there}")
    if kind == "edits" and any(name == p.edit.main_option for p in chosen):
        raise ValueError(f"{option} tells results apart within a cell; give its values in the list of {kind}")
    changed = []
    for one in planned:
        if one in chosen:
            settings = dataclasses.asdict(getattr(one, what))
            given = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
            one = dataclasses.replace(one, **{what: _READ[kind](one.name, given | {name: value})})
            if isinstance(one, PlannedEdit):  # what is given is not tuned
                one = dataclasses.replace(one, space={k: v for k, v in one.space.items() if k != name})
        changed.append(one)
    return dataclasses.replace(experiment, **{kind: tuple(changed)})
