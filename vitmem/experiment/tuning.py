"""Choosing an edit's options: as many trials for every edit, on a split that reporting never uses.

Within tuning, an edit is told of half of the known wrong labels. It is scored on the other half of the known ones, and
on the validation examples of even index. What is chosen is then applied with all known wrong labels, and reported on
the unknown ones and on the other half of validation. The first trial takes the options as they are given, unless
strengths are matched (``bisection``). Trials are written as they come, so that a killed run goes on with the next.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitmem.datamodules.batch import Examples, keyed_generator, keyed_seed
from vitmem.editing.attempt import attempt
from vitmem.editing.contract import Edit, identity
from vitmem.editing.data import EditData
from vitmem.editing.known import drawn, tuning_half
from vitmem.evaluation import metrics
from vitmem.evaluation.predict import TRAIN, VALIDATION, predict
from vitmem.experiment import bisection
from vitmem.files import Damaged, cache_key, digest, parsed, read_text, write_atomically
from vitmem.models.build import with_weights
from vitmem.models.memory import ran_out
from vitmem.progress import Progress
from vitmem.registry import file_of
from vitmem.runs.contents import TRIAL, TRIALS
from vitmem.runs.trained import TrainedRun
from vitmem.shapes import Number, mismatch

VERSION = 1  # of what a trial is and how it is scored; raise it when that changes: all trials are made again
TUNERS = ("random", "tpe", "bisect")
DROP = 0.01  # of validation accuracy against the unedited model, that an edit may cost
PENALTY = 10.0
WORST = -PENALTY  # below every objective that can be measured
STARTUP = 8  # random trials before TPE learns from them


@dataclass(frozen=True)
class Tuning:
    """What is tuned, and how.

    Args:
        label: name of the file of trials.
        edit: fixed options, and the defaults that the first trial takes.
        space: what may be chosen, as ``Edit.search``.
        trials: how many.
        tuner: one of ``TUNERS``.
    """

    label: str
    edit: Edit
    space: Mapping[str, tuple]
    trials: int
    tuner: str = "random"


def objective(ground_truth: float, drop: float) -> float:
    """Return what tuning maximises: ground-truth accuracy, less a penalty for what validation loses beyond ``DROP``.

    Args:
        ground_truth: accuracy on wrongly labelled examples, in [0, 1].
        drop: validation accuracy of the unedited model minus that of the edited one.
    """
    return ground_truth - PENALTY * max(0.0, drop - DROP)


def read_space(ranges: object) -> dict[str, tuple]:
    """Return the ranges of a file, ``{option: [kind, values ...]}``, as ``Edit.search`` has them.

    Raises:
        ValueError: they are of another form.
    """
    kinds = {"log": float, "uniform": float, "int": int, "choice": lambda value: value}
    try:
        return {option: (kind, *map(kinds[kind], values)) for option, (kind, *values) in (ranges or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"search is {ranges!r}; give a mapping such as {{lr: [log, 1e-5, 1e-2], epochs: [choice, 5, 10]}}, with "
            f"log, uniform, int or choice"
        ) from error


def check_space(name: str, edit: Edit, space: Mapping[str, tuple]) -> None:
    """Raise ValueError unless every entry names an option of the edit and a kind of range that there is."""
    options = {field.name for field in dataclasses.fields(edit)}
    for option, (kind, *values) in space.items():
        ranged = kind in ("log", "uniform", "int") and len(values) == 2 and values[0] <= values[1]
        if option not in options or not (ranged or (kind == "choice" and values)) or (kind == "log" and values[0] <= 0):
            raise ValueError(
                f"the edit {name} would search {option} in {(kind, *values)}; give an option and ('log', low, high), "
                "('uniform', low, high), ('int', low, high) or ('choice', a, b, ...)"
            )


def draw(spec: tuple, generator: torch.Generator) -> object:
    """Return a value drawn from one entry of ``Edit.search``."""
    kind, *values = spec
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    if kind == "choice":
        return values[int(u * len(values))]
    low, high = values
    if kind == "int":
        return low + int(u * (high - low + 1))
    return low + u * (high - low) if kind == "uniform" else math.exp(math.log(low) + u * math.log(high / low))


def propose(tuning: Tuning, seed: int, trials: Sequence[Mapping]) -> dict:
    """Return the options of the next trial; they depend on the seed, the label and the trials before it only."""
    if tuning.tuner == "bisect":
        ((option, spec),) = tuning.space.items()
        return {option: bisection.proposed(spec, option, trials, within_drop)}
    if not trials:
        return {option: getattr(tuning.edit, option) for option in tuning.space}
    key = (seed, int(digest(tuning.label)[:12], 16), len(trials), 8)
    if tuning.tuner == "tpe":
        return _tpe(tuning.space, trials, keyed_seed(*key) % 2**32)
    generator = keyed_generator(*key)
    return {option: draw(spec, generator) for option, spec in sorted(tuning.space.items())}


def _tpe(space: Mapping[str, tuple], trials: Sequence[Mapping], seed: int) -> dict:
    """Return what Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) asks for after these trials."""
    optuna = _optuna()
    kinds = {
        "log": functools.partial(optuna.distributions.FloatDistribution, log=True),
        "uniform": optuna.distributions.FloatDistribution,
        "int": optuna.distributions.IntDistribution,
        "choice": lambda *values: optuna.distributions.CategoricalDistribution(values),
    }
    ranges = {option: kinds[spec[0]](*spec[1:]) for option, spec in sorted(space.items())}
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        try:
            known = {"params": trial["options"], "distributions": ranges, "value": trial["objective"]}
            study.add_trial(optuna.trial.create_trial(**known))
        except ValueError:  # a default outside the range that is searched
            continue
    return study.ask(ranges).params


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ValueError("tuner: tpe needs Optuna; pip install 'vitmem[tune]', or use tuner: random") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check_tuner(tuner: str, trials: int = 0) -> None:
    """Raise ValueError unless the tuner is known and installed, and has enough trials."""
    if tuner not in TUNERS:
        raise ValueError(f"tuner is {tuner!r}; choose from {', '.join(TUNERS)}")
    if tuner == "tpe":
        _optuna()
    if tuner == "bisect" and 0 < trials < bisection.FEWEST:
        raise ValueError(f"tune is {trials}; tuner: bisect needs at least {bisection.FEWEST} trials for each edit")


def check_known(number: int) -> None:
    """Raise ValueError unless so many known wrong labels can be halved."""
    if number < 2:
        raise ValueError(
            f"tuning needs at least two known wrong labels, and {number} are known; raise `known`, or choose options "
            "yourself where labels are right, or nobody knows: there is no ground truth to tune for"
        )


def check_validation(validation: Examples) -> None:
    """Raise ValueError unless there are validation images to score trials on."""
    if not len(tuning_half(validation)):
        raise ValueError(
            "tuning scores trials on validation images of even index; the data set has none; give it some, or tune: 0"
        )


class Bench:
    """One run's tuning split: what a trial may see, and what it is scored on.

    Args:
        run: the trained model.
        blind: no trial is told of a wrong label, so that all known ones are scored on.

    Raises:
        ValueError: fewer than two wrong labels are known.
    """

    def __init__(self, run: TrainedRun, blind: bool = False):
        self.run, known_N = run, run.known_noisy()
        self.fit_N = drawn(known_N, 0.5, run.data.manifest.seed, run.config.seed, 7)
        self.score_N = known_N if blind else known_N & ~self.fit_N
        check_known(int((known_N & run.data.train_examples.is_noisy).sum()))
        check_validation(run.data.validation_examples)
        self.unedited = self.measure(dict(run.model.state_dict()))

    def measure(self, state: dict[str, Tensor]) -> dict:
        """Return the accuracies of some weights on the scoring half, and their status."""
        data = self.run.data
        loaders = {
            TRAIN: data.loader(data.train_examples.subset(self.score_N)),
            VALIDATION: data.loader(tuning_half(data.validation_examples)),
        }
        table = predict(with_weights(self.run.model, state).to(self.run.device), loaders, self.run.device)
        found = metrics.compute(table)
        names = {"memorized": "memorized_accuracy", "ground_truth": "ground_truth_accuracy"}
        names["validation"] = "validation_accuracy"
        return {short: found[name].value for short, name in names.items()} | {"status": metrics.status(table)}

    def trial(self, edit: Edit, options: dict) -> dict:
        """Apply an edit with other options, and return what it cost and what it measured.

        One that diverges or cannot be applied has the worst objective, and says why in its status.
        """
        row = {"options": options, "objective": WORST, "memorized": None, "ground_truth": None, "validation": None}
        row |= {"passes": 0.0, "seconds": 0.0, "extra_memory_bytes": None}
        try:
            chosen = dataclasses.replace(edit, **options)
            data = EditData(self.run.data, chosen.sees, self.run.cache, self.fit_N, self.run.start)
            made = attempt(chosen, self.run.model, data, keyed_generator(self.run.config.seed, 5))
        except (ValueError, RuntimeError, ArithmeticError) as error:
            if ran_out(error):  # the trial could have been the best
                raise
            return row | {"status": f"failed: {' '.join(str(error).split())[:300]}"}
        row |= {"passes": made.passes, "seconds": round(made.seconds, 3), "extra_memory_bytes": made.extra_memory}
        if made.result is None:
            return row | {"status": made.status}
        found = self.measure(made.result.state_dict)
        drop = self.unedited["validation"] - found["validation"]
        return row | found | {"objective": objective(found["ground_truth"], drop)}


def tune(run: TrainedRun, tuning: Tuning, *, force: bool = False) -> list[dict]:
    """Return the trials of an edit on a run, from ``tuning/<label>.jsonl`` as far as they were made.

    Args:
        run: the trained model.
        tuning: what is tuned.
        force: forget the trials that were made.
    """
    check_tuner(tuning.tuner)
    changed = {"code": code} if (code := file_of(type(tuning.edit))) else {}
    inputs = cache_key(
        VERSION,
        **changed,
        weights=run.weights_sha256,
        noise=run.noise_sha256,
        data=run.data.data.fingerprint,
        known=run.known_noisy().nonzero()[:, 0].tolist(),
        edit=[type(tuning.edit).__name__, identity(tuning.edit)],
        space=dict(tuning.space),
        tuner=tuning.tuner,
    )
    path = _file(run, tuning.label)
    trials = [] if force else _read(path, tuning, inputs)
    if len(trials) >= tuning.trials:
        return trials[: tuning.trials]
    bench = Bench(run, blind=tuning.tuner == "bisect" and "forget" not in tuning.edit.sees)
    path.parent.mkdir(exist_ok=True)
    progress = Progress(f"{run.path}: trials of {tuning.label}", tuning.trials - len(trials))
    while len(trials) < tuning.trials:
        options = propose(tuning, run.config.seed, trials)
        trials.append({"number": len(trials), **bench.trial(tuning.edit, options)})
        head = {"inputs": inputs, "unedited": bench.unedited}
        lines = [{**head, "checksum": digest([head, *trials])}, *trials]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))
        if trials[-1]["status"] != "ok":
            print(f"{tuning.label}: trial {len(trials) - 1} {options}: {trials[-1]['status']}", flush=True)
        progress.step()
    return trials


def _file(run: TrainedRun, label: str) -> Path:
    return run.path / "tuning" / f"{label}.jsonl"


def trials_made(run: TrainedRun, label: str) -> int:
    """Return how many trials the file of a label holds, whatever their inputs; none if it is damaged."""
    try:
        return len(read_trials(_file(run, label))[1])
    except Damaged:
        return 0


def _read(path: Path, tuning: Tuning, inputs: str) -> list[dict]:
    """Return the trials of a file; none if it is missing, damaged, or of other inputs."""
    try:
        head, trials = read_trials(path)
    except Damaged:
        return []
    options = set(tuning.space)
    return trials if head["inputs"] == inputs and all(options == t["options"].keys() for t in trials) else []


def read_trials(path: Path) -> tuple[dict, list[dict]]:
    """Return the first line of a file of trials, which says what they belong to, and the trials.

    Raises:
        Damaged: it is missing, malformed, or was changed after it was written.
    """
    lines = [parsed(line, path) for line in read_text(path).splitlines()] or [None]
    for number, line in enumerate(lines):
        if why := mismatch(line, {**TRIAL, "number": Number(number - 1, number - 1)} if number else TRIALS):
            raise Damaged(f"{path} is malformed in line {number + 1}: {why}")
    head, *trials = lines
    if any(trial["status"] == "ok" and None in (trial["memorized"], trial["ground_truth"]) for trial in trials):
        raise Damaged(f"{path} is malformed: a trial is ok, and was not measured")
    if "checksum" in head and head.pop("checksum") != digest([head, *trials]):  # there was none at first
        raise Damaged(f"{path} was changed after it was written: its checksum does not fit")
    return head, trials


def best(trials: Sequence[Mapping]) -> Mapping:
    """Return the trial of the highest objective among those that cost at most ``DROP``, or of all if there is none.

    Where there is a tie, the first.
    """
    usable = _usable(trials)
    return max([t for t in usable if within_drop(t)] or usable, key=lambda trial: trial["objective"])


def within_drop(trial: Mapping) -> bool:
    """Tell whether a trial paid no penalty: validation fell by at most ``DROP``."""
    ground_truth, reached = trial["ground_truth"], trial["objective"]
    return ground_truth is not None and reached is not None and reached > ground_truth - 1e-9


def matched(target: float, trials: Sequence[Mapping]) -> Mapping:
    """Return the trial whose memorised accuracy is nearest to a target; among equals the one of highest objective."""

    def distance(trial: Mapping) -> tuple[float, float]:
        memorized = trial["memorized"]
        return (math.inf if memorized is None else abs(memorized - target), -trial["objective"])

    return min(_usable(trials), key=distance)


def _usable(trials: Sequence[Mapping]) -> Sequence[Mapping]:
    """Return the trials that neither failed nor left a model at chance, or the defaults' if there is none."""
    return [trial for trial in trials if trial["status"] == "ok"] or trials[:1]


POINTS: dict[str, Callable[[Sequence[Mapping]], Mapping]] = {
    "best": best,
    "at0.2": functools.partial(matched, 0.2),
    "at0.05": functools.partial(matched, 0.05),
}


def points(tuner: str, space: Mapping[str, tuple]) -> dict[str, Callable[[Sequence[Mapping]], Mapping]]:
    """Return how each operating point is chosen from the trials of an edit, by its name."""
    return bisection.points(next(iter(space)), best) if tuner == "bisect" else POINTS
