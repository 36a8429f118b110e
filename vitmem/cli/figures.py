"""``vitmem figures``: the figures of a finished experiment, drawn again."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import LABELS, names
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem figures runs/digits --width 3.3 --format pdf                    as wide as a column of a paper
  vitmem figures runs/digits --only frontier,bits --style talk --labels names.yaml --format svg
"""


def main(arguments: Sequence[str]) -> None:
    """Draw the figures of an experiment."""
    values = figures_parser().read(arguments)

    from vitmem.experiment.drawing import draw_again
    from vitmem.figures.style import Settings, written_as
    from vitmem.figures.tables import known_in
    from vitmem.figures.words import read_labels

    folder = Path(values.path)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give that of an experiment, such as runs/digits")
    labels = read_labels(Path(values.labels), known_in(folder)) if values.labels else {}
    chosen = Settings(values.style, values.width, tuple(names("format", values.format)), labels)
    with written_as(chosen):
        paths = draw_again(folder, names("only", values.only))
    print(f"{len(paths)} figures ({', '.join([*chosen.formats, 'csv'])}): {folder / 'figures'}")


def figures_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="vitmem figures", description="Draw the figures of a finished experiment again.")
    parser.examples = EXAMPLES
    parser.add_argument("path", type=str, help="folder of an experiment, such as runs/digits")
    what = "figures, comma-separated; default: all (`vitmem list figures`)"
    parser.add_argument("--only", type=list | str | None, default=None, help=what)
    parser.add_argument("--style", type=str, default="paper", help="paper, or talk: larger letters and lines")
    what = "inches of every figure, in place of its own; letters keep their size"
    parser.add_argument("--width", type=float | None, default=None, help=what)
    parser.add_argument("--labels", type=str | None, default=None, help=LABELS)
    what = "of pdf, png and svg, comma-separated; the CSV comes always"
    parser.add_argument("--format", type=list | str, default="pdf,png", help=what)
    return parser
