"""``vitmem clean``: disk freed in run and experiment folders."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import add_folders
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem clean runs/digits --dry_run             what checkpoints and curvature of all runs take
  vitmem clean runs/digits/seed0 --weights       remove the weights of edits; their results still count
"""
_DEFAULT = ("checkpoints", "factors")


def main(arguments: Sequence[str]) -> None:
    """Remove what can be made again, and print how much it was."""
    values = clean_parser().read(arguments)

    from vitmem.experiment.results import open_measured
    from vitmem.progress import size
    from vitmem.runs.clean import KINDS, clean
    from vitmem.runs.folder import RunFolder, held_all
    from vitmem.runs.trained import TrainedRun

    kinds = [kind for kind in KINDS if vars(values)[kind]] or _DEFAULT
    paths = runs_of(map(Path, values.folders))
    total = 0
    with held_all([] if values.dry_run else paths, wait=values.wait):
        finished = [path for path in paths if RunFolder(path).is_trained]
        runs = [open_measured(path, TrainedRun(path).known) for path in finished]  # says it before anything goes
        for path in paths:
            if path not in finished:
                print(f"{path}: nothing is removed: its training is not finished")
        for run in runs:
            freed = clean(run, kinds, dry_run=values.dry_run)
            print(f"{run.path}: {', '.join(one.line() for one in freed)}", flush=True)
            for one in freed:
                for why in one.kept:
                    print(f"  {one.kind} that stay: {why}", flush=True)
            total += sum(one.size for one in freed)
    print(f"{size(total)} would be freed" if values.dry_run else f"{size(total)} freed")


def runs_of(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that paths name, each once: themselves, or all in an experiment folder.

    Raises:
        ValueError: a path is neither a run folder nor one of an experiment, or a run folder cannot be read.
    """
    from vitmem.runs.folder import RunFolder

    found: dict[Path, None] = {}
    for path in paths:
        inside = [] if RunFolder(path).is_run else sorted(run for run in path.glob("seed*") if RunFolder(run).is_run)
        for run in inside or [path]:
            RunFolder(run).read_provenance()
            found[run] = None
    return list(found)


def clean_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="vitmem clean",
        description="Free disk in run folders: remove what can be made again; every result still counts. Without a "
        "choice: checkpoints and factors.",
    )
    parser.examples = EXAMPLES
    add_folders(parser)
    parser.add_argument("--checkpoints", action="store_true", help="checkpoints of trainings that are finished")
    parser.add_argument("--epochs", action="store_true", help="weights that a training kept along the way")
    parser.add_argument("--weights", action="store_true", help="weights of edits that were measured")
    parser.add_argument("--factors", action="store_true", help="sums for curvature, which are collected again")
    parser.add_argument("--dry_run", action="store_true", help="only tell what would go")
    parser.add_argument("--wait", action="store_true", help="wait while another command works in a run folder")
    return parser
