"""``vitmem compare``: models and edits of tables of results against each other, with tests and verdicts."""

from collections.abc import Sequence
from pathlib import Path

from vitmem.cli.shared import names
from vitmem.options import Parser

EXAMPLES = """examples:
  vitmem compare runs/digits --between kfac-rho0.9,svd-keep0.1         two edits, paired over seeds
  vitmem compare runs/digits runs/noisier --all --against retrain      every edit against retrain, in each experiment
  vitmem compare runs/contest --between rewind,scale --by point        at every operating point, with interactions
  vitmem compare runs/rates --between base --by noise_rate             levels of a factor, of one model
  vitmem compare runs/digits --all --power --difference 0.05           seeds that are needed, by the sd of these
  vitmem compare --power --sd 0.05 --difference 0.02                   or of a given one
"""
BASE = "base"


def main(arguments: Sequence[str]) -> None:
    """Compare, and print tables or write them."""
    values = compare_parser().read(arguments)
    check(values)

    from vitmem.evaluation.arms import Question
    from vitmem.evaluation.formats import written
    from vitmem.experiment import comparing
    from vitmem.files import write_atomically

    difference = values.margin if values.difference is None else values.difference
    seeds = [int(count) for count in str(values.seeds).split(",")]
    results = comparing.read([Path(path) for path in values.paths])
    if values.sd is not None:
        tables = [comparing.power_of_sd(values.sd, difference, seeds)]
    else:
        question = Question(
            between=tuple(names("between", values.between)) or ("*",),
            against=tuple(names("against", values.against)) or ((BASE,) if values.all else ()),
            by=tuple(names("by", values.by)),
            metrics=tuple(names("metrics", values.metrics)),
            margin=values.margin,
            seed=values.seed,
        )
        if values.power:
            tables = comparing.powers(results, question, difference, seeds)
        else:
            tables = comparing.compared(results, question, over_examples=values.examples).tables()
    text = written(tables, values.format)
    if values.out is None:
        print(text, end="")
    elif Path(values.out).resolve() in {table.resolve() for table in results.tables}:
        raise ValueError(f"out is {values.out}, a table that is compared; give another file")
    else:
        write_atomically(Path(values.out), text)
        print(f"{len(tables)} table{'s' * (len(tables) > 1)}: {values.out}")


def check(values) -> None:
    """Raise ValueError unless options go together."""
    from vitmem.evaluation.typeset import FORMATS

    if values.sd is not None and not values.power:
        raise ValueError(f"sd is {values.sd:g}; it is for --power, give both")
    if values.sd is not None and values.paths:
        raise ValueError("sd is given beside tables, which tell it; give one of them")
    if values.sd is None and not values.paths:
        raise ValueError("nothing to compare: give folders or tables of results, or --power with --sd")
    if values.sd is None and (values.between is None) != values.all:
        raise ValueError("give what to compare: either --between A,B or --all")
    for option in ("sd", "difference"):
        if (number := vars(values)[option]) is not None and number <= 0:
            raise ValueError(f"{option} is {number:g}; expected a number above 0")
    counts = str(values.seeds).split(",")
    if not all(count.strip().isdecimal() and 2 <= int(count) <= 10**6 for count in counts):
        raise ValueError(f"seeds is {values.seeds!r}; expected whole numbers in [2, 10^6], such as 3,5,8")
    if values.format not in FORMATS:
        raise ValueError(f"format is {values.format!r}; give one of: {', '.join(FORMATS)}")


def compare_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="vitmem compare",
        description="Compare models and edits over seeds: differences with intervals, tests, Holm's correction, "
        "equivalence, verdicts. Seeds that are missing, and why, stand below the tables.",
    )
    parser.examples = EXAMPLES
    what = "experiment folders such as runs/digits, run folders, or files results.csv"
    parser.add_argument("paths", type=str, nargs="*", help=what)
    listed = list | str | None
    what = "ids, patterns of ids, families such as kfac, or tuned methods; comma-separated: each with each"
    parser.add_argument("--between", type=listed, default=None, help=what)
    parser.add_argument("--all", action="store_true", help="all models and edits, each with the baseline")
    what = "baselines, each in turn; of --all: base by default"
    parser.add_argument("--against", type=listed, default=None, help=what)
    what = "factors: columns of results.csv; compare at each level, and levels; of one model: its levels"
    parser.add_argument("--by", type=listed, default=None, help=what)
    what = "columns; default: ground truth and validation, of examples that no edit saw where they were measured"
    parser.add_argument("--metrics", type=listed, default=None, help=what)
    parser.add_argument("--margin", type=float, default=0.02, help="largest difference that does not matter")
    parser.add_argument("--examples", action="store_true", help="McNemar's tests over examples for every seed")
    parser.add_argument("--power", action="store_true", help="how many seeds are needed, and what can be detected")
    parser.add_argument("--sd", type=float | None, default=None, help="of paired differences, for --power")
    what = "true difference that --power is to find; default: the margin"
    parser.add_argument("--difference", type=float | None, default=None, help=what)
    what = "numbers of seeds for --power, comma-separated"
    parser.add_argument("--seeds", type=list[int] | int | str, default="3,5,8,10", help=what)
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap resamples and random sign flips")
    parser.add_argument("--format", type=str, default="markdown", help="one of: markdown | latex | csv")
    parser.add_argument("--out", type=str | None, default=None, help="write to this file instead of the terminal")
    return parser
