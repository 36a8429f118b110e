"""``vitmem analyse``: what a model holds, where, and who memorised what."""

from collections.abc import Sequence

from vitmem.cli.shared import add_again, add_known, add_opening, items, names, opened
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem analyse runs/digits                                 all analyses, of base and retrain of every seed
  vitmem analyse runs/digits/seed0 bands ownership           two of them, of one seed
  vitmem analyse runs/digits/seed0 bands --of 'kfac*'        of edited models
  vitmem analyse runs/digits '{name: detection, images: 1000, directions: 0}'
"""


def main(arguments: Sequence[str]) -> None:
    """Analyse trained models and their edits."""
    values = analyse_parser().read(arguments)

    from vitmem.analysis import analyses
    from vitmem.editing.known import check_share
    from vitmem.experiment import analysing, results
    from vitmem.experiment.plan import plan_analyses
    from vitmem.figures import draw_analyses
    from vitmem.runs.folder import RunFolder, held_all
    from vitmem.runs.trained import TrainedRun

    known = TrainedRun.known if values.known is None else values.known
    check_share(known)
    planned = plan_analyses(
        [part for name in values.names for part in items("analyses", parsed(name))] or [*analyses()]
    )
    paths, experiments = results.runs_in([values.run])
    patterns, written = names("of", values.of), []
    for path in paths:
        RunFolder(path).read_provenance()  # says it if there is no such run
        with held_all([path, *results.folders_beside(path).values()], wait=values.wait):
            run = opened(path, values)
            for model, edit_id in analysing.models_of(run, patterns):
                analysing.analyse_all(model, planned, edit_id, force=values.force, keep_going=not values.names)
            written = analysing.write_run_tables(run)
    for folder in experiments:
        written = analysing.write_tables(folder, known)
        drawn = draw_analyses(folder)
        print(f"{len(drawn)} figures: {folder / 'figures'}")
    print("tables: " + ", ".join(map(str, written)))


def parsed(name: str) -> list | str:
    """Return a name, or the mapping of a name with options that a command line gives as YAML."""
    if not name.lstrip().startswith(("{", "[")):
        return name
    from yaml import YAMLError

    from vitmem.yaml_files import load_yaml

    try:
        found = load_yaml(name)
    except YAMLError as error:
        raise ValueError(f"{name!r} is no YAML ({error}); write it as '{{name: bands, images: 500}}'") from error
    return found if isinstance(found, list) else [found]


def analyse_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="vitmem analyse", description="Ask what trained models and their edits hold, and where.")
    parser.examples = EXAMPLES
    parser.add_argument("run", type=str, help="a run folder, or an experiment folder: all its runs")
    what = "names, or a name with options as YAML; `vitmem list analyses`; default: all"
    parser.add_argument("names", type=str, nargs="*", help=what)
    of = "which models: base, references, ids or patterns of edits, comma-separated"
    parser.add_argument("--of", type=list | str, default="base,retrain", help=of)
    add_known(parser, "for measurements that are made anew")
    add_opening(parser)
    add_again(parser)
    return parser
