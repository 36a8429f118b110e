"""Each figure appears, holds the numbers it shows, and comes out the same twice."""

import csv
import math
import os
import statistics
import subprocess
import sys

import numpy as np
import pytest

from vitmem.evaluation.comparison import comparison_csv
from vitmem.figures import comparison, draw_all, frontier, sheet, spectra, staircase, style, sweep, training
from vitmem.figures.kronecker import PairMasses
from vitmem.figures.tables import families, read_csv, seed_folders

ACCURACIES = list(style.ACCURACIES)
SHEET = {
    "image": np.linspace(0, 1, 3 * 16).reshape(3, 4, 4),
    "given": [0, 1, 2],
    "true": [1, 2, 0],
    "before": [0, 1, 2],
    "after": [1, 1, 1],
    "class_names": ["cat", "dog", "flying_squirrel"],
    "title_after": "kfac, rho 0.5",
}


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_history(folder, offset=0.0):
    # Evaluated after the second and the fourth epoch only.
    rows = [[e, e, 0.1, 1.0, *([0.1 * e + offset] * 4 if e % 2 else [""] * 4)] for e in range(4)]
    write_csv(folder / "metrics.csv", ["epoch", "step", "lr", "train_loss", *ACCURACIES], rows)


def write_results(path, seeds=(0,), models=None):
    models = models or {"base": ("", "", ""), "kfac-rho0.5": ("kfac", "rho", 0.5), "kfac-rho0.9": ("kfac", "rho", 0.9)}
    header = ["experiment", "seed", "id", "edit", "option", "value"]
    header += [column for name in ACCURACIES for column in (name, f"{name}_low", f"{name}_high", f"{name}_n")]
    rows = [
        ["digits", seed, name, *options, *[0.2 * number + 0.1 * seed, 0.2 * number, 0.2 * number + 0.05, 100] * 4]
        for seed in seeds
        for number, (name, options) in enumerate(models.items())
    ]
    write_csv(path, header, rows)


def write_spectra(path, size=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = 5.0 / np.arange(1, size + 1) ** 2
    values[-1] = 0  # the factors are often singular
    layers = ["blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head"]
    np.savez(path, **{f"{layer}/{factor}": values for layer in layers for factor in "AG"})


def write_experiment(folder):
    write_history(folder / "seed0")
    write_results(folder / "results.csv")
    write_spectra(folder / "seed0/factors/0123456789abcdef.spectra.npz")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_draw_all_writes_three_files_for_each_figure(tmp_path):
    paths = draw_all(write_experiment(tmp_path), SHEET)
    assert [path.name for path in paths] == [
        f"{name}.png" for name in ("training", "sweep_kfac", "frontier", "spectra", "mass", "staircase", "sheet")
    ]
    names = {f"{path.stem}.{suffix}" for path in paths for suffix in ("pdf", "png", "csv")}
    assert set(contents(tmp_path / "figures")) == names


def test_draw_all_skips_figures_without_inputs(tmp_path):
    assert draw_all(tmp_path) == []
    write_results(tmp_path / "results.csv")
    assert [path.name for path in draw_all(tmp_path)] == ["sweep_kfac.png", "frontier.png"]


def test_same_input_gives_same_bytes_in_another_process_without_torch_or_pyplot(tmp_path):
    for copy in ("a", "b"):
        write_experiment(tmp_path / copy)
    draw_all(tmp_path / "a")
    code = f"""if True:
        import sys
        from vitmem import figures
        figures.draw_all({str(tmp_path / "b")!r})
        assert not {{"torch", "matplotlib.pyplot", "vitmem.datamodules"}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert contents(tmp_path / "a/figures") == contents(tmp_path / "b/figures")


def test_save_writes_plain_numbers_and_empty_cells(tmp_path):
    row = [np.float64(0.1), np.float32(0.5), 3, np.int64(4), math.nan, None, "a,b"]
    style.save(style.new_figure(1, 1), tmp_path, "empty", list("abcdefg"), [row])
    assert (tmp_path / "empty.csv").read_text() == 'a,b,c,d,e,f,g\n0.1,0.5,3,4,,,"a,b"\n'


def test_read_csv_parses_numbers_except_in_text_columns(tmp_path):
    write_csv(tmp_path / "t.csv", ["id", "x", "y"], [["1", "2", ""], ["b", "c", "nan"]])
    first, second = read_csv(tmp_path / "t.csv", text=("id",))
    assert (first["id"], first["x"], second["x"]) == ("1", 2.0, "c")
    assert math.isnan(first["y"])
    assert math.isnan(second["y"])


def test_seed_folders_are_in_numeric_order_without_references(tmp_path):
    for name in ("seed10", "seed2", "seed0-clean", "seeds"):
        (tmp_path / name).mkdir()
    assert list(seed_folders(tmp_path)) == [2, 10]


def test_training_leaves_out_epochs_without_evaluation(tmp_path):
    write_history(tmp_path / "seed0")
    write_history(tmp_path / "seed0-clean", offset=0.5)
    training.draw(tmp_path, tmp_path)
    rows = [row for row in read_csv(tmp_path / "training.csv") if row["metric"] == "memorized_accuracy"]
    assert [(row["epoch"], row["mean"], row["seeds"]) for row in rows] == [(2, 0.1, 1), (4, pytest.approx(0.3), 1)]


def test_training_shows_mean_and_range_of_several_seeds(tmp_path):
    write_history(tmp_path / "seed0")
    write_history(tmp_path / "seed1", offset=0.2)
    training.draw(tmp_path, tmp_path)
    row = read_csv(tmp_path / "training.csv")[0]
    assert [row[k] for k in ("mean", "min", "max", "seeds")] == pytest.approx([0.2, 0.1, 0.3, 2])


def test_training_without_any_accuracy_draws_nothing(tmp_path):
    header = ["epoch", "step", "lr", "train_loss", *ACCURACIES]
    write_csv(tmp_path / "seed0/metrics.csv", header, [[0, 1, 0.1, 2.0, "", "", "", ""]])
    assert training.draw(tmp_path, tmp_path) == []


def test_sweep_of_one_seed_has_wilson_bars_and_base_lines(tmp_path):
    write_results(tmp_path / "results.csv")
    sweep.draw(tmp_path / "results.csv", tmp_path)
    rows = [row for row in read_csv(tmp_path / "sweep_kfac.csv") if row["metric"] == "validation_accuracy"]
    assert [row["id"] for row in rows] == ["kfac", "kfac", "base"]
    assert [rows[0][k] for k in ("value", "accuracy", "low", "high", "seeds")] == [0.5, 0.2, 0.2, 0.25, 1]
    assert rows[2]["accuracy"] == 0.0


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


def test_sweep_without_measurements_keeps_the_cells_empty(tmp_path):
    header = ["seed", "id", "edit", "option", "value", *ACCURACIES]
    rows = [[0, f"kfac-rho{rho}", "kfac", "rho", rho, 0.5, "", 0.5, ""] for rho in (0.5, 0.9)]
    write_csv(tmp_path / "results.csv", header, rows)
    sweep.draw(tmp_path / "results.csv", tmp_path)
    rows = [row for row in read_csv(tmp_path / "sweep_kfac.csv") if row["metric"] == "ground_truth_accuracy"]
    assert all(math.isnan(row["accuracy"]) and row["seeds"] == 0 for row in rows)


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


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("blocks.3.attn.qkv", (3, "qkv")),
        ("blocks.11.mlp.fc1", (11, "fc1")),
        ("blocks.0.ls1", (0, "other")),
        ("patch_embed.proj", (None, "other")),
        ("head", (None, "other")),
    ],
)
def test_spectra_place_layers_by_block_and_type(layer, expected):
    assert spectra.place(layer) == expected


def test_spectra_keep_few_ranks_with_both_ends(tmp_path):
    write_spectra(tmp_path / "seed0/factors/0123456789abcdef.spectra.npz", size=3000)
    spectra.draw(tmp_path, tmp_path)
    rows = [row for row in read_csv(tmp_path / "spectra.csv") if (row["layer"], row["factor"]) == ("head", "A")]
    assert len(rows) <= spectra.RANKS
    assert [rows[i]["rank"] for i in (0, 1, -1)] == [1, 2, 3000]
    assert [rows[1][k] for k in ("eigenvalue", "relative")] == [1.25, 0.25]
    assert rows[-1]["relative"] == 0


def test_spectra_draw_every_file_of_the_smallest_seed(tmp_path):
    for name in ("seed1/factors/aaaaaaaabbbb", "seed1/factors/ccccccccdddd", "seed2/factors/eeeeeeeeffff"):
        write_spectra(tmp_path / f"{name}.spectra.npz", size=5)
    (tmp_path / "seed0").mkdir()
    assert [path.stem for path in spectra.draw(tmp_path, tmp_path)] == [
        f"{name}_{digest}" for digest in ("aaaaaaaa", "cccccccc") for name in ("spectra", "mass")
    ]


def test_spectra_of_a_vanished_factor_have_no_ratio():
    assert all(math.isnan(relative) for _, _, relative in spectra.decay(np.zeros(4)))


def test_frontier_means_over_seeds_in_the_order_of_the_option(tmp_path):
    models = {"base": ("", "", ""), "retrain": ("", "", ""), "clean": ("", "", "")}
    models |= {f"{name}-rho{rho}": (name, "rho", rho) for name in ("ekfac", "kfac") for rho in (0.9, 0.5)}
    models["svd-keep0.1"] = ("svd", "keep", 0.1)  # one value is no line
    write_results(tmp_path / "results.csv", seeds=(0, 1, 2), models=models)
    assert [path.name for path in frontier.draw(tmp_path / "results.csv", tmp_path)] == ["frontier.png"]
    rows = read_csv(tmp_path / "frontier.csv")
    assert [row["id"] for row in rows] == ["ekfac", "ekfac", "kfac", "kfac", "base", "retrain"]
    assert [row["value"] for row in rows[:4]] == [0.5, 0.9, 0.5, 0.9]
    for metric in ("memorized_accuracy", "validation_accuracy", "ground_truth_accuracy"):
        accuracies = [0.8, 0.9, 1.0]  # of ekfac-rho0.5, the fifth model
        expected = [statistics.fmean(accuracies), statistics.stdev(accuracies), 3]
        assert [rows[0][f"{metric}{part}"] for part in ("", "_sd", "_seeds")] == pytest.approx(expected)
    assert rows[5]["validation_accuracy"] == pytest.approx(0.3)


def test_frontier_of_one_seed_has_no_sd_and_leaves_out_what_was_not_measured(tmp_path):
    header = ["seed", "id", "edit", "option", "value", *ACCURACIES]
    rows = [[0, f"kfac-rho{rho}", "kfac", "rho", rho, 0.5, "", 0.5, 0.25] for rho in (0.5, 0.9)]
    write_csv(tmp_path / "results.csv", header, rows)
    frontier.draw(tmp_path / "results.csv", tmp_path)
    row = read_csv(tmp_path / "frontier.csv")[0]
    assert (row["validation_accuracy"], row["validation_accuracy_seeds"]) == (0.25, 1)
    assert math.isnan(row["validation_accuracy_sd"])
    assert math.isnan(row["ground_truth_accuracy"])
    assert row["ground_truth_accuracy_seeds"] == 0


def test_frontier_tells_many_families_apart(tmp_path):
    models = {f"family{n}-rho{rho}": ("kfac", "rho", rho) for n in range(13) for rho in (0.5, 0.9)}
    write_results(tmp_path / "results.csv", models=models)
    frontier.draw(tmp_path / "results.csv", tmp_path)
    assert len(read_csv(tmp_path / "frontier.csv")) == 26
    assert len({*frontier.COLORS}) == len({*frontier.MARKERS}) == 8


def test_frontier_without_a_swept_option_draws_nothing(tmp_path):
    write_results(tmp_path / "results.csv", models={"base": ("", "", ""), "kfac-rho0.5": ("kfac", "rho", 0.5)})
    assert frontier.draw(tmp_path / "results.csv", tmp_path) == []


SIZES = {"attn.qkv": (12, 7), "attn.proj": (4, 9), "mlp.fc2": (6, 15)}


def write_random_spectra(folder):
    """Write spectra of two blocks with zeros at the end, and return lambda and mu by layer."""
    random = np.random.default_rng(0)
    layers = {
        f"blocks.{block}.{kind}": [np.append(np.sort(random.exponential(size=n - 2) ** 4)[::-1], [0, 0]) for n in shape]
        for block in range(2)
        for kind, shape in SIZES.items()
    }
    path = folder / "seed0/factors/0123456789abcdef.spectra.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{f"{layer}/{f}": v for layer, pair in layers.items() for f, v in zip("GA", pair, strict=True)})
    return layers


def test_mass_agrees_with_the_sum_over_all_pairs(tmp_path):
    layers = write_random_spectra(tmp_path)
    spectra.draw(tmp_path, tmp_path)
    rows = read_csv(tmp_path / "mass.csv")
    assert len(rows) == len(layers) * (spectra.THRESHOLDS + 1)
    for row in rows:
        mass = np.outer(*layers[row["layer"]])
        kept = mass >= row["tau"] * (1 - 1e-12)  # tau may be a mass, written with the last bit rounded
        assert (row["pairs_kept"], row["pairs"]) == (kept.sum(), mass.size)
        assert row["share_kept"] == pytest.approx(kept.mean())
        assert row["mass_kept"] == pytest.approx(mass[kept].sum() / mass.sum())
    assert (rows[0]["block"], rows[0]["type"], rows[0]["pairs_kept"]) == (0, "qkv", 1)
    assert [rows[spectra.THRESHOLDS][k] for k in ("tau", "share_kept", "mass_kept")] == [0, 1, 1]


def test_mass_of_a_vanished_factor_has_no_points(tmp_path):
    assert spectra.concentration(np.zeros(3), np.ones(2)) == []
    path = tmp_path / "seed0/factors/0123456789abcdef.spectra.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{"head/G": np.zeros(3), "head/A": np.ones(2)})
    assert [path.name for path in spectra.draw(tmp_path, tmp_path)] == ["spectra.png"]
    assert staircase.draw(tmp_path, tmp_path) == []


def test_staircase_keeps_the_fewest_pairs_that_hold_the_mass(tmp_path):
    layers = write_random_spectra(tmp_path)
    assert [path.name for path in staircase.draw(tmp_path, tmp_path)] == ["staircase.png"]
    rows = read_csv(tmp_path / "staircase.csv")
    shown = ["blocks.0.attn.qkv", "blocks.0.mlp.fc2", "blocks.1.attn.qkv", "blocks.1.mlp.fc2"]
    assert list(dict.fromkeys(row["layer"] for row in rows)) == shown
    for layer in shown:
        mass = np.outer(*layers[layer])
        falling = np.sort(mass.ravel())[::-1]
        for rho in staircase.RHOS:
            count = 1 + np.searchsorted(np.cumsum(falling), rho * mass.sum())
            corners = [row for row in rows if (row["layer"], row["rho"]) == (layer, rho)]
            columns = (mass >= falling[count - 1]).sum(axis=1)
            assert [(row["i"], row["j_max"]) for row in corners] == [(i, j) for i, j in enumerate(columns, 1) if j]
            assert {(row["tau"], row["pairs_kept"], row["pairs"]) for row in corners} == {
                (falling[count - 1], count, mass.size)
            }


def test_staircase_thins_a_long_boundary_and_keeps_its_ends(tmp_path):
    write_spectra(tmp_path / "seed0/factors/0123456789abcdef.spectra.npz", size=3000)
    staircase.draw(tmp_path, tmp_path)
    rows = [row for row in read_csv(tmp_path / "staircase.csv") if row["rho"] == 0.99]
    corners = [row["i"] for row in rows if row["layer"] == "blocks.0.attn.qkv"]
    assert 40 <= len(corners) <= staircase.CORNERS
    assert corners[0] == 1
    assert rows[len(corners) - 1]["j_max"] >= 1


def test_pair_masses_keep_equal_masses_together():
    masses = PairMasses(np.array([3.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0]))
    tau = masses.threshold(0.7)  # of 10: the two threes and one of four ones
    assert (tau, masses.kept(tau)) == (1.0, (6, 1.0))
    assert masses.columns(tau).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            ["blocks.0.mlp.fc2", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "head"],
            ["blocks.0.attn.qkv", "blocks.0.mlp.fc2"],
        ),
        (["blocks.0.fc1", "blocks.1.fc1", "blocks.2.fc1"], ["blocks.0.fc1", "blocks.2.fc1"]),
        (["stem", "neck", "head"], ["stem", "head"]),
        ([], []),
    ],
)
def test_staircase_chooses_the_ends_of_the_outer_blocks(layers, expected):
    assert staircase.choose(layers) == expected


def test_sheet_lists_the_labels_shown(tmp_path):
    sheet.draw(tmp_path, **SHEET)
    rows = (tmp_path / "sheet.csv").read_text().splitlines()
    assert rows[:2] == ["number,given,true,before,after", "1,cat,dog,cat,dog"]
    assert rows[3] == "3,flying_squirrel,cat,flying_squirrel,dog"


def test_sheet_holds_at_most_48_colour_images(tmp_path):
    labels = {name: np.zeros(50, dtype=int) for name in ("given", "true", "before", "after")}
    sheet.draw(tmp_path, **{**SHEET, **labels, "image": np.zeros((50, 2, 2, 3))})
    assert len(read_csv(tmp_path / "sheet.csv")) == 48
    assert sheet.draw(tmp_path, **{**SHEET, "image": np.zeros((0, 2, 2))}) == []


def test_sheet_colours_tell_the_outcomes_apart():
    colors = [sheet.outcome_color("cat", "dog", after) for after in ("dog", "cat", "bird")]
    assert colors == list(sheet.OUTCOMES.values())


def test_the_comparison_groups_methods_by_track_and_keeps_what_failed(tmp_path):
    def row(name, track="", point="best", seed=0, status="ok", **values):
        edit = name if track else ""
        return {"id": f"{name}-{point}" if edit else name, "edit": edit, "seed": seed, "point": point if edit else None,
                "track": f"{track} (tuned)" if edit else "", "trials": 3, "status": status, **values}  # fmt: skip

    def at(value):
        return {"ground_truth_unseen_accuracy": value, "memorized_unseen_accuracy": 0.25}

    rows = [row("base", **at(0.0)), row("npo", "known noisy examples", **at(0.5)),
            row("ekfac", "label-free", **at(0.6)), row("scrub", "known noisy examples", status="diverged: nan"),
            row("npo", "known noisy examples", seed=1, **at(0.7)),
            row("salun", "known noisy examples", **at(0.65)), row("sap", "right labels", **at(0.1)),
            row("oracle", "known noisy examples, and their true labels (a bound)", **at(0.9))]  # fmt: skip
    (tmp_path / "comparison.csv").write_text(comparison_csv(rows))
    (path,) = comparison.draw(tmp_path / "comparison.csv", tmp_path / "figures")
    assert path.stat().st_size > 1000
    lines = read_csv(tmp_path / "comparison.csv", comparison.TEXT)
    assert [comparison.named(lines, name) for name in ("base", "npo", "scrub")] == ["base", "npo", "scrub (0 of 1)"]
    with open(path.with_suffix(".csv"), newline="") as file:
        found = [r for r in csv.DictReader(file) if r["metric"] == "ground_truth_unseen_accuracy"]
    best = {r["method"]: r for r in found if r["point"] == "best"}
    assert list(best) == ["base", "ekfac", "sap", "salun", "npo", "scrub", "oracle"]
    assert (float(best["npo"]["mean"]), best["npo"]["usable_seeds"]) == (pytest.approx(0.6), "2.0")
    assert (best["scrub"]["mean"], best["scrub"]["status"]) == ("", "diverged: nan")
    assert [r["method"] for r in found if r["point"] == "at0.2"] == ["base"]
