"""``vitmem export``: a model of a run, for timm and Hugging Face Transformers."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem export runs/digits/seed0 base exported/base                  the model as it was trained
  vitmem export runs/digits/seed0 kfac-rho0.8 exported/kfac --force   an edit, in place of what was exported there
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
    export(open_measured(path, TrainedRun(path).known), values.id, folder, force=values.force)
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
    parser.add_argument(
        "--hub",
        type=str | None,
        default=None,
        help="upload it to this repository of the Hugging Face hub, too; private if new; needs vitmem[hub]",
    )
    return parser
