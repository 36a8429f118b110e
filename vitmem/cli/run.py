"""``vitmem run``: all stages of an experiment file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vitmem.cli import fail
from vitmem.cli.shared import KNOWN, RATES, add_cache, add_output, items, names, wants_help
from vitmem.runs import config

EXAMPLES = """examples:
  vitmem run experiments/digits.yaml --seeds 0,1,2     three seeds, one table with means and deviations
  vitmem run experiments/digits.yaml --dry_run         the plan: stages, what is done, time, memory and disk
  vitmem run experiments/ablate_training.yaml --jobs 2   a sweep, in two processes that share the cores
  vitmem run FILE.yaml --launcher slurm --slurm partition=gpu,gpus_per_node=1 --jobs 8
"""


def main(arguments: Sequence[str]) -> int:
    """Run an experiment file."""
    asked = wants_help(arguments)
    if not asked and (not arguments or arguments[0].startswith("-")):
        raise ValueError("run needs an experiment file first, for example: vitmem run experiments/digits.yaml")
    file = None if asked else Path(arguments[0])
    options = list(arguments) if asked else ["--config", str(file), *arguments[1:]]
    parser = config.parser_for(
        options, "vitmem run EXPERIMENT.yaml", "Train, edit, evaluate and draw, as an experiment file says."
    )
    parser.examples = EXAMPLES
    add_output(parser, file.stem if file else "NAME OF THE FILE")
    add_experiment(parser)
    add_place_of_work(parser)
    values = parser.read(options)
    plan = dataclasses.replace(experiment(values), file=file)
    from vitmem.experiment.sweep import cells

    swept = cells(plan, values.sweep)
    if values.dry_run:
        from vitmem.experiment import forecast

        print("\n".join(forecast.lines(swept, Path(values.out) / plan.name)))
        return 0
    return _run(plan, swept, values)


def _run(plan, swept, values) -> int:
    """Run a plan, print its tables and draw its figures, say what failed, and return the exit code."""
    from vitmem.experiment import run
    from vitmem.experiment.jobs import check_jobs
    from vitmem.experiment.perform import How

    out, folder = Path(values.out), Path(values.out) / plan.name
    how = How(out, values.force, values.retry_failed, values.wait, values.share)
    launcher = _launcher(values, swept, folder)
    rows, board = run.run(swept, folder, how, jobs=check_jobs(values.jobs), launcher=launcher)
    try:
        if rows or not board.failures():
            _print(plan, rows, values, swept[0].is_swept)
    finally:  # also where a table, figure or report could not be written
        code = said(board)
    return code


def _print(plan, rows, values, is_sweep: bool) -> None:
    """Print the tables of an experiment, and draw its figures."""
    from vitmem.evaluation.comparison import comparison_table
    from vitmem.evaluation.tables import terminal_table

    folder = Path(values.out) / plan.name
    print("\n" + (_means(folder) if is_sweep else terminal_table(rows)))
    if plan.tune and not is_sweep:
        print("\n" + comparison_table(rows))
    shown = [] if is_sweep else _shown(plan, rows, values)
    drawn = len([path for path in shown if path.suffix == ".png"])
    print(f"\nresults: {folder / 'results.csv'}" + (f"; {drawn} figures: {folder / 'figures'}" if drawn else ""))
    for path in shown[drawn:]:
        print(f"report: {path}")


def _shown(plan, rows, values) -> list[Path]:
    """Draw the figures and write the report, if they are wanted and not there, and return their paths."""
    from vitmem.experiment.showing import show
    from vitmem.figures import figures

    out = Path(values.out)

    def made() -> list[Path]:
        from vitmem.cli.report import written
        from vitmem.experiment.drawing import draw_figures

        drawn = draw_figures(plan, out, rows) if values.figures else []
        return drawn + ([written(out / plan.name)] if values.report else [])

    wanted = [*(figures() if values.figures else ()), *(["report"] if values.report else ())]
    return show(out / plan.name, "shown", made, wanted)


def _launcher(values, swept, folder: Path):
    """Return what performs tasks elsewhere; None where this machine does.

    Raises:
        ValueError: there is no such launcher, or it cannot be used here.
    """
    if values.launcher == "local":
        if values.slurm:
            raise ValueError(f"slurm is {values.slurm!r}, but launcher is local; give --launcher slurm, too")
        return None
    if values.launcher != "slurm":
        raise ValueError(f"launcher is {values.launcher!r}; give local or slurm")
    from vitmem.experiment.forecast import minutes
    from vitmem.experiment.slurm import Slurm, read_slurm

    at_most = {"at_most": values.jobs} if values.jobs > 1 else {}
    found = Slurm(folder / "stages" / "slurm", read_slurm(values.slurm), minutes=minutes(swept[0]), **at_most)
    found.check()
    return found


def _means(folder: Path) -> str:
    """Return the table of a sweep: means over seeds, by cell and id."""
    from vitmem.experiment.tabulating import experiment_table

    return experiment_table(folder, "results").typeset("markdown", f"vitmem table {folder}")


def said(board) -> int:
    """Say which stages failed, and return the exit code: 3 if any did."""
    lines = board.told()
    for line in lines:
        fail(line, 3)
    return fail("all else is done; mend the cause, and give --retry_failed to try these again", 3) if lines else 0


def add_place_of_work(parser) -> None:
    """Add where stages are done, and which."""
    parser.add_argument("--dry_run", action="store_true", help="print the plan and what it will take; write nothing")
    parser.add_argument("--jobs", type=int, default=1, help="processes, among which cores and GPUs are shared out")
    parser.add_argument("--launcher", type=str, default="local", help="local, or slurm: a job for each model and seed")
    what = "options of sbatch for --launcher slurm, such as partition=gpu,gpus_per_node=1,time=120"
    parser.add_argument("--slurm", type=str, default="", help=what)
    parser.add_argument("--retry_failed", action="store_true", help="do again the stages that failed")
    parser.add_argument(
        "--share", type=bool, default=True, help="take over equal trainings of other experiments in OUT"
    )


def add_experiment(parser) -> None:
    """Add the options of an experiment file, besides those of its base model."""
    parser.add_argument("--seeds", type=list[int] | int | str, default="0", help="comma-separated, such as 0,1,2")
    parser.add_argument("--vary_noise", type=bool, default=False, help="other wrong labels with each seed")
    parser.add_argument(
        "--references", type=list | str | None, default="clean,retrain", help="of clean, retrain, early_stop"
    )
    parser.add_argument("--edits", type=list[dict], default=[], help="each with a name and options; lists are swept")
    parser.add_argument("--sweep", type=dict, default={}, help="options with lists of values: a cell for each")
    parser.add_argument("--attacks", type=list | str | None, default=None, help="each a name, or one with options")
    parser.add_argument("--attacked", type=list | str, default="*", help="ids of the edits to attack, with * and ?")
    parser.add_argument("--analyses", type=list | str | None, default=None, help="each a name, or one with options")
    parser.add_argument("--other_rates", type=list | str | None, default=None, help=RATES)
    parser.add_argument("--save_weights", type=bool, default=True, help="store the weights of every edit")
    parser.add_argument("--known", type=float, default=0.5, help=KNOWN)
    parser.add_argument(
        "--tune", type=int, default=0, help="trials for each edit with options to search, and each seed"
    )
    parser.add_argument(
        "--tuner", type=str, default="random", help="random, tpe (Optuna: pip install 'vitmem[tune]') or bisect"
    )
    add_cache(parser)
    parser.add_argument("--figures", type=bool, default=True, help="draw the figures")
    parser.add_argument("--report", type=bool, default=True, help="write report.html")


def experiment(values):
    """Return the experiment that parsed values describe."""
    from vitmem.experiment.plan import Experiment, plan_analyses, plan_attacks, plan_edits

    if values.seed != 0 or values.train_on != "noisy":
        raise ValueError("an experiment has `seeds` and `references`; seed and train_on belong to `vitmem train`")
    return Experiment(
        name=values.name,
        run=config.run_config(values),
        seeds=config.read_seeds(values.seeds),
        vary_noise=values.vary_noise,
        references=tuple(names("references", values.references)),
        edits=plan_edits(values.edits),
        save_weights=values.save_weights,
        known=values.known,
        tune=values.tune,
        tuner=values.tuner,
        cache_gb=values.cache_gb,
        attacks=plan_attacks(items("attacks", values.attacks)),
        analyses=plan_analyses(items("analyses", values.analyses)),
        attacked=tuple(names("attacked", values.attacked)),
        other_rates=tuple(map(Path, names("other_rates", values.other_rates))),
    )
