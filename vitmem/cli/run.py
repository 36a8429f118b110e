"""``vitmem run``: all stages of an experiment file."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import KNOWN, RATES, add_cache, add_output, items, names, wants_help
from vitmem.runs import config

EXAMPLES = """examples:
  vitmem run experiments/digits.yaml --seeds 0,1,2     three seeds, one table with means and deviations
  vitmem run experiments/digits.yaml --dry_run         the plan: stages, what is done, time, memory and disk
"""


def main(arguments: Sequence[str]) -> None:
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
    parser.add_argument("--dry_run", action="store_true", help="print the plan and what it will take; write nothing")
    values = parser.read(options)
    plan = dataclasses.replace(experiment(values), file=file)

    from vitmem.evaluation.comparison import comparison_table
    from vitmem.evaluation.tables import terminal_table

    if values.dry_run:
        from vitmem.experiment import forecast

        print("\n".join(forecast.lines(plan, Path(values.out))))
        return
    from vitmem.experiment import run

    rows = run.run(plan, Path(values.out), force=values.force, wait=values.wait)
    print("\n" + terminal_table(rows))
    if plan.tune:
        print("\n" + comparison_table(rows))
    folder, drawn = Path(values.out) / plan.name, []
    if values.figures:
        from vitmem.experiment.drawing import draw_figures

        drawn = draw_figures(plan, Path(values.out), rows)
    print(f"\nresults: {folder / 'results.csv'}" + (f"; {len(drawn)} figures: {folder / 'figures'}" if drawn else ""))
    if values.report:
        from vitmem.cli.report import written

        print(f"report: {written(folder)}")


def add_experiment(parser) -> None:
    """Add the options of an experiment file, besides those of its base model."""
    parser.add_argument("--seeds", type=list[int] | int | str, default="0", help="comma-separated, such as 0,1,2")
    parser.add_argument("--vary_noise", type=bool, default=False, help="other wrong labels with each seed")
    parser.add_argument(
        "--references", type=list | str | None, default="clean,retrain", help="of clean, retrain, early_stop"
    )
    parser.add_argument("--edits", type=list[dict], default=[], help="each with a name and options; lists are swept")
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
