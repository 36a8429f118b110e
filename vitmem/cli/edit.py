"""``vitmem edit``: the weights of a trained model, edited."""

import contextlib
import dataclasses
import itertools
import math
import typing
from collections.abc import Sequence
from pathlib import Path

from vitmem.cli import fail
from vitmem.cli.shared import KNOWN, add_again, add_opening, place, wants_help
from vitmem.editing import edits
from vitmem.options import ActionConfigFile, summary
from vitmem.runs.named import edit_parser

MOST_SWEPT = 2000  # lists that are crossed grow fast
USAGE = """usage: vitmem edit NAME RUN [options]; `vitmem edit NAME --help` lists them

examples:
  vitmem edit kfac runs/digits/seed0 --rho 0.8
  vitmem edit svd runs/digits/seed0 --keep 0.1

edits:"""
EXAMPLES = """examples:
  vitmem edit {name} runs/digits/seed0
  vitmem edit {name} runs/digits/seed0 --{option} {values}     several in one process
"""


def main(arguments: Sequence[str]) -> int | None:
    """Edit a trained model, once or for every value of swept options."""
    if not arguments or wants_help(arguments[:1]):
        from vitmem.cli.listing import print_list

        print(USAGE)
        print_list({name: summary(cls) for name, cls in edits().items()})
        return None
    name, *rest = arguments
    _check_order(name, rest)
    parser = edit_parser(f"vitmem edit {name}", name)
    cls = edits()[name]
    option = cls().main_option or "known"
    parser.examples = EXAMPLES.format(name=name, option=option, values="0.9,0.8")
    parser.add_argument("run", type=str, help="run folder, such as runs/digits/seed0")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options")
    parser.add_argument("--id", type=str | None, default=None, help="name of the result; default: NAME and main option")
    parser.add_argument("--known", type=float, default=0.5, help=KNOWN)
    add_opening(parser)
    add_again(parser)
    once, swept = split_sweep(cls, rest)
    values = [vars(parser.read([*once, *chosen])) for chosen in swept]
    opening = {"place": place(values[0]["data"]), "cache_gb": values[0]["cache_gb"]}
    extra = {key: values[0].get(key) for key in ("run", "id", "known", "force", "wait")}
    chosen = [cls(**{f.name: options[f.name] for f in dataclasses.fields(cls)}) for options in values]
    if extra["id"] and len(chosen) > 1:
        raise ValueError(f"--id {extra['id']} would name {len(chosen)} results; leave it out: ids carry what is swept")

    from vitmem.distributed import on_main, process_group
    from vitmem.editing.known import check_share
    from vitmem.runs.folder import RunFolder, held
    from vitmem.runs.trained import TrainedRun

    check_share(extra["known"])
    with process_group(), contextlib.ExitStack() as stack:
        RunFolder(extra["run"]).read_provenance()  # says it if there is no such run
        on_main(lambda: stack.enter_context(held(Path(extra["run"]), wait=extra["wait"])))
        run = TrainedRun.open(extra["run"], verbose=True, known=extra["known"], **opening)  # as it is while it is held
        codes = [_make(run, edit, name, extra) for edit in chosen]
    return max(codes)


def _make(run, edit, name: str, extra: dict) -> int:
    from vitmem.distributed import is_main
    from vitmem.runs.edit import free_id, make_edit, result_id

    edit_id = extra["id"] or (result_id(name, edit) if extra["force"] else free_id(run, edit, name))
    content = make_edit(run, edit, name, edit_id, force=extra["force"])
    if not is_main():
        return 0
    if content["status"] != "ok":
        return fail(f"{run.path}: {edit_id} {content['status']}", 1)
    for row in content["report"]["layers"]:
        values = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "layer"]
        print("  ".join([row["layer"], *values]))
    seconds = "  ".join(f"{stage} {value:.2f} s" for stage, value in content["report"]["seconds"].items())
    print(f"{seconds}\nthe edited model is in {run.path / 'edits' / edit_id}; next: vitmem eval {run.path}", flush=True)
    return 0


def _check_order(name: str, rest: Sequence[str]) -> None:
    """Say how it is meant where the run folder comes first."""
    if name not in edits() and rest and rest[0] in edits():
        raise ValueError(f"the edit comes first, then the run folder: vitmem edit {rest[0]} {name}")


def split_sweep(cls: type, arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the arguments of all results, and those of each: one for every combination of comma-separated values.

    Options that are text by nature, such as patterns of layers, keep their commas.

    Args:
        cls: the edit.
        arguments: of the command line.
    """
    kinds = typing.get_type_hints(cls)
    text = {name for name, kind in kinds.items() if kind is str or "tuple" in str(kind)}
    sweepable = {field.name for field in dataclasses.fields(cls)} - text
    once, swept, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        option, given, value = argument.partition("=")
        if option.removeprefix("--") in sweepable and argument.startswith("--"):
            value = value if given else rest.pop(0) if rest else ""
            if "," in value:
                parts = [part.strip() for part in value.split(",") if part.strip()]
                if not parts:
                    raise ValueError(f"{option} is {value!r}; give a value, or several separated by commas")
                swept.append([f"{option}={part}" for part in parts])
                continue
            once.append(f"{option}={value}")
        else:
            once.append(argument)
    if (number := math.prod(map(len, swept))) > MOST_SWEPT:
        raise ValueError(f"the lists of values make {float(number):.3g} edits; a command makes at most {MOST_SWEPT}")
    return once, [list(chosen) for chosen in itertools.product(*swept)]
