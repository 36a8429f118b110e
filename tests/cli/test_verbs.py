"""The verbs from end to end, in this process."""

import pytest

pytestmark = pytest.mark.slow


def test_an_experiment_end_to_end_and_again_and_eval_of_several_runs(cli, experiment, tmp_path):
    out = tmp_path / "runs"
    code, printed, errors = cli("run", experiment, f"--out={out}", "--seeds=0,1")
    assert code == 0, errors
    rows = ["base", "clean", "retrain", "kfac-rho0.5", "kfac-rho0.9", "svd-keep0.5"]
    table = (out / "small" / "results.csv").read_text()
    assert [line.split(",")[1:3] for line in table.splitlines()[1:]] == [[str(s), r] for s in (0, 1) for r in rows]
    assert "± " in printed
    assert "2 seeds" in printed
    drawn = {path.name for path in (out / "small" / "figures").iterdir()}
    assert {"training.png", "training.pdf", "training.csv", "sweep_kfac.png"} <= drawn
    flips = (out / "small" / "flips.csv").read_text().splitlines()
    assert flips[0].split(",")[-6:] == rows  # what each model says about each wrong label
    assert {line.split(",")[1] for line in flips[1:]} == {"0", "1"}
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert cli("run", experiment, f"--out={out}", "--seeds=0,1")[0] == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == stamps
    assert (out / "small" / "results.csv").read_text() == table
    code, printed, _ = cli("eval", *(out / "small" / f"seed{seed}" for seed in (0, 1)), "--edits=kfac*,svd-keep0.5")
    assert code == 0
    assert "mean ± sd over 2 seeds" in printed
    assert all(name in printed for name in rows[3:])
    code, printed, _ = cli("eval", out / "small", "--edits=kfac*")
    assert code == 0
    assert "svd" not in printed


def without_times(table):
    return [line.rsplit(",", 2)[0] for line in table.splitlines()]  # the last: memory and seconds


def test_the_same_command_twice_gives_the_same_bytes(cli, experiment, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    for out in (first, second):
        assert cli("run", experiment, f"--out={out}", "--figures=false")[0] == 0
    for name in ("seed0/noise.csv", "seed0/model.safetensors", "seed0/edits/kfac-rho0.5/model.safetensors"):
        assert (first / "small" / name).read_bytes() == (second / "small" / name).read_bytes()
    tables = [(out / "small" / "results.csv").read_text() for out in (first, second)]
    assert without_times(tables[0]) == without_times(tables[1])
    assert tables[0].splitlines()[0].endswith(",extra_memory_mib,seconds")


def test_several_values_make_several_edits_in_one_process(cli, run_folder):
    code, printed, _ = cli("edit", "kfac", run_folder, "--rho=0.8,0.7", "--tokens=all,mean", "--layers=blocks.{0,1}.*")
    assert code == 0
    made = {path.name for path in (run_folder / "edits").iterdir()}
    assert {"kfac-rho0.8", "kfac-rho0.7"} < made
    assert len(made) == 1 + 4
    assert {name for name in made if name.startswith("kfac-rho0.8")} == {"kfac-rho0.8", "kfac-rho0.8-tokensmean"}
    assert printed.count("the edited model is in") == 4


def test_an_id_carries_what_differs_from_the_result_that_has_it(cli, run_folder):
    for _ in range(2):  # the second time it is there
        code, printed, _ = cli("edit", "kfac", run_folder, "--rho=0.9", "--draws=3")
        assert code == 0
        assert "edits/kfac-rho0.9-draws3" in printed
    assert sorted(p.name for p in (run_folder / "edits").iterdir()) == ["kfac-rho0.9", "kfac-rho0.9-draws3"]


def test_edits_of_one_id_in_a_file_are_told_apart():
    from vitmem.experiment.plan import plan_edits

    planned = plan_edits([{"name": "kfac", "draws": 4}, {"name": "kfac", "draws": 8}, {"name": "svd"}])
    assert [item.edit_id for item in planned] == ["kfac-rho0.75-draws4", "kfac-rho0.75-draws8", "svd-keep0.1"]


def test_train_takes_the_base_model_of_an_experiment_file(cli, experiment, tmp_path):
    code, printed, errors = cli("train", "--config", experiment, f"--out={tmp_path}", "--seed=3")
    assert code == 0, errors
    assert "its base model is trained; edits are left to `vitmem run`" in printed
    assert (tmp_path / "small" / "seed3" / "model.safetensors").exists()
    assert cli("run", experiment, f"--out={tmp_path}", "--seeds=3", "--figures=false")[1].count("already trained") == 1


@pytest.mark.slow
def test_the_default_model_learns_the_default_data(cli, tmp_path):
    code, printed, errors = cli("train", f"--out={tmp_path}", "--train.epochs=12", "--train.warmup_epochs=2")
    assert code == 0, errors
    assert float(printed.split("validation ")[-1].split()[0]) > 0.8


def test_the_plan_of_an_experiment(cli, experiment, tmp_path):
    code, printed, errors = cli("run", experiment, f"--out={tmp_path}", "--seeds=0,1", "--dry_run")
    assert code == 0, errors
    assert not list(tmp_path.glob("small"))
    for line in ("models: 0 of 6 done", "curvature: 0 of 2 done", "edits: 0 of 6 done"):
        assert line in printed
    assert cli("run", experiment, f"--out={tmp_path}", "--seeds=0", "--figures=false")[0] == 0
    printed = cli("run", experiment, f"--out={tmp_path}", "--seeds=0,1", "--attacks=quantize", "--dry_run")[1]
    for line in (
        "models: 3 of 6 done",
        "curvature: 1 of 2 done",
        "edits: 3 of 6 done",
        "attack quantize: 0 of 12 done",
    ):
        assert line in printed
    printed = cli("run", experiment, f"--out={tmp_path}", "--seeds=0", "--dry_run")[1]
    assert "everything is done" in printed
