import math
import statistics

import pytest
from drawn import ACCURACIES, write_csv, write_results

from vitmem.figures import sweep
from vitmem.figures.tables import families, read_csv


@pytest.mark.slow
def test_sweep_of_one_seed_has_wilson_bars_and_base_lines(tmp_path):
    write_results(tmp_path / "results.csv")
    sweep.draw(tmp_path / "results.csv", tmp_path)
    rows = [row for row in read_csv(tmp_path / "sweep_kfac.csv") if row["metric"] == "validation_accuracy"]
    assert [row["id"] for row in rows] == ["kfac", "kfac", "base"]
    assert [rows[0][k] for k in ("value", "accuracy", "low", "high", "seeds")] == [0.5, 0.2, 0.2, 0.25, 1]
    assert rows[2]["accuracy"] == 0.0


@pytest.mark.slow
def test_sweep_of_several_seeds_has_sd_bars(tmp_path):
    write_results(tmp_path / "results.csv", seeds=(0, 1, 2))
    sweep.draw(tmp_path / "results.csv", tmp_path)
    row = read_csv(tmp_path / "sweep_kfac.csv")[0]
    sd = statistics.stdev([0.2, 0.3, 0.4])
    assert [row[k] for k in ("accuracy", "low", "high", "seeds")] == pytest.approx([0.3, 0.3 - sd, 0.3 + sd, 3])


def test_sweep_value_of_one_among_several_seeds_has_no_bar():
    point = sweep.summarise([{"m": 0.5, "m_low": 0.4, "m_high": 0.6}], "m", several=True)
    assert point.accuracy == 0.5
    assert math.isnan(point.low)


@pytest.mark.slow
def test_sweep_without_measurements_keeps_the_cells_empty(tmp_path):
    header = ["seed", "id", "edit", "option", "value", *ACCURACIES]
    rows = [[0, f"kfac-rho{rho}", "kfac", "rho", rho, 0.5, "", 0.5, ""] for rho in (0.5, 0.9)]
    write_csv(tmp_path / "results.csv", header, rows)
    sweep.draw(tmp_path / "results.csv", tmp_path)
    rows = [row for row in read_csv(tmp_path / "sweep_kfac.csv") if row["metric"] == "ground_truth_accuracy"]
    assert all(math.isnan(row["accuracy"]) and row["seeds"] == 0 for row in rows)


@pytest.mark.slow
def test_sweep_groups_by_id_without_the_value_and_skips_single_values(tmp_path):
    models = {f"{name}-rho{rho}": ("kfac", "rho", rho) for name in ("kfac", "ekfac") for rho in (0.5, 0.9)}
    models |= {f"svd-keep{keep}": ("svd", "keep", keep) for keep in (1e-05, 0.1)}  # an exponent has a dash too
    models |= {f"svd-rank{rank}": ("svd", "rank", rank) for rank in (1, 2)}
    models["random_pairs-rho0.5"] = ("random_pairs", "rho", 0.5)
    write_results(tmp_path / "results.csv", models=models)
    paths = sweep.draw(tmp_path / "results.csv", tmp_path)
    assert [path.stem for path in paths] == ["sweep_kfac", "sweep_ekfac", "sweep_svd_keep", "sweep_svd_rank"]


def test_sweep_keeps_crossed_options_apart():
    ids = ["kfac-rho0.5", "kfac-rho0.5-draws4", "kfac-rho0.9-draws4", "kfac-draws2"]  # the last does not sweep rho
    rows = [{"id": name, "edit": "kfac", "option": "rho", "value": 0.5} for name in ids]
    groups = families(rows)
    assert {key: len(family) for key, family in groups.items()} == {("kfac", "rho"): 1, ("kfac-draws4", "rho"): 2}
