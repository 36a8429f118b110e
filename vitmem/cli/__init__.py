"""The verbs of ``python -m vitmem``: each parses into options, calls, and prints. One module holds one verb."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from vitmem._version import __version__
from vitmem.cli.launched import alone_or_launched
from vitmem.cli.output import kept

USAGE = """usage: vitmem VERB ...

  train                    train a model on data with injected wrong labels
  adopt WEIGHTS            make a run folder from weights that were trained elsewhere
  edit NAME RUN            edit the weights of a trained model, for example: edit kfac runs/digits/seed0 --rho 0.8
  eval RUN ...             measure trained models and their edits, attack them (--attacks), and print the tables
  analyse RUN [NAME ...]   ask what models hold, and where: bands, ownership, detection of wrong labels, places
  check FOLDER ...         say what is wrong in run and experiment folders: changed, damaged, stale, left over
  compare PATH ...         models and edits against each other: intervals, tests, verdicts, power (--between A,B, --all)
  report FOLDER            one HTML file of an experiment's or a run's results, which opens in any browser
  export RUN ID FOLDER     write a model, base or edited, as a folder that timm and Hugging Face Transformers open
  clean FOLDER ...         free disk: checkpoints of finished trainings, curvature, weights of edits; results stay
  run EXPERIMENT.yaml      all stages of an experiment file, over its seeds and its sweep (--jobs, --launcher slurm)
  figures EXPERIMENT       the figures of a finished experiment again: for a paper or a talk, of any width and format
  table EXPERIMENT         a table of an experiment in Markdown, LaTeX or CSV
  list [WHAT]              data sets, noise kinds, models, edits, attacks, analyses, metrics, ..., or one of them

Every verb takes --plugin FILE.py: a file of yours whose edits, attacks, metrics, ... join ours; it is code that runs.
`vitmem VERB --help` lists the options of a verb with their defaults (`vitmem edit NAME --help` those of an edit).
Exit codes: 0 done, 1 failed (check: something is wrong), 2 wrong input, 3 stages of a run failed (the rest is done),
130 stopped by Ctrl-C and 143 by SIGTERM (the state is saved: the same command goes on from there, if need be without
--force).
VITMEM_DEBUG=1 shows the traceback of an error."""

# verb -> module
VERBS = {
    "train": "train",
    "adopt": "adopt",
    "edit": "edit",
    "eval": "evaluate",
    "analyse": "analyse",
    "check": "check",
    "compare": "compare",
    "report": "report",
    "export": "export",
    "clean": "clean",
    "run": "run",
    "figures": "figures",
    "table": "table",
    "list": "listing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with kept() as said:
        try:
            code = _run(arguments)
        except SystemExit:  # of --help
            said.flush()
            if not said.error:
                raise
            code = 0
        said.flush()
        if said.error and not code:
            return fail(f"standard output is not complete ({said.error}); all else is done", 1)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vitmem {__version__}")
        return 0
    try:
        if arguments[0] not in VERBS:
            raise ValueError(f"unknown verb {arguments[0]!r}; verbs are: {', '.join(VERBS)}")
        with alone_or_launched():
            rest = without_plugins(arguments[1:])
            return import_module(f"vitmem.cli.{VERBS[arguments[0]]}").main(rest) or 0
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except Exception as error:
        if os.environ.get("VITMEM_DEBUG"):
            raise
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("vitmem"):
            return fail(
                f"{error.name} is not installed for {sys.executable}: install vitmem there with all that it needs "
                "(in its folder: pip install .), or use the Python that has it",
                1,
            )
        from vitmem.distributed import is_main
        from vitmem.models.memory import ran_out
        from vitmem.training.errors import Interrupted, StateLost, TrainingDiverged

        if isinstance(error, (Interrupted, StateLost, TrainingDiverged)):
            if not is_main():  # it ends well here, or Lightning would kill the main process before it has told
                return 0
            return fail(again(str(error), arguments), getattr(error, "code", 1))
        if ran_out(error):
            return fail(again(f"{_first(error)}; {_LOWER}", arguments), 1)
        if isinstance(error, OSError) and error.filename is not None:
            return fail(f"{error.filename} cannot be read or written: {error.strerror}", 2)
        if isinstance(error, (OSError, ValueError)):
            return fail(str(error), 2)
        raise


def without_plugins(arguments: Sequence[str]) -> list[str]:
    """Load the plug-ins that a command line names, and return the rest of it.

    Raises:
        ValueError: one cannot be loaded.
    """
    from vitmem.registry import load_plugin

    rest, found = [], iter(arguments)
    for argument in found:
        option, given, value = argument.partition("=")
        if option == "--plugin":
            load_plugin(value if given else next(found, ""))
        else:
            rest.append(argument)
    return rest


_LOWER = (
    "not enough memory: the same command goes on from what is stored; lower batch_size (for train: raise "
    "trainer.accumulate), layers_per_pass or the number of examples, or free memory"
)


_WITHOUT = {  # what goes on after a command with --force, which would do again what it has done
    "train": "the same command without --force",
    "run": "the same command without --force, which keeps what was not yet done again,",
    "eval": "the same command without --force, which keeps what was not yet done again,",
}


def again(message: str, arguments: Sequence[str]) -> str:
    """Return a message that says which command goes on.

    Args:
        message: as it is without --force.
        arguments: of the command line, the verb first.
    """
    forced = any(argument == "--force" or argument.startswith("--force=") for argument in arguments)
    return message.replace("the same command", _WITHOUT.get(arguments[0], "the same command")) if forced else message


def _first(error: BaseException) -> str:
    """Return what an error says, as far as it fits a line, or its kind."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def fail(message: str, code: int) -> int:
    """Say what is wrong, in one line, and return the exit code."""
    print("vitmem: " + one_line(message), file=sys.stderr)
    return code


LONGEST = 1500  # characters of a message; what was received may be far longer


def one_line(message: str) -> str:
    """Return a message without line breaks and control characters, and without the middle where it is very long."""
    text = " ".join(message.split())
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def entry() -> None:
    """Run as the console script."""
    sys.exit(main())
