"""results.csv: gathered from the run folders that are there, with the configuration of each row."""

import csv
import shutil
import subprocess
import sys

import pytest

from vitmem.cli import main
from vitmem.experiment.results import changed_options, runs_in, with_configurations
from vitmem.runs.train import train  # noqa: F401, loads what the commands need before they are timed

pytestmark = pytest.mark.slow

FILE = """
name: small
model: {width: 16, depth: 2, heads: 2, patch: 4}
train: {epochs: 1, batch_size: 400, warmup_epochs: 0}
references: [retrain]
figures: false
edits:
  - {name: kfac, rho: [0.5, 0.9]}
  - {name: svd, keep: 0.5}
"""
COST = ("seconds", "extra_memory_mib")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished experiment of one seed; do not change it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(FILE)
    assert main(["run", str(folder / "small.yaml"), f"--out={folder}"]) == 0
    return folder


@pytest.fixture
def small(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made / "small", tmp_path / "small")


def rows(path):
    with open(path, newline="") as table:
        return list(csv.DictReader(table))


def without_cost(table):
    return [{name: value for name, value in row.items() if name not in COST} for row in table]


def test_every_seed_stays_whatever_command_made_it(cli, file, tmp_path):
    out = tmp_path / "one"
    for seed in ("1", "0"):
        assert cli("run", file, f"--out={out}", f"--seeds={seed}")[0] == 0
    table = rows(out / "small" / "results.csv")
    assert [row["seed"] for row in table] == ["0"] * 5 + ["1"] * 5
    assert [row["id"] for row in table[:5]] == ["base", "retrain", "kfac-rho0.5", "kfac-rho0.9", "svd-keep0.5"]
    assert cli("run", file, f"--out={tmp_path / 'both'}", "--seeds=0,1")[0] == 0
    assert without_cost(rows(tmp_path / "both" / "small" / "results.csv")) == without_cost(table)

    assert cli("edit", "svd", out / "small" / "seed0", "--keep=0.3")[0] == 0
    assert cli("train", "--config", file, f"--out={out}", "--seed=2")[0] == 0
    assert cli("eval", out / "small", "--edits=svd*")[0] == 2  # seed 2 has no edit yet
    assert cli("eval", out / "small")[0] == 0
    table = rows(out / "small" / "results.csv")
    assert [(row["seed"], row["id"]) for row in table if row["seed"] != "1"] == [
        *(("0", name) for name in ("base", "retrain", "kfac-rho0.5", "kfac-rho0.9", "svd-keep0.3", "svd-keep0.5")),
        ("2", "base"),
    ]


def test_rows_carry_their_configuration_and_what_differs(cli, file, small, tmp_path):
    assert (
        cli("train", "--config", file, f"--out={tmp_path}", "--seed=1", "--train.lr=0.002", "--noise.rate=0.2")[0] == 0
    )
    code, _, errors = cli("eval", small)
    assert code == 0, errors
    table = rows(small / "results.csv")
    first, last = table[0], table[-1]
    assert (first["data"], first["noise"], first["noise_rate"], first["epochs"]) == ("digits", "symmetric", "0.1", "1")
    assert first["model"] == "vit_base_patch16_224 width 16 depth 2 heads 2 patch 4"
    assert (last["noise_rate"], first["train.lr"], last["train.lr"]) == ("0.2", "0.001", "0.002")
    assert "model.depth" not in first
    assert {row["id"]: row["options"] for row in table}["kfac-rho0.9"] == "rho=0.9"


def test_a_narrower_question_leaves_the_runs_table_whole(cli, small):
    run = small / "seed0"
    assert cli("eval", run, "--edits=svd*")[0] == 0
    ids = [row["id"] for row in rows(run / "evals" / "results.csv")]
    assert ids == ["base", "retrain", "kfac-rho0.5", "kfac-rho0.9", "svd-keep0.5"]


ATTACKS = "--attacks=[{name: quantize, bits: [4], groups: []}]"


def test_a_narrower_question_leaves_the_tables_of_attacks_whole(cli, small):
    run = small / "seed0"
    assert cli("eval", small, ATTACKS)[0] == 0
    for path in (run, small):
        assert cli("eval", path, ATTACKS, "--edits=svd*")[0] == 0
        for folder in (run / "evals", small) if path != run else (run / "evals",):
            found = {row["id"] for row in rows(folder / "attacks.csv")}
            assert found == {"base", "retrain", "kfac-rho0.5", "kfac-rho0.9", "svd-keep0.5"}
    shutil.rmtree(run / "edits" / "svd-keep0.5")  # rows of what is gone go
    assert cli("eval", run, ATTACKS, "--edits=base")[0] == 0
    for name in ("attacks.csv", "results.csv"):
        assert {row["id"] for row in rows(run / "evals" / name)} == {"base", "retrain", "kfac-rho0.5", "kfac-rho0.9"}


def test_a_copy_of_a_seed_does_not_count_twice(cli, file, small, tmp_path):
    folder = small
    shutil.copytree(folder / "seed0", folder / "seed1")
    code, _, errors = cli("eval", folder)
    assert (code, errors.count("\n")) == (2, 1)
    assert f"{folder / 'seed1'} holds the run of seed 0: it was renamed or copied" in errors
    code, _, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 0
    assert "left out of the table" in errors
    assert len(rows(folder / "results.csv")) == 5


@pytest.mark.slow
def test_two_commands_at_once_give_the_table_of_one(file, tmp_path):
    def start(*arguments):
        command = [sys.executable, "-m", "vitmem", "run", str(file), f"--out={tmp_path / 'two'}", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    both = [start("--seeds=0"), start("--seeds=1")]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    one = start("--seeds=0,1", f"--out={tmp_path / 'one'}")
    assert one.wait(timeout=300) == 0
    tables = [without_cost(rows(tmp_path / name / "small" / "results.csv")) for name in ("one", "two")]
    assert tables[0] == tables[1]


def test_an_edit_that_cannot_be_read_is_told_and_all_else_stays(cli, file, small, tmp_path):
    (small / "seed0" / "edits" / "svd-keep0.5" / "model.safetensors").write_bytes(b"damaged")
    code, _, errors = cli("run", file, f"--out={tmp_path}", "--seeds=1")
    assert code == 0
    assert "left out of the table" in errors
    assert "svd-keep0.5" in errors
    found = [(row["seed"], row["id"]) for row in rows(small / "results.csv")]
    assert len(found) == 9
    assert ("0", "svd-keep0.5") not in found


def test_folders_that_hold_no_run(tmp_path, run_folder):
    (tmp_path / "empty" / "seed0").mkdir(parents=True)
    with pytest.raises(ValueError, match="no finished run"):
        runs_in([tmp_path / "empty"])
    assert runs_in([run_folder, run_folder.parent]) == ([run_folder], [run_folder.parent])


def test_columns_of_options_that_differ():
    same, other = {"train.lr": 0.1, "train.clip": 1.0}, {"train.lr": 0.2, "train.clip": 1.0}
    found = with_configurations([{"id": "a", "config": same}, {"id": "b", "config": other}])
    assert found == [{"id": "a", "train.lr": 0.1}, {"id": "b", "train.lr": 0.2}]


def test_changed_options_are_those_that_are_not_the_defaults():
    content = {"name": "svd", "options": {"layers": "blocks.0.* head", "keep": 0.1, "share": "energy"}}
    assert changed_options(content) == "layers=blocks.0.*,head share=energy"
