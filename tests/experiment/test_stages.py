import csv
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from cases import SMALL

from vitmem.experiment.board import Board
from vitmem.experiment.jobs import share, threads
from vitmem.experiment.perform import How
from vitmem.experiment.plan import Experiment, plan_attacks, plan_edits
from vitmem.experiment.run import survey
from vitmem.experiment.stages import DONE, FAILED, PENDING, SKIPPED, tasks
from vitmem.experiment.sweep import cells
from vitmem.runs.config import RunConfig

pytestmark = pytest.mark.slow


@pytest.fixture
def plan(tmp_path):
    """Write an experiment file."""

    def write(more="", name="small"):
        file = tmp_path / f"{name}.yaml"
        file.write_text(SMALL + more)
        return file

    return write


def stamps(folder):
    patterns = ("**/model.safetensors", "**/edit.json", "**/metrics.json", "**/attacks/*.json", "**/*.safetensors")
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in sorted(folder.glob(pattern))}


def rows(table, without=("seconds", "extra_memory_mib", "experiment", "plan")):
    with table.open() as file:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(file)]


def trainings(printed):
    return printed.count(": training on ")


def test_a_sweep_trains_once_what_its_cells_share(cli, plan, tmp_path):
    """Options of edits and the share of known labels change no training; a second call does nothing."""
    file = plan("sweep: {edits.kfac.tokens: [cls, all], known: [0.5, 1.0]}\n")
    code, printed, errors = cli("run", file, f"--out={tmp_path}")
    assert (code, errors) == (0, "")
    assert trainings(printed) == 2
    assert printed.count("whose files are linked") == 6
    folder = tmp_path / "small"
    table = rows(folder / "results.csv", without=())
    assert {row["experiment"] for row in table} == {
        "tokenscls-known0.5", "tokenscls-known1", "tokensall-known0.5", "tokensall-known1"
    }  # fmt: skip
    assert {row["edits.kfac.tokens"] for row in table} == {"cls", "all"}
    assert "| tokenscls-known0.5 |" in printed
    before = stamps(folder)
    code, printed, _ = cli("run", file, f"--out={tmp_path}")
    assert code == 0
    assert "curvature" not in printed
    assert trainings(printed) == 0
    assert stamps(folder) == before
    assert rows(folder / "results.csv", without=()) == table
    base = folder / "tokenscls-known0.5" / "seed0" / "model.safetensors"
    assert os.stat(base).st_nlink == 4


def test_figures_and_report_are_made_again_when_results_change_or_they_are_gone(cli, plan, tmp_path):
    file = plan().read_text().replace("figures: false\nreport: false\n", "")
    (tmp_path / "small.yaml").write_text(file)
    command, folder = ("run", tmp_path / "small.yaml", f"--out={tmp_path}"), tmp_path / "small"

    def made():
        return {path: path.stat().st_mtime_ns for path in (folder / "report.html", *folder.glob("figures/*.png"))}

    _, printed, _ = cli(*command)
    first = made()
    assert len(first) > 3
    _, again, _ = cli(*command)
    assert made() == first
    assert again[again.index("results:") :] == printed[printed.index("results:") :]
    (folder / "figures" / "training.png").unlink()
    cli(*command)
    second = made()
    assert second.keys() == first.keys()
    assert cli("eval", folder, "--attacks=views", "--edits=svd*")[0] == 0
    cli(*command)
    third = made()
    assert third[folder / "report.html"] > second[folder / "report.html"] > first[folder / "report.html"]


def test_a_second_call_needs_nothing_that_trains(plan, tmp_path, cli):
    """What takes seconds to import is imported for what is left to do alone."""
    file = plan()
    assert cli("run", file, f"--out={tmp_path}")[0] == 0
    code = (
        "import sys; from vitmem.cli import main; "
        f"main(['run', {str(file)!r}, '--out={tmp_path}']); "
        "sys.exit(' '.join({'lightning', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_trainings_are_shared_between_experiments_unless_that_is_not_wanted(cli, plan, tmp_path):
    assert cli("run", plan(), f"--out={tmp_path}")[0] == 0
    other = plan("", "other")
    assert "whose files are linked" in cli("run", other, f"--out={tmp_path}")[1]
    alone = cli("run", plan("", "alone"), f"--out={tmp_path}", "--share=false")[1]
    assert trainings(alone) == 2
    assert rows(tmp_path / "small" / "results.csv") == rows(tmp_path / "other" / "results.csv")
    assert cli("check", tmp_path / "other")[0] == 0


def test_a_training_of_other_settings_is_not_taken_over(cli, plan, tmp_path):
    cli("run", plan(), f"--out={tmp_path}")
    printed = cli("run", plan("seeds: [1]\n", "other"), f"--out={tmp_path}")[1]
    assert trainings(printed) == 2
    printed = cli("run", plan("noise: {rate: 0.2}\n", "rate"), f"--out={tmp_path}")[1]
    assert trainings(printed) == 2


def test_a_damaged_training_is_not_taken_over(cli, plan, tmp_path):
    cli("run", plan(), f"--out={tmp_path}")
    weights = tmp_path / "small" / "seed0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert trainings(cli("run", plan("", "other"), f"--out={tmp_path}")[1]) == 1


def test_a_failed_stage_takes_with_it_only_what_needs_it(cli, registered, plan, tmp_path):
    """An edit of which memory runs out fails; what needs nothing of it is done, and it is tried again when asked to."""
    file = plan("attacks: [{name: quantize, bits: [4], groups: [], examples: 20}]\n")
    text = file.read_text().replace("{name: svd}", "{name: explode, how: memory}, {name: svd}")
    file.write_text(text)
    code, printed, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 3
    assert "edit explode failed: [enforce fail" in printed
    lines = errors.splitlines()
    assert lines[0].startswith("vitmem: failed: small/seed0 measure: edit explode: [enforce fail")
    log = tmp_path / "small" / "stages" / "seed0" / "measure.log"
    assert str(log) in lines[0]
    assert "Traceback" in log.read_text()
    assert lines[1] == "vitmem: 1 stages were left out, since what they need failed"
    assert "--retry_failed" in lines[-1]
    assert {row["id"] for row in rows(tmp_path / "small" / "results.csv")} == {
        "base", "retrain", "kfac-rho0.9", "kfac-rho0.8", "svd-keep0.1"
    }  # fmt: skip
    code, printed, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 3
    assert "enforce" not in printed
    assert errors.splitlines()[0] == lines[0]
    code, printed, _ = cli("run", file, f"--out={tmp_path}", "--retry_failed")
    assert code == 3
    assert "edit explode failed: [enforce fail" in printed


def test_several_processes_find_what_one_finds(cli, plan, tmp_path):
    more = "seeds: [0, 1]\nattacks: [{name: quantize, bits: [4], groups: [], examples: 20}]\n"
    assert cli("run", plan(more), f"--out={tmp_path / 'one'}")[0] == 0
    code, _, errors = cli("run", plan(more), f"--out={tmp_path / 'two'}", "--jobs=2")
    assert (code, errors) == (0, "")
    assert "training on" in (tmp_path / "two" / "small" / "stages" / "seed1" / "base.log").read_text()
    one, two = (rows(tmp_path / name / "small" / "results.csv") for name in ("one", "two"))
    assert [(row["id"], row["seed"]) for row in one] == [(row["id"], row["seed"]) for row in two]
    for first, second in zip(one, two, strict=True):
        assert float(first["validation_accuracy"]) == pytest.approx(float(second["validation_accuracy"]), abs=0.02)


@pytest.mark.slow
def test_interrupted_at_random_it_goes_on_to_the_same_results(cli, plan, tmp_path):
    file = plan("seeds: [0, 1]\nsweep: {noise.rate: [0.1, 0.2]}\n")
    command = [sys.executable, "-m", "vitmem", "run", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run([*command, f"--out={tmp_path / 'whole'}"], env=environment, capture_output=True)
    assert whole.returncode == 0
    rng, ended = random.Random(0), 0
    for number in range(10):
        process = subprocess.Popen([*command, f"--out={tmp_path / 'cut'}"], env=environment, stdout=subprocess.DEVNULL)
        time.sleep(3 + 4 * rng.random())
        process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        ended += process.wait(60) == 0
    assert ended < 10
    assert subprocess.run([*command, f"--out={tmp_path / 'cut'}"], env=environment).returncode == 0
    assert rows(tmp_path / "cut" / "small" / "results.csv") == rows(tmp_path / "whole" / "small" / "results.csv")


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_what_is_at_work(plan, tmp_path):
    """Edits that will not end, in two processes: the first Ctrl-C asks both to, the second leaves neither behind."""
    plugin = tmp_path / "stubborn.py"
    plugin.write_text(
        "import os, signal, time\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "from vitmem.editing import Edit, EditResult\n"
        "@dataclass(frozen=True)\nclass Stubborn(Edit):\n    '''Ends when it wants to.'''\n"
        "    def apply(self, model, data, generator):\n"
        "        def told(number, frame):\n            Path(here, f'{os.getpid()}.told').touch()\n"
        "        signal.signal(signal.SIGTERM, told)\n        Path(here, f'{os.getpid()}.pid').touch()\n"
        "        end = time.monotonic() + 600\n"
        "        while time.monotonic() < end:\n            time.sleep(1)\n"
        f"here = {str(tmp_path)!r}\n"
        "EDITS = {'stubborn': Stubborn}\n"
    )
    file = plan("seeds: [0, 1]\n")
    file.write_text(file.read_text().replace("{name: svd}", "{name: stubborn}"))
    command = [sys.executable, "-m", "vitmem", "run", str(file), f"--out={tmp_path}", f"--plugin={plugin}", "--jobs=2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background has it ignored
    )  # fmt: skip

    def both(kind):
        end = time.monotonic() + 200
        while len(found := list(tmp_path.glob(f"*.{kind}"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        return [int(path.stem) for path in found]

    try:
        workers = both("pid")
        process.send_signal(signal.SIGINT)
        assert set(both("told")) == set(workers)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert process.stderr.read().splitlines()[1:] == [
        "stopping: what is at work saves its state; press Ctrl-C again to stop without saving",
        "vitmem: stopped",
    ]
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_worker_that_dies_fails_its_task_alone(cli, plan, tmp_path):
    plugin = tmp_path / "deadly.py"
    plugin.write_text(
        "import os\nfrom dataclasses import dataclass\nfrom vitmem.editing import Edit, EditResult\n"
        "@dataclass(frozen=True)\nclass Deadly(Edit):\n    '''Ends the process.'''\n"
        "    def apply(self, model, data, generator):\n        os._exit(9)\n"
        "EDITS = {'deadly': Deadly}\n"
    )
    file = plan("seeds: [0, 1]\n")
    file.write_text(file.read_text().replace("{name: svd}", "{name: deadly}"))
    code, _, errors = cli("run", file, f"--out={tmp_path}", f"--plugin={plugin}", "--jobs=2")
    assert code == 3
    assert errors.count("edit deadly: its process died (exit code 9)") == 2
    assert {(row["seed"], row["id"]) for row in rows(tmp_path / "small" / "results.csv")} >= {
        ("0", "kfac-rho0.9"), ("1", "kfac-rho0.8")
    }  # fmt: skip


def planned(**options):
    return Experiment("plan", RunConfig(), **options)


def test_cores_are_shared_out_and_the_last_has_them_all(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert [threads(working) for working in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert share(0, 4)["OMP_NUM_THREADS"] == "2"


def test_the_plan_of_ten_thousand_stages(tmp_path):
    """Every training that its cells share is one task that works; the others wait for it."""
    edits = plan_edits([{"name": "svd", "keep": [k / 100 for k in range(1, 31)]}])
    experiment = planned(edits=edits, seeds=(0, 1, 2))
    swept = cells(experiment, {"known": [k / 100 for k in range(1, 101)]})
    found = [task for cell in swept for task in tasks(cell.experiment, tmp_path / cell.experiment.name)]
    board = Board(found, {t.record: f"{t.seed} {t.part}" for t in found if t.is_training}, How(tmp_path))
    assert board.counts()[PENDING] == 100 * 3 * (3 + 3 + 30) > 10_000
    assert len(board.ready()) == 9
    assert {task.part for task in board.ready()} == {"base", "clean", "retrain"}


def test_a_seed_is_measured_when_its_models_are_there(tmp_path):
    experiment = planned(references=("retrain",), seeds=(0, 1))
    found = tasks(experiment, tmp_path)
    board = Board(found, {t.record: f"{t.seed} {t.part}" for t in found if t.is_training}, How(tmp_path))
    for task in [task for task in found if task.is_training and task.seed == 1]:
        board.begin(task)
        assert task not in board.ready()
        board.finish(task, {"train": (DONE, "")})
    assert next((task.seed, task.part) for task in board.ready()) == (1, "measure")


def test_what_is_told_of_failures(tmp_path):
    found = tasks(planned(references=()), tmp_path)
    board = Board(found, {found[0].record: "a"}, How(tmp_path))
    board.finish(found[0], {"train base": (FAILED, "no room")})
    board.finish(found[1], {"measure base": (SKIPPED, "")})
    assert board.told() == [
        f"failed: {tmp_path.name}/seed0 train base: train base: no room (log: {found[0].log})",
        "1 stages were left out, since what they need failed",
    ]


def test_a_plan_is_surveyed_without_writing(tmp_path):
    experiment = planned(references=("retrain",), attacks=plan_attacks(["quantize"]))
    board = survey(cells(experiment, {}), tmp_path / "plan", How(tmp_path))
    assert len(board.left) == 3
    assert not list(tmp_path.iterdir())


def test_stages_of_other_options_are_not_done(cli, plan, tmp_path):
    assert cli("run", plan(), f"--out={tmp_path}")[0] == 0
    file = plan()
    file.write_text(file.read_text().replace("{name: svd}", "{name: svd, keep: 0.2}"))
    from vitmem.cli import run as verb  # as the command line reads it
    from vitmem.runs import config

    arguments = ["--config", str(file)]
    parser = config.parser_for(arguments, "test", "")
    verb.add_output(parser, "small")
    verb.add_experiment(parser)
    experiment = verb.experiment(parser.read(arguments))
    board = survey(cells(experiment, {}), tmp_path / "small", How(tmp_path))
    (task,) = board.left
    assert task.part == "measure"
