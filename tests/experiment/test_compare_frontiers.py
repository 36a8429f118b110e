"""The comparison of frontiers: what is detectable, choices below the bound, and pairs of examples of one run."""

import importlib.util
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from vitmem.evaluation.predict import ExampleTable
from vitmem.evaluation.statistics import detectable_difference

SCRIPT = Path(__file__).parents[2] / "experiments" / "compare_frontiers.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_frontiers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(name, seed, memorized, truth, validation, value=math.nan):
    edit, option = ("kfac", "rho") if "rho" in name else ("", "")
    accuracies = {"memorized": memorized, "ground_truth": truth, "clean_train": 1.0, "validation": validation}
    measured = {f"{metric}_accuracy": number for metric, number in accuracies.items()}
    return {"seed": float(seed), "id": name, "edit": edit, "option": option, "value": value, "status": "", **measured}


def frontier(family, seed, truth):
    return [row(f"{family}-rho{v}", seed, m, truth, 0.8, v) for v, m in ((0.9, 0.4), (0.5, 0.1))]


def cells(line):
    return [part.strip() for part in line.strip("|").split("|")]


def test_beside_each_difference_is_what_would_have_been_detected(script):
    gaps = [0.1, 0.2, 0.15, 0.05]
    rows = [r for seed, gap in enumerate(gaps) for r in frontier("a", seed, 0.5) + frontier("b", seed, 0.5 + gap)]
    lines = script.matched_table(script.by_family(rows), ["a"], 0.2, 0.02)
    header = next(cells(line) for line in lines if "detectable" in line)
    (found,) = [cells(line) for line in lines[lines.index("") + 6 :] if line.startswith("| b |")]
    assert header.index("detectable (power 0.8)") == header.index("Δ ground truth") + 1
    assert found[1].startswith("+0.125 [")
    assert found[2] == f"{detectable_difference(np.std(gaps, ddof=1), 4):.3f}"
    assert len(found) == len(header)


def test_a_choice_below_the_bound_is_marked_and_the_mean_is_given_without_it(script):
    rows = []
    for seed, (truth, validation) in enumerate(((0.4, 0.8), (0.7, 0.7), (0.3, 0.79))):
        rows += [row("base", seed, 1.0, 0.0, 0.8), row("choice", seed, 0.2, truth, validation)]
        rows += frontier("full", seed, 0.5)
    lines = script.regret_table(rows, script.by_family(rows), "choice", ["full"], 0.01)
    assert [line[2] for line in lines if "(below the bound)" in line] == ["1"]
    assert lines[-1] == "Mean regret: 0.033 ± 0.208; without the 1 below the bound: 0.150 ± 0.071"
    kept = [r for r in rows if r["seed"] != 1]
    assert script.regret_table(kept, script.by_family(kept), "choice", ["full"], 0.01)[-1] == (
        "Mean regret: 0.150 ± 0.071"
    )


def stored(path, prediction, known, order):
    n = len(prediction)
    split, noisy = np.append(np.zeros(n), 1).astype(np.int8), np.append(np.arange(n) < n - 1, True)
    columns = [split, np.append(np.arange(n), 0), np.zeros(n + 1, int), np.ones(n + 1, int), noisy]
    columns += [np.append(prediction, 0), np.zeros(n + 1), np.zeros(n + 1), np.append(known, False)]
    path.parent.mkdir(parents=True)
    ExampleTable(*(column[order] for column in columns)).save(path)


def test_two_models_of_one_run_are_compared_example_by_example(script, tmp_path, monkeypatch, capsys):
    # 50 wrong labels (given 0, true 1), one right label and one validation example that do not count
    first = np.repeat([1, 1, 0, 0], [36, 12, 2, 0])
    second = np.repeat([1, 0, 1, 0], [36, 12, 2, 0])
    known = np.arange(51) < 36
    orders = np.arange(52), np.random.default_rng(0).permutation(52)
    models = ("seed0/evals/kfac", "seed0-retrain/evals/base")
    for name, prediction, order in zip(models, (first, second), orders, strict=True):
        stored(tmp_path / name / "examples.npz", np.append(prediction, 1), known, order)
    monkeypatch.setattr(sys, "argv", ["compare", "--examples", str(tmp_path / "seed0"), "kfac", "retrain"])
    script.main()
    lines = [cells(line) for line in capsys.readouterr().out.splitlines() if re.match(r"\| (all|known)", line)]
    published = "+0.200 [+0.057, +0.340]"  # Newcombe 1998
    p = f"{2 * sum(math.comb(14, k) for k in range(3)) / 2**14:.2g}"
    assert lines[0] == ["all (n=50)", "ground truth", "0.960", "0.760", published, "12 / 2", p]
    assert lines[1] == ["all (n=50)", "memorized", "0.040", "0.240", "-0.200 [-0.340, -0.057]", "2 / 12", p]
    assert lines[2][:4] == ["known to no edit (n=14)", "ground truth", f"{12 / 14:.3f}", f"{2 / 14:.3f}"]
    with pytest.raises(SystemExit, match=r"nothing/examples.npz is not there"):
        script.examples_table(tmp_path / "seed0", "kfac", "nothing")
