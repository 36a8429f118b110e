"""``vitmem export``: a model of a run, for timm and Hugging Face Transformers."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem export runs/digits/seed0 base exported/base                  the model as it was trained
  vitmem export runs/digits/seed0 kfac-rho0.8 exported/kfac --force   an edit, in place of what was exported there
  vitmem export runs/digits/seed0 base exported/base --issues summed_loss   with a table of suspect labels
"""


def main(arguments: Sequence[str]) -> None:
    """Write a model as a folder that other tools open."""
    values = export_parser().read(arguments)

    from vitmem.experiment.results import open_measured
    from vitmem.runs.export import export, hub
    from vitmem.runs.folder import RunFolder
    from vitmem.runs.trained import TrainedRun

    path, folder = Path(values.run), Path(values.folder)
    RunFolder(path).read_provenance()  # says it if there is no such run
    upload = None if values.hub is None else hub(values.hub)
    run, issues = open_measured(path, TrainedRun(path).known), None
    if values.issues is not None:
        from vitmem.runs.issues import issues_csv

        issues = issues_csv(run, values.issues, values.issue_share)
    export(run, values.id, folder, force=values.force, issues=issues)
    print(f'{folder}: open it with timm.create_model("local-dir:{folder}", pretrained=True)', flush=True)
    if upload:
        print(f"uploaded: {upload(folder)}", flush=True)


def export_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="vitmem export", description="Write a model as a folder that timm and Hugging Face Transformers open."
    )
    parser.examples = EXAMPLES
    parser.add_argument("run", type=str, help="run folder, such as runs/digits/seed0")
    parser.add_argument("id", type=str, help="base, or the id of an edit in the run")
    parser.add_argument("folder", type=str, help="where to: a new or empty folder")
    parser.add_argument("--force", action="store_true", help="replace an exported model that is there")
    what = "write issues.csv, too: suspect labels in cleanlab's columns, by a score of `vitmem analyse RUN detection`"
    parser.add_argument("--issues", type=str | None, default=None, help=what)
    parser.add_argument("--issue_share", type=float, default=0.1, help="share of the examples that it marks, in (0, 1)")
    parser.add_argument(
        "--hub",
        type=str | None,
        default=None,
        help="upload it to this repository of the Hugging Face hub, too; private if new; needs vitmem[hub]",
    )
    return parser
