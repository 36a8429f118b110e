"""A file of the user's own, given as ``--plugin``: what it registers joins ours in every verb."""

import csv
import hashlib
import json

import pytest

from vitmem import registry

ALL = '''
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from vitmem.attacks import Attack, AttackResult
from vitmem.datamodules.corruption import Noise
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.editing import Edit, EditResult
from vitmem.evaluation.metrics import accuracy


@dataclass(frozen=True)
class Stripes(DataSet):
    """Black and white stripes."""

    count: int = 24

    def load(self):
        label = torch.arange(self.count) % 2
        image = torch.rand(self.count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        image[label == 1, :, ::2] = 1
        return ImageData(image, label, image[:4], label[:4], ("rows", "columns"))


@dataclass(frozen=True)
class Swap(Noise):
    """The other class."""

    kind = "swap"

    def corrupt(self, label, data, rng):
        return 1 - label


@dataclass(frozen=True)
class Shrink(Edit):
    """Multiply all weights."""

    main_option = "factor"
    factor: float = 0.5

    def apply(self, model, data, generator):
        state = {key: value * self.factor for key, value in model.state_dict().items()}
        return EditResult(state, {"layers": [], "seconds": {"apply": 0.0}})


@dataclass(frozen=True)
class Poke(Attack):
    """Count the parameters."""

    def apply(self, model, data, generator):
        return AttackResult([{"parameters": float(sum(p.numel() for p in model.parameters()))}], {})


def right(table):
    """Share of all examples that get their true label."""
    return accuracy(table.prediction == table.true)


def flat(image_shape, num_classes, options):
    """Two linear layers."""
    hidden = options.get("hidden", 8)
    size = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def note(experiment_folder, out):
    """A text that says that it is a figure."""
    out.mkdir(exist_ok=True)
    (out / "note.png").write_text("figure")
    return [out / "note.png"]


class Lines:
    """Losses in a text file."""

    def __init__(self, folder, online):
        self.file = (folder / "lines.txt").open("w")

    def log(self, row):
        print(row["train_loss"], file=self.file)

    def close(self):
        self.file.close()


DATASETS, NOISES, EDITS, ATTACKS = {"stripes": Stripes}, {"swap": Swap}, {"shrink": Shrink}, {"poke": Poke}
METRICS, MODELS, FIGURES, LOGGERS = {"right": right}, {"flat": flat}, {"note": note}, {"lines": Lines}
'''
TRAIN = [
    "--data.name=stripes", "--noise.kind=swap", "--noise.rate=0.25", "--model.name=flat", "--model.options={hidden: 6}",
    "--train.epochs=2", "--train.batch_size=12", "--trainer.loggers=lines",
]  # fmt: skip


@pytest.fixture(autouse=True)
def unloaded(monkeypatch):
    """Forget, before and after, the plug-ins of this process."""
    monkeypatch.setattr(registry, "_LOADED", [])
    return registry._LOADED


@pytest.fixture
def plugin(tmp_path):
    """Write a plug-in and return its path."""

    def write(source=ALL, name="mine.py"):
        path = tmp_path / name
        path.write_text(source)
        return path

    return write


@pytest.mark.slow
def test_all_that_a_file_registers_works_in_every_verb(cli, plugin, tmp_path, unloaded):
    path = plugin()
    given = f"--plugin={path}"
    code, _, err = cli("train", given, f"--out={tmp_path}", *TRAIN)
    assert code == 0, err
    run = tmp_path / "default" / "seed0"
    assert len((run / "lines.txt").read_text().split()) == 2
    mine = {"file": "mine.py", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert json.loads((run / "provenance.json").read_text())["plugins"] == [mine]
    described = json.loads((run / "model.json").read_text())["timm"]
    assert described == {"builder": "flat", "image_shape": [1, 8, 8], "num_classes": 2, "options": {"hidden": 6}}
    assert cli("edit", "shrink", run, "--factor=0.25,0.5", "--plugin", path)[0] == 0
    assert json.loads((run / "edits/shrink-factor0.25/edit.json").read_text())["provenance"]["plugins"] == [mine]
    code, out, err = cli("eval", run, given, "--attacks=poke")
    assert code == 0, err
    rows = list(csv.DictReader((run / "evals" / "results.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["base", "shrink-factor0.25", "shrink-factor0.5"]
    assert all(0 <= float(row["right_low"]) <= float(row["right"]) <= float(row["right_high"]) <= 1 for row in rows)
    assert {row["right_n"] for row in rows} == {"28"}
    assert rows[0]["model"] == "flat"
    assert "parameters" in (run / "evals" / "attacks.csv").read_text()
    file = tmp_path / "grid.yaml"
    file.write_text("edits: [{name: shrink}]\nreferences: []\nattacks: [poke]\n")
    code, out, err = cli("run", file, given, f"--out={tmp_path}", "--name=default", *TRAIN)
    assert code == 0, err
    assert "already trained" in out
    assert (tmp_path / "default/figures/note.png").read_text() == "figure"
    code, out, err = cli("check", run, given)
    assert (code, err) == (0, ""), out
    unloaded.clear()
    for command in (("eval", run), ("edit", "kfac", run), ("check", run)):
        code, out, err = cli(*command)
        assert code, command
        assert "made with a plug-in, mine.py: give --plugin mine.py" in out + err, command
    code, _, err = cli("edit", "shrink", run)
    assert code == 2
    assert "unknown edit 'shrink'" in err


def test_what_is_listed_says_where_it_comes_from(cli, plugin):
    code, out, _ = cli("list", f"--plugin={plugin()}")
    assert code == 0
    for line in (
        "stripes Black and white stripes. [mine.py]",
        "swap The other class. [mine.py]", "flat Two linear layers. [mine.py]",
        "shrink Multiply all weights. [mine.py] factor 0.5", "poke Count the parameters. [mine.py]",
        "right Share of all examples that get their true label. [mine.py]", "lines Losses in a text file. [mine.py]",
        "note A text that says that it is a figure. [mine.py]",
    ):  # fmt: skip
        assert line in " ".join(out.split()), line
    assert "mine.py" not in cli("list", "kfac")[1]


HALF = """
from vitmem.evaluation.metrics import Metric
def half(table):
    return Metric(0.5, len(table.index))
METRICS = {"half": half}
"""


def test_a_measurement_made_without_a_metric_counts_and_is_completed_when_it_is_wanted(
    cli, plugin, run_folder, unloaded, monkeypatch
):
    file = run_folder / "evals/base/metrics.json"
    before = json.loads(file.read_text())
    assert cli("eval", run_folder)[0] == 0
    assert json.loads(file.read_text()) == before
    monkeypatch.setattr("vitmem.runs.evaluate.predict", lambda *_: pytest.fail("the model is asked again"))
    given = f"--plugin={plugin(HALF)}"
    assert cli("eval", run_folder, given)[0] == 0
    first = json.loads(file.read_text())
    assert first["metrics"] == before["metrics"]
    assert (first["added"]["half"]["value"], first["added"]["half"]["low"]) == (0.5, None)
    assert cli("eval", run_folder, given)[0] == 0
    assert json.loads(file.read_text()) == first  # not measured a third time
    unloaded.clear()
    assert cli("eval", run_folder)[0] == 0  # what it added stays, and does no harm
    assert json.loads(file.read_text()) == first
    assert cli("eval", run_folder, f"--plugin={plugin(HALF.replace('0.5', '0.25'))}")[0] == 0
    assert json.loads(file.read_text())["added"]["half"]["value"] == 0.25
    rows = list(csv.DictReader((run_folder / "evals" / "results.csv").read_text().splitlines()))
    assert {row["half"] for row in rows} == {"0.25"}


SHRINK = ALL.split("DATASETS, ")[0] + 'EDITS = {"shrink": Shrink}\n'


def test_an_edit_of_a_plug_in_that_was_changed_is_made_again(cli, plugin, run_folder, unloaded):
    edit = run_folder / "edits/shrink-factor0.5/edit.json"
    command = ("edit", "shrink", run_folder, "--plugin", plugin(SHRINK))
    assert cli(*command)[0] == 0
    first = json.loads(edit.read_text())
    assert cli(*command)[0] == 0
    assert json.loads(edit.read_text()) == first
    unloaded.clear()
    plugin(SHRINK.replace("value * self.factor", "value * self.factor**2"))
    code, out, err = cli(*command)
    assert code == 0, err
    assert "made by another version of the plug-in" in out
    assert json.loads(edit.read_text())["weights_sha256"] != first["weights_sha256"]


BAD = {
    "nothing": ("x = 1\n", "registers nothing"),
    "syntax": ("EDITS = {\n", "cannot be loaded: SyntaxError"),
    "raises": ("\nimport nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all' (line 2)"),
    "exits": ("import sys\nsys.exit(0)\n", "cannot be loaded: SystemExit"),
    "misspelt": ('EDIT = {"a": int}\n', "has a dict EDIT; did you mean EDITS?"),
    "no dataclass": ('EDITS = {"a": int}\n', "in EDITS: a is no dataclass of options"),
    "no function": ('METRICS = {"a": 1}\n', "in METRICS: a is no function"),
    "no name": ("METRICS = {'a b': print}\n", "'a b' is no name"),
    "taken": (SHRINK.replace('"shrink": Shrink', '"kfac": Shrink'), "registers 'kfac' in 'vitmem.edits'"),
    "other kind": (ALL.replace('{"swap": Swap}', '{"swop": Swap}'), "kind = 'swap'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_one_line(case, cli, plugin):
    source, words = BAD[case]
    code, _, err = cli("list", f"--plugin={plugin(source)}")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_files_that_are_not_there_and_files_that_a_yaml_names(cli, tmp_path, plugin):
    for arguments in (["--plugin"], ["--plugin=nowhere.py"], [f"--plugin={tmp_path}"]):
        code, _, err = cli("list", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "give a file of Python" in err
    for content in (f"plugin: {plugin()}\n", f"edits: [{{name: shrink, plugin: {plugin()}}}]\n"):
        file = tmp_path / "grid.yaml"
        file.write_text(content)
        code, _, err = cli("run", file)
        assert code == 2
        assert "a plug-in is code that runs, so only the command line names it" in err


FAULTY = {
    "def half(table):\n    return 1 / 0\n": "the metric half of mine.py cannot be computed: ZeroDivisionError",
    "def half(table):\n    return 0.5\n": "the metric half of mine.py cannot be computed",
}


@pytest.mark.parametrize("source", FAULTY)
def test_a_metric_that_fails_is_one_line_and_leaves_what_is_there(source, cli, plugin, run_folder):
    before = (run_folder / "evals/base/metrics.json").read_text()
    code, _, err = cli("eval", run_folder, f"--plugin={plugin(source + 'METRICS = {chr(104) + str(chr(97)): half}')}")
    assert code == 2
    assert FAULTY[source].replace("half", "ha") in err
    assert (run_folder / "evals/base/metrics.json").read_text() == before


def test_a_metric_may_not_take_a_column(cli, plugin, run_folder):
    source = HALF.replace('"half"', '"status"')
    code, _, err = cli("eval", run_folder, f"--plugin={plugin(source)}")
    assert code == 2
    assert "'status', which is a column of results.csv" in err


MODEL = """
from torch import nn
def flat(image_shape, num_classes, options):
    return {}
MODELS = {{"flat": flat}}
"""
MODELS = {
    "3": "is a int; its builder must return a torch.nn.Module",
    "nn.Sequential(nn.Flatten(), nn.Linear(64, 3))": "maps 2 images to shape [2, 3]; it must be [2, 10]",
    "nn.Linear(3, 4)": "fails on images of shape [1, 8, 8]",
    "options['width']": "cannot be built: KeyError",
}


@pytest.mark.parametrize("model", MODELS)
def test_models_that_do_not_fit_are_told_before_any_work(model, cli, plugin, tmp_path):
    code, _, err = cli("train", f"--plugin={plugin(MODEL.format(model))}", f"--out={tmp_path}", "--model.name=flat")
    assert code == 2
    assert MODELS[model] in err
    assert not (tmp_path / "default").exists()


def test_options_of_models_belong_to_plug_ins_and_sizes_to_timm(cli, plugin, tmp_path):
    code, _, err = cli("train", f"--out={tmp_path}", "--model.options={a: 1}")
    assert code == 2
    assert "model.options are for a model that a plug-in builds, and auto is none" in err
    code, _, err = cli("train", f"--plugin={plugin()}", f"--out={tmp_path}", "--model.name=flat", "--model.width=4")
    assert code == 2
    assert "model.width is for models of timm; flat, of mine.py, takes model.options" in err


def test_a_figure_that_fails_is_told_and_the_others_are_drawn(plugin, tmp_path, capsys):
    from vitmem.figures import draw_all

    source = "def a(folder, out):\n    raise KeyError('gone')\nFIGURES = {'a': a}\n"
    registry.load_plugin(plugin(source))
    assert draw_all(tmp_path) == []
    assert "the figure a of mine.py is left out: KeyError: 'gone'" in capsys.readouterr().err
