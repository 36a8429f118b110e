import pytest
from drawn import ACCURACIES, write_csv, write_history

from vitmem.figures import training
from vitmem.figures.tables import read_csv


@pytest.mark.slow
def test_training_leaves_out_epochs_without_evaluation(tmp_path):
    write_history(tmp_path / "seed0")
    write_history(tmp_path / "seed0-clean", offset=0.5)
    training.draw(tmp_path, tmp_path)
    rows = [row for row in read_csv(tmp_path / "training.csv") if row["metric"] == "memorized_accuracy"]
    assert [(row["epoch"], row["mean"], row["seeds"]) for row in rows] == [(2, 0.1, 1), (4, pytest.approx(0.3), 1)]


def test_training_shows_mean_sd_and_range_of_several_seeds(tmp_path):
    write_history(tmp_path / "seed0")
    write_history(tmp_path / "seed1", offset=0.2)
    training.draw(tmp_path, tmp_path)
    row = read_csv(tmp_path / "training.csv")[0]
    assert [row[k] for k in ("mean", "sd", "min", "max", "seeds")] == pytest.approx([0.2, 0.02**0.5, 0.1, 0.3, 2])


def test_training_without_any_accuracy_draws_nothing(tmp_path):
    header = ["epoch", "step", "lr", "train_loss", *ACCURACIES]
    write_csv(tmp_path / "seed0/metrics.csv", header, [[0, 1, 0.1, 2.0, "", "", "", ""]])
    assert training.draw(tmp_path, tmp_path) == []
