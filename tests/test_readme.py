import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from cases import vit

from vitmem.cli import main
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing.data import EditData
from vitmem.experiment.tuning import check_space

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "experiments").glob("*.md"))]
YAMLS = sorted((ROOT / "experiments").glob("*.yaml"))


READERS = ("analyse", "compare", "figures", "report", "table")


class Reached(BaseException):
    """The parser let the command through, and work would begin."""


def commands(text):
    """Return the vitmem commands of a text, in code blocks, in code spans and in YAML headers."""
    lines = [part for line in re.findall(r"(?m)^(?:    |# Command: )(.*)$", text) for part in line.split(" && ")]
    lines += [part for span in re.findall(r"`((?:vitmem|python) [^`]*)`", text) for part in span.split(" && ")]
    lines = [re.sub(r"\s+\(.*", "", line).strip() for line in lines]
    return sorted({line for line in lines if re.match(r"(python -m )?vitmem [a-z]", line) and "NAME" not in line})


ALL = sorted({command for path in (*PAGES, *YAMLS) for command in commands(path.read_text())})


def test_there_are_commands():
    assert len(ALL) > 5
    assert any("vitmem train" in command for command in ALL)
    assert any("vitmem edit" in command for command in ALL)


@pytest.mark.slow
@pytest.mark.parametrize("command", ALL)
def test_every_command_is_understood(command, monkeypatch):
    def reached(*arguments, **options):
        raise Reached

    importlib.import_module("vitmem.runs.adopt")
    for module in ("train", "edit", "evaluate", "run"):  # imported while something is patched, they would keep it
        importlib.import_module(f"vitmem.cli.{module}")
    importlib.import_module("vitmem.experiment.forecast")
    for place in ("train.train", "adopt.find_weights", "start.make_data", "folder.RunFolder.read_provenance"):
        monkeypatch.setattr(f"vitmem.runs.{place}", reached)
    monkeypatch.setattr("vitmem.experiment.run.run", reached)
    monkeypatch.setattr("vitmem.registry._LOADED", [])  # plug-ins of a command end with it
    monkeypatch.setattr("vitmem.experiment.forecast.lines", reached)
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(re.sub(r"^(python -m )?vitmem ", "", command))
    if arguments[0] == "list":
        assert main(arguments) == 0
        return
    if len(arguments) == 1 or {"RUN", "PATH", "WEIGHTS", "FILE.yaml", "--help"} & set(arguments):
        return
    if arguments[0] in READERS:  # of results that are not here: their options are understood
        module = importlib.import_module(f"vitmem.cli.{arguments[0]}")
        getattr(module, f"{arguments[0]}_parser")().read(arguments[1:])
        return
    with pytest.raises(Reached):
        main(arguments)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_experiment_files_are_complete(path):
    header = path.read_text().split("\nname:")[0]
    assert re.match("# (Claim|Question):", header)
    for word in ("# Source:", "# Command:", "# Hardware and cost:", "# Expected:"):
        assert word in header


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    text = path.read_text()
    for name in re.findall(r"`((?:vitmem|datamodules|experiments|figures|tests)/[\w./]*)`", text):
        module = ROOT / re.sub(r"\.\w+$", ".py", name)  # a name in a module: datamodules/module.Batch
        assert (ROOT / name).exists() or module.is_file(), name
    for name in re.findall(r"\]\((?!http)([^)#]*)(?:#[^)]*)?\)", text):
        assert (path.parent / name).exists(), name


def test_the_first_page_is_short_and_every_result_is_indexed():
    assert len(README.splitlines()) <= 150
    index = (ROOT / "experiments" / "README.md").read_text()
    for page in PAGES[2:]:
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def example(of: str) -> str:
    """Return the example in README that holds some words."""
    return next(source for source in re.findall(r"```python\n(.*?)```", README, flags=re.S) if of in source)


@pytest.mark.slow
def test_the_lines_for_a_model_of_your_own_work_as_they_stand(capsys):
    data = MemorisationData(Digits(), Symmetric())
    train, others = data.train_examples, data.validation_examples
    model = vit("token", classes=10, dtype=torch.float32)
    before = model.head.weight.clone()
    names: dict = {"model": model, "images": train.image, "given_labels": train.given_label}
    names |= {"true_labels": train.true_label, "other_images": others.image, "their_labels": others.true_label}
    source = example("import vitmem")
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    exec(source, names)
    assert "Metric(value=" in capsys.readouterr().out
    assert torch.equal(model.head.weight, before)  # blocks alone are edited
    assert names["edited"].status == "ok"
    assert torch.equal(model.blocks[0].mlp.fc1.weight, names["edited"].state_dict["blocks.0.mlp.fc1.weight"])


def test_the_example_of_an_edit_works():
    source = example("class Shrink")
    names: dict = {}
    exec(source, names)
    edit = names["Shrink"](factor=0.5)
    model = vit("token", classes=10, dtype=torch.float32)
    edit.check(model)
    result = edit.apply(model, EditData(MemorisationData(Digits(), Symmetric()), edit.sees), torch.Generator())
    key = "blocks.0.mlp.fc1.weight"
    assert torch.equal(result.state_dict[key], model.state_dict()[key] * 0.5)
    assert "search" not in {field.name for field in dataclasses.fields(edit)}
    check_space("shrink", edit, edit.search)


def test_the_example_of_an_edit_works_as_a_plug_in(cli, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vitmem.registry._LOADED", [])
    source = example("class Shrink")
    registers = "" if "EDITS" in source else 'EDITS = {"shrink": Shrink}\n'
    (tmp_path / "shrink.py").write_text(source + registers)
    code, out, err = cli("edit", "shrink", run_folder, "--factor=0.5,0.9", f"--plugin={tmp_path / 'shrink.py'}")
    assert code == 0, err
    assert "relative_change 0.5" in out
    assert {path.name for path in (run_folder / "edits").glob("shrink*")} == {"shrink-factor0.5", "shrink-factor0.9"}
