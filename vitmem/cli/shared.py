"""Options that several verbs have."""

from collections.abc import Sequence

from vitmem.curvature.kept import CACHE_GB

RATES = "results.csv of the same models and edits at other noise rates, for the scorecards; comma-separated"
LABELS = "YAML file of `id: words`, or CSV of id,words: names in place of ids of models and edits"
KNOWN = "share of the wrong labels that edits with a forget set know, in (0, 1]"


def add_folders(parser, name: str = "folders") -> None:
    """Add which runs a verb works on."""
    what = "run folders such as runs/digits/seed0, or experiment folders: all their runs"
    parser.add_argument(name, type=str, nargs="+", help=what)


def add_output(parser, name: str | None) -> None:
    """Add where results go, and what becomes of those that are there."""
    parser.add_argument("--out", type=str, default="runs", help="folder of all experiments")
    if name is not None:
        parser.add_argument("--name", type=str, default=name, help="folder name of this experiment")
    add_again(parser)


def add_again(parser) -> None:
    """Add what to do with results that are there, and with another command that works on them."""
    parser.add_argument("--force", action="store_true", help="do again, and replace, what is there")
    parser.add_argument("--wait", action="store_true", help="wait while another command works in the same run folder")


def add_cache(parser) -> None:
    """Add how much curvature is kept."""
    what = "GB of curvature kept in memory, and as many in each run's files; what was not used longest goes first"
    parser.add_argument("--cache_gb", type=float, default=CACHE_GB, help=what)


def add_opening(parser) -> None:
    """Add how runs are opened: where their data are now, and how much curvature is kept."""
    add_place(parser)
    add_cache(parser)


def add_known(parser, more: str) -> None:
    """Add the share of wrong labels that edits know."""
    what = f"{KNOWN}; by default what each run was measured with, or 0.5; {more}"
    parser.add_argument("--known", type=float | None, default=None, help=what)


def opened(path, values):
    """Open a run with the options of ``add_opening`` and ``add_known``."""
    from vitmem.experiment.results import open_measured
    from vitmem.runs.trained import TrainedRun

    options = {"place": place(values.data), "cache_gb": values.cache_gb}
    return (
        open_measured(path, **options) if values.known is None else TrainedRun.open(path, known=values.known, **options)
    )


def add_place(parser) -> None:
    """Add where the data of runs are now."""
    for option, what in (("--data.root", "folder"), ("--data.path", "file")):
        told = f"{what} of the data, if they were moved since; a fingerprint tells whether they are the same"
        parser.add_argument(option, type=str | None, default=None, help=told)


def place(data) -> str | None:
    """Return the place that the options of ``add_place`` give; None if they give none.

    Raises:
        ValueError: they give two.
    """
    if data.root is not None and data.path is not None:
        raise ValueError("--data.root and --data.path are both given; data are in a folder or in a file: give one")
    return data.path if data.root is None else data.root


def wants_help(arguments: Sequence[str]) -> bool:
    """Tell whether help is asked for."""
    return any(argument in ("-h", "--help") for argument in arguments)


def items(option: str, value: list | str | None) -> list:
    """Return a list from what an option may be: a list, names separated by commas, or nothing."""
    found = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value or []
    if wrong := [item for item in found if not isinstance(item, (str, dict))]:
        raise ValueError(f"{option}: {wrong[0]!r} is neither a name nor a mapping with a name and options")
    return found


def names(option: str, value: list | str | None) -> list[str]:
    """Return a list of names, as ``items``; mappings are refused."""
    found = items(option, value)
    if wrong := [item for item in found if not isinstance(item, str)]:
        raise ValueError(f"{option}: {wrong[0]!r} is no name; give names, comma-separated, or a YAML list of them")
    return found
