"""Every file of a run folder, damaged; and the commands that read it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from faults.damage import ANY, BINARY, JSON, changed, resealed, without
from faults.outcomes import EXPERIMENT, RUN, TUNED, Case

EVAL = ("eval", RUN)
QUANTIZE = ("eval", RUN, "--edits=base", "--attacks=[{name: quantize, bits: [4], groups: [32]}]")
MEMBERSHIP = ("eval", RUN, "--edits=base", "--attacks=[{name: membership, shadows: 2}]")
EDIT = ("edit", "kfac", RUN, "--rho=0.8", "--examples=200", "--id=another")
KFAC = "edits/kfac-rho0.9/"
EXPORT = ("export", RUN, "kfac-rho0.9", "out")
CLEAN = ("clean", RUN, "--checkpoints", "--weights", "--factors")
WRONG = (10**30, [])
SOME = {fault: JSON[fault] for fault in ("gone", "empty", "cut off", "a list", "a pipe")}

# File -> what can happen to it, a command that reads it, what it says, right exit codes. Sealed files are refused;
# what can be made again is.
FILES = {
    "provenance.json": (JSON, EVAL, ("not a run folder",), (2,)),
    "config.yaml": (BINARY, EVAL, ("config.yaml",), (2,)),
    "model.json": (JSON, EVAL, ("model.json",), (2,)),
    "model.safetensors": (BINARY, EVAL, ("model.safetensors",), (2,)),
    "noise.csv": (BINARY, EVAL, ("noise.csv",), (2,)),
    "noise.json": (JSON, EVAL, ("noise.json",), (2,)),
    "metrics.csv": (ANY, EVAL, ("metrics.csv",), (2,)),
    KFAC + "model.safetensors": (BINARY, EVAL, ("model.safetensors",), (2,)),
    KFAC + "model.json": (SOME, EVAL, (), (0, 2)),
    KFAC + "edit.json": (JSON, EVAL, (), (0, 2)),
    "evals/base/metrics.json": (JSON, EVAL, (), (0,)),
    "evals/base/examples.npz": (BINARY, EVAL, (), (0,)),
    "evals/base/attacks/quantize.json": (JSON, QUANTIZE, (), (0,)),
}
# Of the same files: what is exported is whole and checked; what may be somebody else's is not removed.
EXPORTED = {
    "model.json": (JSON, (2,)),
    "noise.csv": (SOME, (2,)),
    KFAC + "edit.json": (JSON, (2,)),
    KFAC + "model.safetensors": (BINARY, (2,)),
    "evals/kfac-rho0.9/metrics.json": (JSON, (0,)),  # it then says that this is missing
    "evals/base/metrics.json": (SOME, (0,)),
}
CLEANED = {
    "provenance.json": (SOME, (2,)),
    "model.safetensors": (SOME, (2,)),
    "checkpoints/last.ckpt": (BINARY, (0,)),
    KFAC + "edit.json": (JSON, (0,)),
    KFAC + "model.safetensors": (BINARY, (0,)),
    KFAC + "model.json": (SOME, (0,)),
    "evals/kfac-rho0.9/metrics.json": (SOME, (0,)),
}
# File -> places that are given values of wrong types, a command that reads it, right exit codes.
VALUES = {
    "provenance.json": ("format sha256 sha256/noise.csv pretrained_sha256", EVAL, (0, 2)),
    KFAC + "edit.json": (
        "id name main_option options inputs report weights_sha256 status cost known tuned options/rho report/layers",
        EVAL,
        (0, 2),
    ),
    "evals/base/metrics.json": (
        "id inputs metrics at_chance known metrics/memorized_accuracy metrics/memorized_accuracy/value",
        EVAL,
        (0,),
    ),
    "evals/base/attacks/quantize.json": ("rows report inputs rows/0 rows/0/bits", QUANTIZE, (0,)),
}
# What somebody may write into a file of settings and seal again. Neither is believed.
SETTINGS = {
    "empty": "",
    "a list": "[1, 2]",
    "a text": "text",
    "a tag that calls": "!!python/object/apply:os.system [touch called]",
    "an alias of itself": "&a [*a]",
    "nested 3,000 deep": "[" * 3000,
    "equal keys": "seed: 0\nseed: 1\n",
    "an unknown key": "tarin: {epochs: 1}\n",
    "a section that is none": "train: 3\n",
    "a class to import": "train: {class_path: this.Class}\n",
    "another file": "config: other.yaml\n",
    "null": "train: {epochs: null}\n",
    "a number without bounds": "train: {epochs: 1" + "0" * 30 + "}\n",
    "not finite": "train: {lr: .inf}\n",
    "no such data": "data: {name: nothing}\n",
    "a list for a name": "data: {name: [digits]}\n",
}
HEADERS = {"num_classes": (10**30, "ten", None, -1), "seed": (10**30, "x"), "rate": ("x", [], 7)}
ARGUMENTS = {
    "checkpoint_path": "evil.pth",
    "pretrained": True,
    "pretrained_cfg": {"file": "evil.pth"},
    "model_name": "resnet18",
    "embed_dim": 10**9,
    "depth": -1,
    "num_classes": "ten",
}


def cases(name: str, damages: Mapping, command: Sequence[str], words=(), codes=(2,), root=RUN) -> Iterator[Case]:
    """Yield a case for everything that can happen to a file."""
    for fault, damage in damages.items():
        allowed = {*codes, 2} if fault == "a folder" else codes  # nothing is written over a folder
        yield Case(name, fault, command, words, lambda folder, d=damage: d(folder / root / name), tuple(allowed))


def of_run_folders() -> Iterator[Case]:
    """Yield the cases of files of a finished run."""
    for name, (damages, command, words, codes) in FILES.items():
        yield from cases(name, damages, command, words, codes)
    for files, command in ((EXPORTED, EXPORT), (CLEANED, CLEAN)):
        for name, (damages, codes) in files.items():
            yield from cases(name, damages, command, (), codes)
    for name, (places, command, codes) in VALUES.items():
        damages = {
            f"{place} is {str(value)[:8]}": changed(*place.split("/"), to=value)
            for place in places.split()
            for value in WRONG
        }
        yield from cases(name, damages, command, (), codes)


def of_resealed() -> Iterator[Case]:
    """Yield the cases of files that were changed and sealed again."""
    for fault, text in SETTINGS.items():
        damage = resealed("config.yaml", lambda path, text=text: path.write_text(text))
        yield Case("config.yaml, resealed", fault, EVAL, (), lambda f, d=damage: d(f / RUN))
    for key, values in HEADERS.items():
        for value in values:
            damage = resealed("noise.json", changed(key, to=value))
            yield Case("noise.json, resealed", f"{key} is {value}", EVAL, (), lambda f, d=damage: d(f / RUN))
    for key, value in ARGUMENTS.items():
        damage = resealed("model.json", changed("timm", key, to=value))
        for command in (EDIT, ("export", RUN, "base", "out")):
            yield Case("model.json, resealed", f"{key} is {value}", command, (), lambda f, d=damage: d(f / RUN))
    rows = {"no header": "", "another header": "a,b\n1,2\n", "words": "index,true,given\n0,x,y\n", "few rows": None}
    for fault, text in rows.items():
        damage = resealed("noise.csv", lambda path, text=text: path.write_text(text or path.read_text()[:200]))
        yield Case("noise.csv, resealed", fault, EVAL, (), lambda f, d=damage: d(f / RUN))


def of_caches() -> Iterator[Case]:
    """Yield the cases of files that a command makes again if they are damaged."""
    for pattern, damages, before, command in (
        ("factors/*.safetensors", BINARY, None, EDIT),
        ("attacks/shadows-*/shadow0000.npz", BINARY, "evals/base/attacks/membership.json", MEMBERSHIP),
        ("attacks/shadows-*/memorization.npz", BINARY, "evals/base/attacks/membership.json", MEMBERSHIP),
        ("attacks/membership/base.npz", BINARY, None, MEMBERSHIP),
        ("tuning/scale.jsonl", SOME | {"not finite": JSON["not finite"]}, None, ("run", TUNED)),
    ):
        for fault, damage in damages.items():

            def both(folder: Path, pattern=pattern, damage=damage, before=before) -> None:
                (found,) = (folder / RUN).glob(pattern)
                damage(found)
                if before:
                    without(before)(folder / RUN)

            yield Case(pattern, fault, command, (), both, (0, 2) if fault == "a folder" else (0,))


def of_experiments() -> Iterator[Case]:
    """Yield the cases of files beside the runs of an experiment, and of runs that `run` finds damaged."""
    table = ("eval", RUN, "--other_rates=runs/tiny/results.csv")
    yield from cases("results.csv", BINARY, table, (), (0, 2), "runs/tiny")
    yield from cases("plan.yaml", SOME, ("eval", "runs/tiny"), (), (0, 2), "runs/tiny")
    yield from cases("results.csv", SOME, ("report", "runs/tiny"), (), (0, 2), "runs/tiny")
    for name in (KFAC + "edit.json", KFAC + "model.safetensors", "evals/kfac-rho0.9/metrics.json"):
        yield from cases(name, SOME, ("run", EXPERIMENT), (), (0, 2))
    for name in ("provenance.json", "model.safetensors", "config.yaml"):
        yield from cases(name, SOME, ("run", EXPERIMENT), (RUN,), (2,))


RUN_CASES = [*of_run_folders(), *of_resealed(), *of_caches(), *of_experiments()]
