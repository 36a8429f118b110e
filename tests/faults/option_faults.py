"""Every option of every verb, with values that it cannot have."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping

from faults.outcomes import RUN, Case

from vitmem.attacks import attacks
from vitmem.datamodules import datasets
from vitmem.datamodules.augment import Augment
from vitmem.datamodules.noise import noises
from vitmem.editing import edits
from vitmem.models.config import ModelConfig
from vitmem.training.config import TrainConfig, TrainerConfig

HUGE = "1" + "0" * 30
# Values that no option of a type takes; null joins them where a type does not allow it.
WRONG = {
    int: ("many", HUGE, "true"),
    float: ("much", ".inf", "1e308"),
    bool: ("3", "perhaps"),
    str: ("[a]", "{a: 1}"),
    tuple: ("[null]", "[[1]]"),
    None: ("nothing of this kind", "[[]]"),  # one of some words
}
SECTIONS = {"augment": Augment, "model": ModelConfig, "train": TrainConfig, "trainer": TrainerConfig}


def wrong(kind: object) -> tuple[str, ...]:
    """Return texts of values that an option of a type cannot have."""
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    optional = len(inner) < len(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        found = WRONG[tuple]
    elif typing.get_origin(kind) is typing.Literal:
        found = WRONG[None]
    elif inner:
        found = ("{a: 1}", "[[1]]")
    else:
        found = WRONG[kind]
    return found if optional else ("null", *found)


def options(classes: Mapping[str, type]) -> Iterator[tuple[str, str, object]]:
    """Yield the class's name, the name and the type of every option; those that several classes share once."""
    seen = set()
    for owner, chosen in classes.items():
        kinds = typing.get_type_hints(chosen)
        for option in dataclasses.fields(chosen):
            if (key := (option.name, str(kinds[option.name]))) not in seen:
                seen.add(key)
                yield owner, option.name, kinds[option.name]


def of_sections() -> Iterator[Case]:
    """Yield the cases of a run's configuration, from a file."""
    parts = [(name, "", {name: chosen}) for name, chosen in SECTIONS.items()]
    parts += [("data", "name", datasets()), ("noise", "kind", noises())]
    for section, key, classes in parts:
        for owner, option, kind in options(classes):
            for value in wrong(kind):
                chosen = f"{key}: {owner}, " if key else ""
                yield Case(
                    f"{section}.{option}",
                    value,
                    ("train", "--config", "a.yaml", "--dry_run"),
                    (option,),
                    lambda folder, text=f"{section}: {{{chosen}{option}: {value}}}\n": write(folder, text),
                )


def of_edits() -> Iterator[Case]:
    """Yield the cases of the options of edits: in an experiment file, and numbers on the command line too."""
    for owner, option, kind in options(edits()):
        for value in wrong(kind):
            value = f"[{value}]" if value.startswith("[") else value  # a list of values is swept
            text = f"edits: [{{name: {owner}, {option}: {value}}}]\n"
            words = ("edits[0]", option)
            yield Case(
                f"{owner}.{option}", value, ("run", "a.yaml", "--dry_run"), words, lambda f, text=text: write(f, text)
            )
        if kind in (int, float):
            for value in (*WRONG[kind][:2], ".nan", "1.5e", ""):
                yield Case(f"--{option}", value, ("edit", owner, RUN, f"--{option}={value}"), (option,))


def of_attacks() -> Iterator[Case]:
    """Yield the cases of the options of attacks."""
    for owner, option, kind in options(attacks()):
        for value in wrong(kind):
            text = f"[{{name: {owner}, {option}: {value}}}]"
            yield Case(f"{owner}.{option}", value, ("eval", RUN, f"--attacks={text}"), (option,))


# Of an experiment, beside its base model, and what `eval` takes from a file.
KEYS = {
    "run": {
        "name": ("null", "3", "[a]", "a/b", "..", "''"),
        "seeds": ("null", "[]", "[0, 0]", "[1.5]", "[true]", "-1", "x", HUGE, "{a: 1}", "[[0]]", "''"),
        "vary_noise": ("null", "3", "perhaps"),
        "references": ("[null]", "[3]", "clen", "[clean, clean]", "3", "{a: 1}"),
        "edits": ("null", "3", "kfac", "[kfac]", "[[]]", "[{}]", "[{name: null}]", "[{name: [kfac]}]", "{name: kfac}"),
        "attacks": (
            "3",
            "[3]",
            "[null]",
            "[[]]",
            "[{}]",
            "[{name: quantize, id: ../x}]",
            "nothing",
            "{name: quantize}",
        ),
        "attacked": ("null", "[null]", "3"),
        "other_rates": ("3", "[null]", "nowhere.csv", "[a.yaml]", "runs", "[/dev/zero]"),
        "save_weights": ("null", "3", "perhaps"),
        "known": ("null", "0", "1.5", ".nan", ".inf", "x", "[0.5]"),
        "tune": ("null", "-1", "1.5", HUGE, "x", "[1]"),
        "tuner": ("null", "grid", "3", "[random]"),
        "figures": ("null", "3", "perhaps"),
        "report": ("null", "3", "perhaps"),
        "out": ("null", "3", "[a]"),
        "force": ("null", "3", "perhaps"),
        "wait": ("null", "3", "perhaps"),
        "seed": ("1",),
        "train_on": ("clean", "null"),
    },
    "eval": {
        "edits": ("3", "[3]", "[null]", "[[]]", "{a: 1}"),
        "attacks": ("3", "[3]", "[null]", "[{}]", "nothing"),
        "known": ("0", ".nan", "x"),
        "other_rates": ("3", "[null]", "nowhere.csv", "[a.yaml]"),
        "force": ("null", "3"),
        "wait": ("null", "3"),
    },
}


def of_verbs() -> Iterator[Case]:
    """Yield the cases of keys of an experiment file, and of a file of `eval`'s options."""
    for verb, keys in KEYS.items():
        command = ("run", "a.yaml") if verb == "run" else ("eval", RUN, "--config=a.yaml")
        for key, values in keys.items():
            for value in values:
                text = f"{key}: {value}\n"
                edits = "" if key == "edits" or verb == "eval" else "edits: [{name: svd}]\nattacks: [quantize]\n"
                edits = edits.replace("attacks: [quantize]\n", "") if key == "attacks" else edits
                yield Case(key, value, command, (key,), lambda folder, text=text + edits: write(folder, text))


# Of `compare`, which reads no file of options.
COMPARED = {
    "between": ("3", "[null]", "nothing*"),
    "against": ("nothing", "[3]"),
    "by": ("nothing", "[null]", "seed,seed"),
    "metrics": ("nothing", "id"),
    "margin": ("0", "-0.1", "null", ".nan", "x"),
    "format": ("html", "[csv]"),
    "seeds": ("1", "x", "3;5", "[null]"),
    "seed": ("-1", "1.5", "null"),
    "difference": ("0", ".inf", "x"),
    "out": ("runs", f"{RUN}/evals/results.csv", "nowhere/a.csv"),
}


def of_comparisons() -> Iterator[Case]:
    """Yield the cases of the options of `compare`."""
    for option, values in COMPARED.items():
        for value in values:
            what = ("--against=base",) if option == "between" else ("--all",)
            yield Case(f"--{option}", value, ("compare", RUN, *what, f"--{option}={value}"))
    for path in ("nowhere", "a.yaml", f"{RUN}/noise.csv", "/dev/null"):
        yield Case("path", path, ("compare", path, "--all"), (path,), lambda folder: write(folder, "a: 1\n"))


def write(folder, text):
    """Write a file of options."""
    (folder / "a.yaml").write_text(text)


OPTION_CASES = [*of_sections(), *of_edits(), *of_attacks(), *of_verbs(), *of_comparisons()]
