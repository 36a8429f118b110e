"""Methods of an experiment beside each other."""

import math

import pytest

from vitmem.evaluation.comparison import compare, comparison_csv, comparison_table


def test_methods_are_compared_with_kfac_seed_by_seed():
    def row(name, seed, value, point="best", status="ok"):
        return {"edit": name, "point": point, "id": f"{name}-{point}", "seed": seed, "status": status,
                "ground_truth_unseen_accuracy": value}  # fmt: skip

    rows = [row("kfac", 0, 0.3), row("kfac", 1, 0.5), row("npo", 0, 0.5), row("npo", 1, 0.6), row("npo", 2, 0.9),
            row("kfac", 0, 0.1, "at0.2"), row("npo", 0, 0.2, "at0.2"), row("svd", 1, 0.4, status="at chance"),
            {"edit": "", "id": "base", "seed": 0, "ground_truth_unseen_accuracy": 0.0}]  # fmt: skip
    found = {(line["method"], line["point"]): line for line in compare(rows)}
    name = "ground_truth_unseen_accuracy_minus_kfac"
    best = found["npo", "best"]
    assert best[name] == pytest.approx(0.15)  # seeds 0 and 1
    assert best[f"{name}_high"] - best[name] == pytest.approx(12.706 * 0.05, rel=1e-3)  # t, one degree of freedom
    assert found["npo", "at0.2"][name] == pytest.approx(0.1)
    assert math.isnan(found["svd", "best"][name])
    assert math.isnan(found["base", "reference"][name])
    assert best["ground_truth_unseen_accuracy_above_kfac"] == "2/2"
    assert found["svd", "best"]["ground_truth_unseen_accuracy_above_kfac"] == ""
    assert "+0.150 [-0.485, +0.785] (2/2)" in comparison_table(rows)
    rows[2] = row("npo", 0, 0.3)
    assert "+0.050 [-0.585, +0.685] (1/2)" in comparison_table(rows)


def test_the_comparison_leaves_failed_seeds_out():
    row = {"edit": "x", "point": "best", "id": "x-best", "track": "label-free (tuned)", "trials": 4, "passes": 1.0}
    rows = [
        {"id": "base", "seed": 0, "edit": "", "ground_truth_unseen_accuracy": 0.0},
        {**row, "seed": 0, "status": "ok", "ground_truth_unseen_accuracy": 0.5},
        {**row, "seed": 1, "status": "ok", "ground_truth_unseen_accuracy": 0.7},
        {**row, "seed": 2, "status": "at chance", "ground_truth_unseen_accuracy": 0.1},
    ]
    _, line = compare(rows)
    assert (line["method"], line["seeds"], line["usable_seeds"]) == ("x", 3, 2)
    assert line["ground_truth_unseen_accuracy"] == pytest.approx(0.6)
    assert line["ground_truth_unseen_accuracy_sd"] == pytest.approx(math.sqrt(0.02))
    text = comparison_table(rows)
    assert "| x (at chance, 1 of 3 seeds) | label-free (tuned) |" in text
    assert "0.600 ± 0.141" in text


CSV = """
method,point,track,trials,seeds,usable_seeds,lost_validation,status
base,reference,,0,1,1,0,
kfac,best,label-free,4,2,2,1,
npo,default,known noisy examples,0,2,1,0,at chance
"""


def reported():
    rows = [{"id": "base", "seed": 0, "edit": "", "clean_train_accuracy": 0.5, "seconds": 1.0}]
    kfac = {"id": "kfac-best", "edit": "kfac", "point": "best", "track": "label-free", "trials": 4, "status": "ok"}
    rows += [
        {**kfac, "seed": s, "kept_validation": bool(s), "clean_train_accuracy": 0.25 + 0.5 * s, "passes": 1.0 + s,
         "ground_truth_unseen_accuracy": 0.5, "validation_held_out_accuracy": 0.5 + 0.25 * s}
        for s in (0, 1)
    ]  # fmt: skip
    npo = {"id": "npo", "edit": "npo", "track": "known noisy examples", "clean_train_accuracy": 1.0}
    rows += [{**npo, "seed": 0, "status": "ok", "ground_truth_unseen_accuracy": 0.25, "seconds": 4.0, "passes": ""}]
    rows += [{**npo, "seed": 1, "status": "at chance", "ground_truth_unseen_accuracy": 1.0, "seconds": 8.0}]
    return rows


def test_the_comparison_as_csv():
    lines = [line.split(",") for line in comparison_csv(reported()).splitlines()]
    assert [line[:8] for line in lines] == [line.split(",") for line in CSV.strip().splitlines()]
    header, base, kfac, npo = (dict(zip(lines[0], line, strict=True)) for line in lines)
    assert len(header) == len(lines[0])
    assert (base["clean_train_accuracy"], base["clean_train_accuracy_sd"], base["seconds"]) == ("0.5", "", "1.0")
    assert float(kfac["clean_train_accuracy"]) == 0.5
    assert float(kfac["clean_train_accuracy_sd"]) == pytest.approx(0.5 / 2**0.5)
    assert (kfac["passes"], kfac["seconds"]) == ("1.5", "")
    assert (npo["clean_train_accuracy"], npo["seconds"], npo["passes"]) == ("1.0", "6.0", "")
    assert npo["ground_truth_unseen_accuracy_minus_kfac"] == "-0.25"  # of seed 0; of one there is no interval
    assert npo["ground_truth_unseen_accuracy_minus_kfac_low"] == ""
    assert npo["ground_truth_unseen_accuracy_above_kfac"] == "0/1"
    assert npo["validation_held_out_accuracy_above_kfac"] == ""
    assert kfac["ground_truth_unseen_accuracy_above_kfac"] == "0/2"
    assert (base["ground_truth_unseen_accuracy_minus_kfac"], base["ground_truth_unseen_accuracy_above_kfac"]) == (
        "",
        "",
    )


def test_the_comparison_as_a_table():
    lines = comparison_table(reported()).splitlines()
    titles = [line for line in lines if line.endswith(":")]
    assert [line.split(",")[0].split(" with")[0] for line in titles] == [
        "Best ground truth", "Memorised accuracy nearest 0.2", "Memorised accuracy nearest 0.05",
    ]  # fmt: skip
    first = lines[: lines.index(titles[1])]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first if line.startswith("| ")]
    header, base, kfac, npo = rows
    assert header[:2] == ["method", "track"]
    assert header[-4:] == ["Δ ground truth to kfac", "passes", "seconds", "MiB"]
    assert base[0] == "base"
    assert kfac[0] == "kfac (no trial kept validation, 1 of 2 seeds)"
    assert npo[0] == "npo (no trials) (at chance, 1 of 2 seeds)"
    assert kfac[header.index("clean train")] == "0.500 ± 0.354"
    assert npo[header.index("clean train")] == "1.000"
    assert [row[-4] for row in rows[1:]] == ["-", "", "-0.250"]
    assert [row[-3:] for row in rows[1:]] == [["-", "1", "-"], ["1.5", "-", "-"], ["-", "6", "-"]]
    second = lines[lines.index(titles[1]) :]
    assert sum(line.startswith("| base") for line in second) == 2  # references stand in every table
    assert not any(line.startswith(("| kfac", "| npo")) for line in second)
    without = comparison_table([row for row in reported() if row["edit"] != "kfac"])
    assert "Δ" not in without
    explained = "known, unseen: wrong labels that edits with a forget set knew, or did not; mean ± sd over seeds"
    assert lines[-2] == without.splitlines()[-1] == explained
    assert lines[-1].startswith("Δ: of unseen ones, paired over seeds; ")
