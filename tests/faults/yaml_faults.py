"""Files of options that are no YAML, no files, or without bounds; and the same on the command line."""

import os
from collections.abc import Iterator

from faults.outcomes import RUN, Case

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(20)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{k + 1}: &m{k + 1} {{<<: [{', '.join([f'*m{k}'] * 9)}]}}\n" for k in range(12))
# Fault -> content, and a piece of the message.
TEXTS = {
    "nested 3,000 deep in brackets": ("a: " + "[" * 3000, "nested too deep"),
    "nested 3,000 deep in braces": ("{a: " * 3000, "nested too deep"),
    "nested 3,000 deep and closed": ("a: " + "[" * 3000 + "]" * 3000, "nested too deep"),
    "nested 500 deep by indents": ("\n".join(" " * k + "a:" for k in range(500)), "nested too deep"),
    "nested 3,000 deep by dashes": ("- " * 3000 + "a", "nested too deep"),
    "aliases of aliases": (ALIASES, "values, with aliases written out"),
    "merges of merges": (MERGES, "values, with aliases written out"),
    "an alias of its own list": ("edits: &a [*a]\n", "stands for something that it is a part of"),
    "an alias of its own mapping": ("train: &a\n  epochs: *a\n", "stands for something that it is a part of"),
    "a mapping merged into itself": ("train: &a {<<: *a}\n", "stands for something that it is a part of"),
    "an alias of nothing": ("train: *nothing\n", "undefined alias"),
    "a tag that calls": ("train: !!python/object/apply:os.system [touch called]\n", "has the tag"),
    "a tag of a date": ("name: !!timestamp 2020-01-01\n", "has the tag"),
    "a tag of bytes": ("name: !!binary aGVsbG8=\n", "has the tag"),
    "a tag of a set": ("edits: !!set {a, b}\n", "has the tag"),
    "a tag of our own": ("train: !vitmem {epochs: 1}\n", "has the tag"),
    "a number that is none": ("seed: !!int many\n", "has the tag"),
    "a number of 5,000 digits": ("seed: " + "9" * 5000, "digits"),
    "equal keys": ("train: {epochs: 1}\nseed: 1\ntrain: {epochs: 9}\n", "comes twice, in lines 1 and 3"),
    "equal keys inside": ("train:\n  epochs: 1\n  epochs: 9\n", "comes twice, in lines 2 and 3"),
    "equal keys in braces": ("train: {epochs: 1, epochs: 9}\n", "comes twice"),
    "equal keys in a list": ("edits:\n  - {name: svd, keep: 0.1, keep: 0.9}\n", "comes twice"),
    "equal keys, one quoted": ("train: {'epochs': 1, epochs: 9}\n", "comes twice"),
    "equal keys, numbers": ("1: 2\n0x1: 3\n", "comes twice"),
    "a key with a dot beside its section": ("train: {epochs: 1}\ntrain.epochs: 9\n", "is given twice"),
    "a key that is a list": ("? [a, b]\n: 1\n", "unhashable"),
    "a key that is a number": ("1: 2\n", "is no name of an option"),
    "a key that is null": ("~: 2\n", "is no name of an option"),
    "a key that is a truth": ("yes: 2\n", "is no name of an option"),
    "a key that is empty": ("'': 2\n", "is no name of an option"),
    "a key that ends in a dot": ("train.: 2\n", "is no name of an option"),
    "a key with blanks": ("'train epochs': 2\n", "is no name of an option"),
    "a key of jsonargparse": ("__path__: x\n", "is no name of an option"),
    "a key that appends": ("train: {epochs+: 2}\n", "is no name of an option"),
    "a class to import": ("train: {class_path: this.Class}\n", "is no option of a file"),
    "a class to import, in a list": ("edits: [{class_path: this.Class}]\n", "is no option of a file"),
    "another file": ("config: other.yaml\n", "is no option of a file"),
    "a pipe as another file": ("config: pipe\n", "is no option of a file"),
    "a list": ("- 1\n- 2\n", "holds a list"),
    "a text": ("train\n", "holds a str"),
    "a number": ("3\n", "holds a int"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "expected a single document"),
    "an open brace": ("train: {epochs: 1\n", "is not valid YAML"),
    "a tabulator": ("train:\n\tepochs: 1\n", "is not valid YAML"),
    "a null character": ("seed: 1\0\n", "is not valid YAML"),
    "a later YAML": ("%YAML 9.0\n---\nseed: 1\n", "is not valid YAML"),
    "a list of 3,000 values": (f"edits: [{'svd, ' * 3000}]\n", "a list of 3,000 values"),
    "a page of the web": ("<!DOCTYPE html>\n<html><body>Not found: 404</body></html>\n", "is not valid YAML"),
    "an unknown key": ("tarin: {epochs: 1}\n", "tarin"),
}
SECTION_VALUES = ("3", "[1]", "words", "a.yaml", "pipe", "true", "null")
ENTRIES = {
    "train": ("train", "--config={}", "--dry_run"),
    "run": ("run", "{}", "--dry_run"),
    "edit": ("edit", "svd", RUN, "--config={}"),
    "eval": ("eval", RUN, "--config={}"),
}
# What stands where a file of options is named, and a piece of the message.
PLACES = {
    "pipe": "is no regular file",
    "runs": "is a folder",
    "/dev/zero": "is no regular file",
    "/dev/null": "is no regular file",
    "nowhere.yaml": "there is no file",
    "a.yaml/below": "there is no file",
    "latin.yaml": "it is not UTF-8",
    "utf16.yaml": "it is not UTF-8",
    "large.yaml": "has 3,000,000,000 bytes",
    "loop.yaml": "symbolic links",
    "dangling.yaml": "there is no file",
    "x" * 300: "File name too long",
    "a\0b": "cannot be the name of a file",
    RUN + "/model.safetensors": "it is not UTF-8",
}


def scenery(folder):
    """Make what can stand where a file is expected."""
    os.mkfifo(folder / "pipe")
    (folder / "latin.yaml").write_bytes("name: é\n".encode("latin-1"))
    (folder / "utf16.yaml").write_bytes("seed: 1\n".encode("utf-16"))
    with (folder / "large.yaml").open("wb") as file:
        file.truncate(3_000_000_000)  # holes: nothing is written
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "dangling.yaml").symlink_to("nothing")
    (folder / "a.yaml").write_text("seed: 1\n")


def of_files() -> Iterator[Case]:
    """Yield the cases of files of options, for every verb that reads some."""
    for command in ENTRIES.values():
        for fault, (text, word) in TEXTS.items():
            yield Case(
                "file of options",
                fault,
                [part.format("a.yaml") for part in command],
                (word,),
                lambda folder, text=text: (folder / "a.yaml").write_text(text),
            )
        for place, word in PLACES.items():
            yield Case("file of options", place[:30], [part.format(place) for part in command], (word,), scenery)
    for section in ("data", "noise", "augment", "model", "train", "trainer"):
        for value in SECTION_VALUES:
            text = f"{section}: {value}\n"
            for verb in ("train", "run"):
                command = [part.format("a.yaml") for part in ENTRIES[verb]]
                yield Case(section, value, command, (section,), lambda folder, text=text: section_file(folder, text))


def section_file(folder, text):
    """Write a file of options beside a pipe that it may name."""
    scenery(folder)
    (folder / "a.yaml").write_text(text)


BRACES = "{a,b}" * 30
LINES = {
    "no verb": ((), ()),
    "an unknown verb": (("dance",), ("unknown verb",)),
    "an empty verb": (("",), ("unknown verb",)),
    "a section from a file": (("train", "--train=a.yaml"), ("--train is 'a.yaml'",)),
    "a section from a pipe": (("train", "--train", "pipe"), ("--train is 'pipe'",)),
    "a class to import": (("train", "--train=this.Class"), ("--train is",)),
    "a mapping for a section": (("train", "--train={class_path: this.Class}"), ("--train is",)),
    "lr inf": (("train", "--train.lr=inf"), ("train.lr",)),
    "lr .inf": (("train", "--train.lr=.inf"), ("train.lr is inf",)),
    "lr nan": (("train", "--train.lr=nan"), ("train.lr",)),
    "lr 1e308": (("train", "--train.lr=1e308"), ("train.lr is 1e+308",)),
    "lr of 400 digits": (("train", f"--train.lr={'9' * 400}"), ("too large",)),
    "lr null": (("train", "--train.lr=null"), ("train.lr",)),
    "lr empty": (("train", "--train.lr="), ("train.lr is ''",)),
    "epochs of 31 digits": (("train", f"--train.epochs={'9' * 31}"), ("train.epochs is 999",)),
    "seed empty": (("train", "--seed="), ("seed is ''",)),
    "seed without a value": (("train", "--seed"), ("--seed",)),
    "config without a value": (("train", "--config"), ("--config",)),
    "config of an open brace": (("train", "--config={a"), ("--config is '{a'",)),
    "config with equal keys": (("train", "--config={seed: 1, seed: 2}"), ("comes twice",)),
    "config nested deep": (("train", "--config={a: " + "[" * 3000), ("nested too deep",)),
    "a stray argument": (("train", "x"), ("x",)),
    "devices of 10 digits": (("train", "--trainer.devices=1000000000"), ("trainer.devices",)),
    "randaugment a billion": (("train", "--augment.randaugment=1000000000"), ("augment.randaugment",)),
    "repeats a billion": (("train", "--noise.repeats=1000000000"), ("noise.repeats",)),
    "frozen: a bomb of braces": (("train", f"--train.frozen={BRACES}"), ("stand for 1.1e+09 patterns",)),
    "frozen: 20,000 characters": (("train", f"--train.frozen={'a' * 20000}"), ("20,000 characters",)),
    "layers: a bomb of braces": (("edit", "svd", RUN, f"--layers={BRACES}"), ("stand for 1.1e+09 patterns",)),
    "layers: of norms": (("edit", "norms_off", RUN, f"--layers={BRACES}"), ("stand for 1.1e+09 patterns",)),
    "layers: 20,000 characters": (("edit", "kfac", RUN, f"--layers={'*' * 20000}"), ("20,000 characters",)),
    "layers: stars without end": (("edit", "kfac", RUN, f"--layers={'*a' * 4000}b"), ("matches no linear layer",)),
    "layers: nothing": (("edit", "kfac", RUN, "--layers="), ("no pattern",)),
    "layers: an open bracket": (("edit", "kfac", RUN, "--layers=blocks.[0"), ("matches no linear layer",)),
    "layers: a range backwards": (("edit", "kfac", RUN, "--layers=blocks.[9-0].*"), ("matches no linear layer",)),
    "a value and nothing": (("edit", "kfac", RUN, "--rho=,"), ("--rho is ','",)),
    "3,000 values": (("edit", "kfac", RUN, "--rho=" + "0.5," * 3000), ("3e+03 edits",)),
    "a product of values": (
        ("edit", "kfac", RUN, *(f"--{o}={'1,' * 100}" for o in ("rho", "draws", "top", "seed"))),
        ("1e+08 edits",),
    ),
    "an edit without a run": (("edit", "kfac"), ("run",)),
    "an edit of no name": (("edit", ""), ("unknown edit ''",)),
    "edit: id with a path": (("edit", "svd", RUN, "--id=../up"), ("--id",)),
    "edit: id of a reference": (("edit", "svd", RUN, "--id=base"), ("--id",)),
    "edit: known 0": (("edit", "svd", RUN, "--known=0"), ("known is 0",)),
    "edit: known nan": (("edit", "svd", RUN, "--known=nan"), ("known is nan",)),
    "eval: no run": (("eval",), ("runs",)),
    "eval: an empty name": (("eval", ""), ("not a run folder",)),
    "eval: no folder": (("eval", "nowhere"), ("there is no folder",)),
    "eval: a null character": (("eval", "a\0b"), ("a\\x00b",)),
    "eval: a pipe": (("eval", "pipe"), ("not a run folder",)),
    "eval: a file": (("eval", "a.yaml"), ("not a run folder",)),
    "eval: edits of no pattern": (("eval", RUN, "--edits=kfax*"), ("holds no edit 'kfax*'",)),
    "eval: a list of edits with a number": (("eval", RUN, "--edits=[kfac, 3]"), ("edits: 3",)),
    "eval: edits up the tree": (("eval", RUN, "--edits=../../../other"), ("holds no edit",)),
    "eval: 3,000 brackets of attacks": (("eval", RUN, "--attacks=" + "[" * 3000), ("unknown attack",)),
    "eval: an attack with a class to import": (("eval", RUN, "--attacks=[{class_path: this.C}]"), ("unknown attack",)),
    "eval: an attack's id with a path": (("eval", RUN, "--attacks=[{name: quantize, id: ../x}]"), ("id is '../x'",)),
    "eval: two attacks of one id": (("eval", RUN, "--attacks=quantize,quantize"), ("two attacks",)),
    "export: no run": (("export",), ("run",)),
    "export: no folder": (("export", RUN, "base"), ("folder",)),
    "export: no such edit": (("export", RUN, "nothing", "out"), ("holds no edit",)),
    "export: an id with a path": (("export", RUN, "../../up", "out"), ("../../up",)),
    "export: onto the run": (("export", RUN, "base", RUN, "--force"), ("is part of the run folder",)),
    "export: into the run": (("export", RUN, "base", f"{RUN}/evals/new"), ("is part of the run folder",)),
    "export: onto a folder with files": (("export", RUN, "base", "runs"), ("is not empty",)),
    "export: onto a pipe": (("export", RUN, "base", "pipe", "--force"), ("is no folder",)),
    "export: below a file": (("export", RUN, "base", "a.yaml/out"), ("a.yaml",)),
    "export: an empty name": (("export", RUN, "base", ""), ("is not empty",)),
    "export: a null character": (("export", RUN, "base", "a\0b"), ("a\\x00b",)),
    "export: a repository of no name": (("export", RUN, "base", "out", "--hub=../x"), ("--hub is '../x'",)),
    "clean: no run": (("clean",), ("folders",)),
    "clean: an empty name": (("clean", ""), ("not a run folder",)),
    "clean: no folder": (("clean", RUN, "nowhere"), ("there is no folder",)),
    "clean: a pipe": (("clean", "pipe"), ("not a run folder",)),
    "clean: a file": (("clean", "a.yaml"), ("not a run folder",)),
    "clean: a folder of neither": (("clean", "runs"), ("not a run folder",)),
    "clean: a kind that there is not": (("clean", RUN, "--everything"), ("everything",)),
    "clean: a value for a choice": (("clean", RUN, "--weights=some"), ("weights",)),
    "run: edits with a class to import": (("run", "a.yaml", "--edits=[{class_path: this.C}]"), ("unknown edit",)),
    "run: edits with inf": (("run", "a.yaml", "--edits=[{name: svd, keep: .inf}]"), ("edits[0].keep is inf",)),
    "run: 3,000 brackets of edits": (("run", "a.yaml", "--edits=" + "[" * 3000), ("edits is [[",)),
    "run: edits as an alias of itself": (("run", "a.yaml", "--edits=&a [*a]"), ("edits is &a",)),
    "run: a product of lists": (
        ("run", "a.yaml", f"--edits=[{{name: kfac, rho: {[0.5] * 99}, draws: {[1] * 99}}}]"),
        ("9.8e+03 edits",),
    ),
    "run: a search with inf": (("run", "a.yaml", "--edits=[{name: svd, search: {keep: [log, 1, .inf]}}]"), ("inf",)),
    "run: a search of words": (("run", "a.yaml", "--edits=[{name: svd, search: {keep: [choice, x]}}]"), ("keep",)),
    "run: a search of no kind": (("run", "a.yaml", "--edits=[{name: svd, search: {keep: [[a]]}}]"), ("search is",)),
    "run: a search that is none": (("run", "a.yaml", "--edits=[{name: svd, search: 3}]"), ("search is 3",)),
    "run: a search out of range": (("run", "a.yaml", "--edits=[{name: svd, search: {keep: [log, 1, 7]}}]"), ("keep",)),
    "run: no file": (("run",), ("needs an experiment file",)),
    "list: nothing of the name": (("list", "nothing"), ("nothing is called",)),
    "list: an empty name": (("list", ""), ("nothing is called ''",)),
    "list: two names": (("list", "edits", "attacks"), ("one name at most",)),
    "list: 50,000 characters": (("list", "x" * 50000), ("nothing is called",)),
}


def command_file(folder):
    """Make an experiment file of a seed, and what can stand where a file is expected."""
    scenery(folder)
    (folder / "a.yaml").write_text("seeds: 0\n")


LINE_CASES = [
    Case("command line", fault, command, words, command_file) for fault, (command, words) in LINES.items() if command
]
YAML_CASES = [*of_files(), *LINE_CASES]
