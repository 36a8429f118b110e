"""The verbs of ``python -m vitmem``: each parses into options, calls, and prints. One module holds one verb."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from vitmem._version import __version__

USAGE = """usage: vitmem VERB ...

  train                    train a model on data with injected wrong labels
  edit NAME RUN            edit the weights of a trained model, for example: edit kfac runs/digits/seed0 --rho 0.8
  eval RUN ...             measure trained models and their edits, attack them (--attacks), and print the tables
  run EXPERIMENT.yaml      all stages of an experiment file, over its seeds
  list [WHAT]              data sets, noise kinds, models, edits, attacks and metrics, or one of them

`vitmem VERB --help` lists the options of a verb with their defaults (`vitmem edit NAME --help` those of an edit).
Exit codes: 0 done, 1 failed, 2 wrong input, 130 stopped by Ctrl-C and 143 by SIGTERM (the state is saved: the same
command goes on from there).
VITMEM_DEBUG=1 shows the traceback of an error."""

VERBS = {"train": "train", "edit": "edit", "eval": "evaluate", "run": "run", "list": "listing"}  # verb -> module


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vitmem {__version__}")
        return 0
    try:
        if arguments[0] not in VERBS:
            raise ValueError(f"unknown verb {arguments[0]!r}; verbs are: {', '.join(VERBS)}")
        return import_module(f"vitmem.cli.{VERBS[arguments[0]]}").main(arguments[1:]) or 0
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nobody is told
        return 1
    except Exception as error:
        if os.environ.get("VITMEM_DEBUG"):
            raise
        from vitmem.distributed import is_main
        from vitmem.training.errors import Interrupted, StateLost, TrainingDiverged

        if isinstance(error, (Interrupted, StateLost, TrainingDiverged)):
            if not is_main():  # it ends well here, or Lightning would kill the main process before it has told
                return 0
            return fail(str(error), getattr(error, "code", 1))
        if isinstance(error, OSError) and error.filename is not None:
            return fail(f"{error.filename} cannot be read or written: {error.strerror}", 2)
        if isinstance(error, (OSError, ValueError)):
            return fail(str(error), 2)
        raise


def fail(message: str, code: int) -> int:
    """Say what is wrong, in one line, and return the exit code."""
    print("vitmem: " + " ".join(message.split()), file=sys.stderr)
    return code


def entry() -> None:
    """Run as the console script."""
    sys.exit(main())
