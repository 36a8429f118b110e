"""What an experiment file says: the grid of seeds x (base, references, edits) x attacks."""

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitmem.analysis.contract import Analysis
from vitmem.attacks.contract import Attack
from vitmem.curvature.kept import CACHE_GB, check_cache_gb
from vitmem.editing.contract import Edit
from vitmem.editing.known import check_share
from vitmem.experiment import bisection
from vitmem.experiment.tuning import check_space, check_tuner, points, read_space
from vitmem.files import check_name
from vitmem.runs.config import RunConfig
from vitmem.runs.edit import result_id
from vitmem.runs.named import read_analysis, read_attack, read_edit
from vitmem.runs.trained import BASE, REFERENCES

MOST_EDITS = 2000  # of a plan; lists that are crossed grow fast


@dataclass(frozen=True)
class PlannedEdit:
    """One edit of the grid.

    Args:
        edit_id: name of its result, such as ``kfac-rho0.95``.
        name: registered name.
        edit: the options.
        prefix: what the names of its tuned results start with.
        space: the options that tuning may choose, all but those that the file gives and those without effect.
    """

    edit_id: str
    name: str
    edit: Edit
    prefix: str = ""
    space: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class PlannedAttack:
    """One attack, to be made on several models.

    Args:
        attack_id: name of its results, such as ``relearn``.
        name: registered name.
        attack: the options.
    """

    attack_id: str
    name: str
    attack: Attack


@dataclass(frozen=True)
class PlannedAnalysis:
    """One analysis, to be made of several models.

    Args:
        analysis_id: name of its results, such as ``bands``.
        name: registered name.
        analysis: the options.
    """

    analysis_id: str
    name: str
    analysis: Analysis


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says.

    Args:
        name: folder name of the results.
        run: configuration of the base model; its seed is replaced by each of ``seeds``.
        seeds: one model is trained for each.
        vary_noise: each seed has wrong labels of its own: the seed of the noise is ``noise.seed`` plus it.
        references: which reference models to train beside it: clean, retrain, early_stop (the same training, ended at
            the evaluated epoch that is best on half of validation).
        edits: what to do with each base model.
        save_weights: store the edited weights; without them, each edit is measured and forgotten.
        known: share of the wrong labels that edits with a forget set know, in (0, 1].
        tune: trials for each edit with options to choose and each seed; 0 takes the options as they are.
        tuner: how trials are chosen: random, tpe (needs Optuna), or bisect (each edit's strength where memorised
            accuracy crosses 0.4, 0.3, 0.2 and 0.1, and where validation falls below the drop).
        attacks: what to attack the models with.
        attacked: glob patterns over the ids of the edits to attack; base and references always are.
        analyses: what to ask of the base model and of ``retrain``, where it is trained.
        cache_gb: GB of curvature that are kept in memory, and as many in the files of each run.
        other_rates: results tables of the same models and edits at other noise rates, for the scorecards.
        file: that says it; a copy stays with the results, whose rows carry its digest.
    """

    name: str
    run: RunConfig
    seeds: tuple[int, ...] = (0,)
    vary_noise: bool = False
    references: tuple[str, ...] = ("clean", "retrain")
    edits: tuple[PlannedEdit, ...] = ()
    save_weights: bool = True
    known: float = 0.5
    tune: int = 0
    tuner: str = "random"
    attacks: tuple[PlannedAttack, ...] = ()
    attacked: tuple[str, ...] = ("*",)
    analyses: tuple[PlannedAnalysis, ...] = ()
    other_rates: tuple[Path, ...] = ()
    file: Path | None = None
    cache_gb: float = CACHE_GB

    def __post_init__(self):
        check_name("name", self.name)
        check_cache_gb(self.cache_gb)
        check_share(self.known)
        if self.tune < 0:
            raise ValueError(f"tune is {self.tune}; it is the number of trials for each edit, 0 for none")
        check_tuner(self.tuner, self.tune)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; give at least one, each once")
        for reference in self.references:
            if reference not in REFERENCES or self.references.count(reference) > 1:
                raise ValueError(
                    f"references are {list(self.references)}; choose from {', '.join(REFERENCES)}, each at most once"
                )
        ids = [check_name("id", i) for planned in self.edits for i in self.result_ids(planned)]
        if twice := sorted({i for i in ids if ids.count(i) > 1} | ({BASE, *REFERENCES} & set(ids))):
            raise ValueError(f"two rows of the experiment would be called {twice[0]!r}; give one of them an `id`")
        for pattern in self.attacked if self.attacks and ids else ():
            if not fnmatch.filter(ids, pattern):
                raise ValueError(f"attacked: {pattern!r} matches no edit; there are: {', '.join(ids)}")

    def result_ids(self, planned: PlannedEdit) -> list[str]:
        """Return the names of the results of an edit: one, or one for each operating point if it is tuned."""
        space = self.space(planned)
        return [f"{planned.prefix}-{point}" for point in points(self.tuner, space)] if space else [planned.edit_id]

    def space(self, planned: PlannedEdit) -> Mapping[str, tuple]:
        """Return what tuning chooses of an edit; nothing if it is not tuned."""
        if not self.tune:
            return {}
        return bisection.strength(planned.edit.main_option, planned.space) if self.tuner == "bisect" else planned.space

    def config_of(self, seed: int, kind: str) -> RunConfig:
        """Return the configuration of a model of a seed: base or a reference."""
        noise = self.run.noise
        if self.vary_noise:
            noise = dataclasses.replace(noise, seed=noise.seed + seed)
        train_on = kind if kind in ("clean", "retrain") else "noisy"
        train = dataclasses.replace(self.run.train, early_stop=kind == "early_stop" or self.run.train.early_stop)
        return dataclasses.replace(self.run, noise=noise, seed=seed, train_on=train_on, train=train)

    @property
    def looks_across(self) -> bool:
        """An analysis looks at models of other seeds."""
        return any(one.analysis.looks_across for one in self.analyses)

    def is_attacked(self, edit_id: str) -> bool:
        """Tell whether an edit is to be attacked."""
        return bool(self.attacks) and any(fnmatch.fnmatch(edit_id, pattern) for pattern in self.attacked)


def plan_attacks(items: Sequence[Mapping | str]) -> tuple[PlannedAttack, ...]:
    """Return the attacks that the ``attacks`` list of an experiment file stands for; see ``_planned``."""
    return tuple(PlannedAttack(*planned) for planned in _planned("attacks", items, read_attack))


def plan_analyses(items: Sequence[Mapping | str]) -> tuple[PlannedAnalysis, ...]:
    """Return the analyses that the ``analyses`` list of an experiment file stands for; see ``_planned``."""
    return tuple(PlannedAnalysis(*planned) for planned in _planned("analyses", items, read_analysis))


def _planned(option: str, items: Sequence[Mapping | str], read: Callable) -> list[tuple]:
    """Return id, name and options of what a list of an experiment file stands for.

    An item is a name, or a mapping with its ``name``, options, and an ``id`` where a name occurs twice.

    Raises:
        ValueError: a name or option is unknown, a value out of range, or two have one id; the item is named.
    """
    planned: dict[str, tuple] = {}
    for number, item in enumerate(items):
        options = {"name": item} if isinstance(item, str) else dict(item)
        name, its_id = options.pop("name", None), options.pop("id", None)
        try:
            found = read(name, options)
        except ValueError as error:
            raise ValueError(f"{option}[{number}]: {error}") from error
        its_id = check_name(f"{option}[{number}]: id", its_id or name)
        if its_id in planned:
            raise ValueError(f"{option}[{number}]: two {option} would be called {its_id!r}; give one of them an `id`")
        planned[its_id] = (its_id, name, found)
    return list(planned.values())


def plan_edits(items: Sequence[Mapping]) -> tuple[PlannedEdit, ...]:
    """Return the edits that the ``edits`` list of an experiment file stands for.

    An item names an edit and gives options; an option with a list of values is swept, and several are crossed. ``id``
    replaces the edit's name in the ids of the results. ``search`` holds ranges that replace those of ``Edit.search``,
    such as ``{lr: [log, 1e-5, 1e-2]}``; tuning starts from the options given and leaves alone those without a range.

    Raises:
        ValueError: a name or option is unknown, or a value out of range; the item is named.
    """
    planned = []
    for number, item in enumerate(items):
        options = dict(item)
        name, prefix, ranges = (options.pop(key, None) for key in ("name", "id", "search"))
        swept = {key: value for key, value in options.items() if isinstance(value, list)}
        if empty := [key for key, value in swept.items() if not value]:
            raise ValueError(f"edits[{number}]: {empty[0]} is an empty list; give a value or several")
        if (crossed := len(planned) + math.prod(map(len, swept.values()))) > MOST_EDITS:
            raise ValueError(f"edits[{number}]: lists make {float(crossed):.3g} edits; a plan has at most {MOST_EDITS}")
        if prefix is not None:
            check_name(f"edits[{number}]: id", prefix)
        for values in itertools.product(*swept.values()):
            chosen = dict(zip(swept, values, strict=True))
            try:
                edit = read_edit(name, options | chosen)
            except ValueError as error:
                raise ValueError(f"edits[{number}]: {error}") from error
            label = prefix or name
            space = {option: spec for option, spec in edit.search.items() if option not in {*item, *edit.idle}}
            try:
                space |= read_space(ranges)
                check_space(name, edit, space)
                for option, (_, *values) in space.items() if ranges else ():
                    for value in values:
                        read_edit(name, options | chosen | {option: value})
            except ValueError as error:
                raise ValueError(f"edits[{number}]: {error}") from error
            tuned = result_id(label, edit, tuple(swept)) if swept else label
            planned.append(PlannedEdit(result_id(label, edit, tuple(swept)), name, edit, tuned, space))
    return tuple(told_apart(planned))


def told_apart(planned: Sequence[PlannedEdit]) -> list[PlannedEdit]:
    """Return planned edits with ids that carry the options in which edits of one id differ."""
    found = []
    for item in planned:
        same = [other for other in planned if other.edit_id == item.edit_id and other.name == item.name]
        options = [field.name for field in dataclasses.fields(item.edit)]
        differ = [o for o in options if len({str(getattr(other.edit, o)) for other in same}) > 1]
        more = {"edit_id": result_id(item.edit_id, item.edit, differ)} if differ else {}
        if differ and item.prefix == item.edit_id:
            more["prefix"] = more["edit_id"]
        found.append(dataclasses.replace(item, **more))
    return found
