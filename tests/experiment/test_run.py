import shutil

from vitmem.experiment.results import evaluate_folder
from vitmem.runs.trained import TrainedRun


def test_an_edit_that_diverges_stops_nothing_else(cli, registered, run_folder, tmp_path):
    code, printed, errors = cli("edit", "explode", run_folder)
    assert (code, printed) == (1, "")
    assert errors.count("\n") == 1
    assert "diverged: the loss is nan at step 3" in errors
    assert not (run_folder / "edits" / "explode" / "model.safetensors").exists()
    rows = {row["id"]: row for row in evaluate_folder(TrainedRun.open(run_folder))}
    assert rows["explode"]["status"].startswith("diverged: ")
    assert "memorized_accuracy" not in rows["explode"]
    assert {"base", "kfac-rho0.9", "explode"} == set(rows)
    folder = tmp_path / "again" / "small" / "seed0"
    shutil.copytree(run_folder, folder)
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nreferences: []\nfigures: false\n"
        "model: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 2, batch_size: 200, warmup_epochs: 1}\n"
        "edits: [{name: explode}, {name: explode, id: nan, how: nan}, "
        "{name: explode, id: big, how: memory}, {name: svd}]\n"
    )
    code, printed, errors = cli("run", file, f"--out={tmp_path / 'again'}")
    assert code == 0, errors
    assert "explode (seed 0): diverged: the loss is nan at step 3" in printed
    assert "nan (seed 0): diverged: head.bias is not finite" in printed
    assert "big (seed 0): failed: out of memory" in printed
    lines = (tmp_path / "again" / "small" / "results.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == [
        "base", "explode", "nan", "big", "svd-keep0.1", "kfac-rho0.9"  # which the folder holds, too
    ]  # fmt: skip
