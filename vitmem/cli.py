"""The verbs of ``python -m vitmem``: parsing and printing, no logic."""

import dataclasses
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from vitmem._version import __version__

USAGE = """usage: vitmem VERB ...

  train                    train a model on data with injected wrong labels
  edit NAME RUN            edit the weights of a trained model, for example: edit kfac runs/digits/seed0 --rho 0.8
  eval RUN                 measure a trained model and its edits, attack them (--attacks), and print the tables
  run EXPERIMENT.yaml      all stages of an experiment file, over its seeds
  list                     data sets, noise kinds, models, edits, attacks and metrics

`vitmem VERB --help` lists the options of a verb with their defaults (`vitmem edit NAME --help` those of an edit).
Exit codes: 0 done, 1 failed, 2 wrong input, 130 stopped by Ctrl-C and 143 by SIGTERM (the state is saved: the same
command goes on from there).
VITMEM_DEBUG=1 shows the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vitmem {__version__}")
        return 0
    try:
        verb = VERBS.get(arguments[0])
        if verb is None:
            raise ValueError(f"unknown verb {arguments[0]!r}; verbs are: {', '.join(VERBS)}")
        return verb(arguments[1:]) or 0
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nobody is told
        return 1
    except Exception as error:
        if os.environ.get("VITMEM_DEBUG"):
            raise
        from vitmem.distributed import is_main
        from vitmem.keeper import Interrupted, StateLost
        from vitmem.training import TrainingDiverged

        if isinstance(error, (Interrupted, StateLost, TrainingDiverged)):
            if not is_main():  # it ends well here, or Lightning would kill the main process before it has told
                return 0
            return _fail(str(error), getattr(error, "code", 1))
        if isinstance(error, OSError) and error.filename is not None:
            return _fail(f"{error.filename} cannot be read or written: {error.strerror}", 2)
        if isinstance(error, (OSError, ValueError)):
            return _fail(str(error), 2)
        raise


def _fail(message: str, code: int) -> int:
    print("vitmem: " + " ".join(message.split()), file=sys.stderr)
    return code


def entry() -> None:
    """Run as the console script."""
    sys.exit(main())


def _add_output(parser, name: str | None) -> None:
    parser.add_argument("--out", type=str, default="runs", help="folder of all experiments")
    if name is not None:
        parser.add_argument("--name", type=str, default=name, help="folder name of this experiment")
    parser.add_argument("--force", action="store_true", help="do again, and replace, what is there")


def train(arguments: Sequence[str]) -> None:
    """Train one model."""
    from vitmem import config, stages
    from vitmem.distributed import is_main, leaving_group
    from vitmem.runs import check_name

    parser = config.parser_for(
        arguments, "vitmem train", "Train a vision transformer on data with injected wrong labels, into OUT/NAME/seedK."
    )
    _add_output(parser, "default")
    parser.add_argument("--dry_run", action="store_true", help="tell the memory and time it would take; write nothing")
    values = parser.read(arguments)
    settings = config.run_config(values)
    if values.dry_run:
        from vitmem import planning
        from vitmem.trained import make_data

        print("\n".join(planning.tell(settings, make_data(settings))))
        return
    suffix = "" if settings.train_on == "noisy" else f"-{settings.train_on}"
    folder = Path(values.out) / check_name("--name", values.name) / f"seed{settings.seed}{suffix}"
    with leaving_group():
        done = stages.train(settings, folder, force=values.force)
        if is_main():
            print(f"the model is in {done.path}; next: vitmem edit kfac {done.path}, vitmem eval {done.path}")


RATES = "results.csv of the same models and edits at other noise rates, for the scorecards"
KNOWN = "share of the wrong labels that edits with a forget set know, in (0, 1]"


def edit(arguments: Sequence[str]) -> int | None:
    """Edit a trained model."""
    from vitmem import config, experiment
    from vitmem.distributed import is_main, process_group
    from vitmem.editing import edits
    from vitmem.editing.known import check_share
    from vitmem.trained import TrainedRun

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: vitmem edit NAME RUN [options]; `vitmem edit NAME --help` lists them\n\nedits:")
        _print_list({name: config.summary(cls) for name, cls in edits().items()})
        return None
    name, *rest = arguments
    parser = config.edit_parser(f"vitmem edit {name}", name)
    parser.add_argument("run", type=str, help="run folder, such as runs/digits/seed0")
    parser.add_argument("--config", action=config.ActionConfigFile, help="YAML file with any of these options")
    parser.add_argument("--id", type=str | None, default=None, help="name of the result; default: NAME and main option")
    parser.add_argument("--known", type=float, default=0.5, help=KNOWN)
    parser.add_argument("--force", action="store_true", help="do again, and replace, what is there")
    options = vars(parser.read(rest))
    extra = {key: options.pop(key, None) for key in ("run", "config", "id", "known", "force", "print_config")}
    chosen = edits()[name](**options)
    check_share(extra["known"])
    edit_id = extra["id"] or experiment.edit_id(name, chosen)
    with process_group():
        run = TrainedRun.open(extra["run"], verbose=True, known=extra["known"])
        content = run.edit(chosen, name, edit_id, force=extra["force"])
        if not is_main():
            return None
    if content["status"] != "ok":
        return _fail(f"{run.path}: {edit_id} {content['status']}", 1)
    for row in content["report"]["layers"]:
        values = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "layer"]
        print("  ".join([row["layer"], *values]))
    seconds = "  ".join(f"{stage} {value:.2f} s" for stage, value in content["report"]["seconds"].items())
    print(f"{seconds}\nthe edited model is in {run.path / 'edits' / edit_id}; next: vitmem eval {run.path}")
    return None


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate a trained model and its edits."""
    from vitmem import config, experiment
    from vitmem.editing.known import check_share
    from vitmem.evaluation.tables import terminal_table, to_csv
    from vitmem.runs import write_atomically
    from vitmem.trained import TrainedRun

    parser = config.Parser(prog="vitmem eval", description="Measure a trained model and its edits.")
    parser.add_argument("run", type=str, help="run folder, such as runs/digits/seed0")
    parser.add_argument(
        "--edits", type=str | None, default=None, help="ids of the edits, comma-separated; default: all"
    )
    parser.add_argument(
        "--attacks",
        type=list | str | None,
        default=None,
        help="names, comma-separated, or a YAML list such as '[quantize, {name: relearn, steps: 500}]'; `vitmem list`",
    )
    parser.add_argument("--known", type=float, default=0.5, help=f"{KNOWN}; what an edit knew counts for its own row")
    parser.add_argument("--other_rates", type=list[str], default=[], help=RATES)
    parser.add_argument("--config", action=config.ActionConfigFile, help="YAML file with any of these options")
    parser.add_argument("--force", action="store_true", help="measure, and attack, again")
    values = parser.read(arguments)
    check_share(values.known)
    attacks, others = experiment.plan_attacks(_items(values.attacks)), experiment.read_results(values.other_rates)
    run = TrainedRun.open(values.run, known=values.known)
    ids = None if values.edits is None else [name for name in values.edits.split(",") if name]
    rows = experiment.evaluate_folder(run, ids, force=values.force)
    write_atomically(run.path / "evals" / "results.csv", to_csv(rows))
    print(terminal_table(rows))
    if attacks:
        results = experiment.attack_folder(run, attacks, ids, force=values.force)
        print("\n" + experiment.write_attacks(run.path / "evals", results, rows, others))
        print(f"\nattacks: {run.path / 'evals' / 'attacks.csv'}")


def _items(value: list | str | None) -> list:
    """Return a list of names and mappings from what an option may be: it, names separated by commas, or nothing."""
    items = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value or []
    if wrong := [item for item in items if not isinstance(item, (str, dict))]:
        raise ValueError(f"attacks: {wrong[0]!r} is neither a name nor a mapping with a name and options")
    return items


def run(arguments: Sequence[str]) -> None:
    """Run an experiment file."""
    from vitmem import config, experiment
    from vitmem.evaluation.comparison import comparison_table
    from vitmem.evaluation.tables import terminal_table

    help_wanted = any(argument in ("-h", "--help") for argument in arguments)
    if not help_wanted and (not arguments or arguments[0].startswith("-")):
        raise ValueError("run needs an experiment file first, for example: vitmem run experiments/digits.yaml")
    file = None if help_wanted else Path(arguments[0])
    options = list(arguments) if help_wanted else ["--config", str(file), *arguments[1:]]
    parser = config.parser_for(
        options, "vitmem run EXPERIMENT.yaml", "Train, edit, evaluate and draw, as an experiment file says."
    )
    _add_output(parser, file.stem if file else "NAME OF THE FILE")
    parser.add_argument("--seeds", type=str | int | list[int], default="0", help="comma-separated, such as 0,1,2")
    parser.add_argument("--references", type=list[str], default=list(experiment.REFERENCES), help="clean, retrain")
    parser.add_argument("--edits", type=list[dict], default=[], help="each with a name and options; lists are swept")
    parser.add_argument("--attacks", type=list | str | None, default=[], help="each a name, or one with options")
    parser.add_argument("--attacked", type=list[str], default=["*"], help="ids of the edits to attack, with * and ?")
    parser.add_argument("--other_rates", type=list[str], default=[], help=RATES)
    parser.add_argument("--save_weights", type=bool, default=True, help="store the weights of every edit")
    parser.add_argument("--known", type=float, default=0.5, help=KNOWN)
    parser.add_argument(
        "--tune", type=int, default=0, help="trials for each edit with options to search, and each seed"
    )
    parser.add_argument(
        "--tuner", type=str, default="random", help="random, or tpe (Optuna: pip install 'vitmem[tune]')"
    )
    parser.add_argument("--figures", type=bool, default=True, help="draw the figures")
    values = parser.read(options)
    if values.seed != 0 or values.train_on != "noisy":
        raise ValueError("an experiment has `seeds` and `references`; seed and train_on belong to `vitmem train`")
    plan = experiment.Experiment(
        name=values.name,
        run=config.run_config(values),
        seeds=_seeds(values.seeds),
        references=tuple(values.references or ()),
        edits=experiment.plan_edits(values.edits),
        save_weights=values.save_weights,
        known=values.known,
        tune=values.tune,
        tuner=values.tuner,
        attacks=experiment.plan_attacks(_items(values.attacks)),
        attacked=tuple(values.attacked),
        other_rates=tuple(map(Path, values.other_rates)),
    )
    rows = experiment.run(plan, Path(values.out), force=values.force)
    print("\n" + terminal_table(rows))
    if plan.tune:
        print("\n" + comparison_table(rows))
    folder = Path(values.out) / plan.name
    drawn = experiment.draw_figures(plan, Path(values.out), rows) if values.figures else []
    print(f"\nresults: {folder / 'results.csv'}" + (f"; {len(drawn)} figures: {folder / 'figures'}" if drawn else ""))


def _seeds(value: str | int | list[int]) -> tuple[int, ...]:
    if isinstance(value, list):
        return tuple(value)
    try:
        return tuple(int(part) for part in str(value).split(","))
    except ValueError:
        raise ValueError(f"seeds is {value!r}; give integers, comma-separated, such as 0,1,2") from None


def list_registered(arguments: Sequence[str]) -> None:
    """Print what is registered."""
    if arguments:
        raise ValueError(f"list takes no arguments; received {' '.join(arguments)!r}")
    from datamodules import datasets
    from datamodules.noise import NOISES
    from vitmem import config
    from vitmem.attacks import attacks
    from vitmem.editing import edits
    from vitmem.evaluation.metrics import METRICS
    from vitmem.models import SIZES

    def with_options(chosen: type) -> str:
        options = ", ".join(f"{f.name} {_default(f)}" for f in dataclasses.fields(chosen))
        indent = " " * 6
        return (
            f"{config.summary(chosen)}\n{textwrap.fill(options, 120, initial_indent=indent, subsequent_indent=indent)}"
        )

    def described(entries: dict[str, type]) -> dict[str, str]:
        return {name: config.summary(cls) for name, cls in entries.items()}

    by_track: dict[str, dict[str, str]] = {}
    for name, cls in edits().items():
        by_track.setdefault(cls().track, {})[name] = with_options(cls)
    for title, entries in (
        ("data sets", described(datasets())),
        ("noise kinds", described(NOISES)),
        ("models (and most other vit_* names of timm; width, depth, heads and patch can be given)", SIZES),
        *((f"edits, track {track} (with options and defaults)", entries) for track, entries in by_track.items()),
        ("attacks (likewise)", {n: with_options(c) for n, c in attacks().items()}),
        ("metrics", METRICS),
    ):
        print(f"{title}:")
        _print_list(entries)
        print()


def _default(option: dataclasses.Field) -> str:
    return f"[{', '.join(map(str, option.default))}]" if isinstance(option.default, tuple) else str(option.default)


def _print_list(entries: dict[str, str]) -> None:
    width = max((len(name) for name in entries), default=0)
    for name, line in entries.items():
        print(f"  {name:<{width}}  {line}")
    if not entries:
        print("  none yet")


VERBS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "train": train,
    "edit": edit,
    "eval": evaluate,
    "run": run,
    "list": list_registered,
}
