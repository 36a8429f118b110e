"""``vitmem eval``: trained models and their edits, measured and attacked."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import RATES, add_again, add_folders, add_known, add_opening, items, names, opened
from vitmem.options import ActionConfigFile, Parser

EXAMPLES = """examples:
  vitmem eval runs/digits/seed0                                   one run and its edits
  vitmem eval runs/digits --edits 'kfac*' --attacks quantize      all seeds of an experiment, some edits, one attack
"""


def main(arguments: Sequence[str]) -> None:
    """Evaluate trained models and their edits."""
    values = eval_parser().read(arguments)

    from vitmem.editing.known import check_share
    from vitmem.evaluation.tables import terminal_table
    from vitmem.experiment import attacking, results
    from vitmem.experiment.per_example import write_per_example
    from vitmem.experiment.plan import plan_attacks
    from vitmem.runs.folder import RunFolder, held_all
    from vitmem.runs.trained import TrainedRun

    known = TrainedRun.known if values.known is None else values.known
    check_share(known)
    attacks = plan_attacks(items("attacks", values.attacks))
    others = attacking.read_results([Path(path) for path in names("other_rates", values.other_rates)])
    patterns = None if values.edits is None else names("edits", values.edits)
    paths, experiments = results.runs_in(values.runs)
    rows, attacked = [], []
    for path in paths:
        RunFolder(path).read_provenance()  # says it if there is no such run
        with held_all([path, *results.folders_beside(path).values()], wait=values.wait):
            run = opened(path, values)  # as it is while it is held
            ids = chosen_ids(run.edited(), patterns, path)
            rows += results.evaluate_folder(run, ids, force=values.force)
            measured = results.write_run_table(run)
            if not experiments:
                write_per_example(path / "evals", {run.config.seed: path}, measured)
            if attacks:
                attacked += attacking.attack_folder(run, attacks, ids, force=values.force)
                measured = results.write_run_table(run)  # some of its columns are of attacks
                attacking.write_attacks(path / "evals", attacking.all_results(run, measured), measured, others)
    rows = results.with_configurations(rows)
    tables = {folder: results.write_experiment_table(folder, known=known) for folder in experiments}
    for folder, table in tables.items():
        write_per_example(folder, results.seed_folders(folder), table)
    print(terminal_table(rows))
    if attacks:
        where = experiments or [path / "evals" for path in paths]
        for folder, table in tables.items():
            attacking.write_attacks(folder, attacking.gather_attacks(folder, table, known), table, others)
        print("\n" + attacking.scorecard_text(attacked, rows, others))
        print(f"\nattacks: {', '.join(str(folder / 'attacks.csv') for folder in where)}")


def eval_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="vitmem eval", description="Measure trained models and their edits.")
    parser.examples = EXAMPLES
    add_folders(parser, "runs")
    parser.add_argument(
        "--edits",
        type=list | str | None,
        default=None,
        help="ids or patterns such as 'kfac*', comma-separated; default: all",
    )
    parser.add_argument(
        "--attacks",
        type=list | str | None,
        default=None,
        help="names, comma-separated, or a YAML list such as '[quantize, {name: relearn, steps: 500}]'; `vitmem list`",
    )
    add_known(parser, "what an edit knew counts for its own row")
    parser.add_argument("--other_rates", type=list | str | None, default=None, help=RATES)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options")
    add_opening(parser)
    add_again(parser)
    return parser


def chosen_ids(there: Sequence[str], patterns: Sequence[str] | None, path: Path) -> list[str] | None:
    """Return the ids that patterns choose, in the patterns' order; None for all.

    Raises:
        ValueError: a pattern matches no edit of the run.
    """
    if patterns is None:
        return None
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = ["base"] if pattern == "base" else fnmatch.filter(there, pattern)
        if not found:
            raise ValueError(f"{path} holds no edit {pattern!r}; edits of this run: {', '.join(there) or 'none'}")
        chosen |= dict.fromkeys(found)
    return list(chosen)
