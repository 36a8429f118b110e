"""What is compared with what, at which levels, and what is said where something is missing."""

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
from predicted import COLUMNS
from scipy import stats

from vitmem.evaluation import contrast_tables
from vitmem.evaluation.arms import Question, plan
from vitmem.evaluation.contrasts import comparisons, direction, interactions, levels_of, power_rows, verdicts
from vitmem.evaluation.formats import Table, written
from vitmem.evaluation.metrics import compute
from vitmem.evaluation.paired_examples import paired_examples
from vitmem.evaluation.predict import TEST, TRAIN, VALIDATION, ExampleTable

TRUTH, VALIDATED = "ground_truth_accuracy", "validation_accuracy"


def row(name, seed, truth, **more):
    edit = name.split("-")[0] if "-" in name else ""
    found = {"experiment": "e", "seed": seed, "id": name, "edit": edit, "option": "rho" if "rho" in name else ""}
    found |= {"value": float(name.split("rho")[1]) if "rho" in name else math.nan, "status": "ok", "point": ""}
    return found | {TRUTH: truth, VALIDATED: 0.9 - truth / 10} | more


def rows(name, values, **more):
    return [row(name, seed, value, **more) for seed, value in enumerate(values)]


ONE, TWO = [0.5, 0.62, 0.57, 0.6], [0.4, 0.47, 0.5, 0.49]
TABLE = rows("base", [0.0, 0.0, 0.01, 0.0]) + rows("kfac-rho0.9", ONE) + rows("svd-keep0.1", TWO)


def asked(table, *between, **more):
    question = Question(between, **more)
    return plan(table, question), question


def compared(table, *between, **more):
    found, question = asked(table, *between, **more)
    return verdicts(comparisons(found), question)


def test_two_edits_are_compared_as_scipy_does_it():
    truth, validation = compared(TABLE, "kfac-rho0.9", "svd-keep0.1", margin=0.05)
    expected = stats.ttest_rel(ONE, TWO)
    assert (truth["first"], truth["second"], truth["metric"], truth["n"]) == ("kfac-rho0.9", "svd-keep0.1", TRUTH, 4)
    assert truth["difference"] == pytest.approx(np.mean(ONE) - np.mean(TWO))
    assert (truth["low"], truth["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert truth["p"] == pytest.approx(expected.pvalue)
    assert truth["p_sign_flips"] == 2 / 2**4
    assert truth["probability"] == pytest.approx(stats.mannwhitneyu(ONE, TWO).statistic / 16)
    smaller, larger = sorted([truth["p"], validation["p"]])
    assert {truth["p_holm"], validation["p_holm"]} == {2 * smaller, max(2 * smaller, larger)}
    assert truth["verdict"] == "better"
    assert validation["verdict"] == "worse (within the margin)"


def test_less_is_better_where_the_metric_says_so():
    assert [direction(m) for m in (TRUTH, "memorized_accuracy", "memorized_unseen_accuracy", "tow")] == [1, -1, -1, 1]
    assert direction("given_cross_entropy") == direction("seconds") == 0
    table = [{**r, "memorized_accuracy": r[TRUTH], "seconds": r[TRUTH]} for r in TABLE]
    memory, seconds = compared(table, "kfac-rho0.9", "svd-keep0.1", metrics=("memorized_accuracy", "seconds"))
    assert (memory["verdict"], seconds["verdict"]) == ("worse", "higher")
    assert memory["probability"] == pytest.approx(1 - seconds["probability"])


def test_names_patterns_families_and_baselines():
    table = TABLE + rows("kfac-rho0.8", TWO)
    assert asked(table, "*", against=("base",))[0].pairs == [
        ("kfac-rho0.9", "base"), ("svd-keep0.1", "base"), ("kfac-rho0.8", "base")
    ]  # fmt: skip
    assert asked(table, "kfac-*", "svd-keep0.1")[0].pairs == [
        ("kfac-rho0.9", "kfac-rho0.8"), ("kfac-rho0.9", "svd-keep0.1"), ("kfac-rho0.8", "svd-keep0.1")
    ]  # fmt: skip
    levels = asked(table, "kfac", against=("base",), by=("value",))[0]
    assert levels.levels == [("0.8",), ("0.9",)]
    found = comparisons(levels)
    assert [pair.level[0] for pair in found[:2]] == ["0.8", "0.9"]  # base has no value: it stands at both
    assert found[1].differences == pytest.approx({0: 0.5, 1: 0.62, 2: 0.56, 3: 0.6})
    tuned = [{**r, "id": f"{r['id']}-at0.2", "point": "at0.2"} for r in TABLE if r["edit"]]
    assert list(asked(tuned, "kfac-rho0.9", "svd-keep0.1")[0].arms) == ["kfac-rho0.9", "svd-keep0.1"]


def test_what_is_without_a_factor_stands_at_all_of_its_values():
    table = [
        {**r, "noise_rate": rate} for rate in (0.1, 0.4) for r in rows("base", [rate] * 4) + rows("kfac-rho0.9", ONE)
    ]
    table += [{**r, "noise_rate": 0.1, "value": 0.8, "id": "kfac-rho0.8"} for r in rows("kfac-rho0.8", TWO)]
    found, _ = asked(table, "kfac", against=("base",), by=("noise_rate", "value"), metrics=(TRUTH,))
    assert found.levels == [("0.1", "0.8"), ("0.1", "0.9"), ("0.4", "0.9")]
    assert [pair.two[0] for pair in comparisons(found)[:3]] == [0.1, 0.1, 0.4]


RATES = [
    r
    for rate, shift in ((0.4, 0.05), (0.1, 0.0))
    for name, values in (("kfac-rho0.9", ONE), ("svd-keep0.1", TWO))
    for r in rows(name, [v + shift * (s + 1) * (name[0] == "k") for s, v in enumerate(values)], noise_rate=rate)
]


def test_factors_give_levels_their_mean_and_interactions():
    found, question = asked(RATES, "kfac-rho0.9", "svd-keep0.1", by=("noise_rate",), metrics=(TRUTH,))
    pairs = comparisons(found)
    low, high, mean = verdicts(pairs, question)
    assert [r["level"] for r in (low, high, mean)] == [("0.1",), ("0.4",), ("mean of levels (of 2)",)]
    assert mean["difference"] == pytest.approx((low["difference"] + high["difference"]) / 2)
    assert mean["probability"] == pytest.approx((low["probability"] + high["probability"]) / 2)
    (change,) = verdicts(interactions(found, pairs), question, differ=True)
    expected = stats.ttest_1samp([0.05, 0.1, 0.15, 0.2], 0)
    assert (change["difference"], change["p"]) == pytest.approx((0.125, expected.pvalue))
    assert change["verdict"] == "higher"
    assert (change["first"], change["second"]) == ("kfac-rho0.9 - svd-keep0.1", "noise_rate 0.4 less noise_rate 0.1")


def test_levels_of_one_model_and_two_factors():
    found, _ = asked(RATES, "kfac-rho0.9", by=("noise_rate",))
    assert (found.of, found.pairs) == ("kfac-rho0.9", [("noise_rate 0.4", "noise_rate 0.1")])
    table = [{**r, "epochs": float(e), TRUTH: r[TRUTH] + 0.01 * e * r["seed"]} for r in RATES for e in (10, 20)]
    found, question = asked(table, "svd-keep0.1", by=("epochs", "noise_rate"), metrics=(TRUTH,))
    pairs = comparisons(found)
    assert [pair.level[0] for pair in pairs] == ["0.1", "0.4", "mean of levels (of 2)"]
    assert pairs[0].differences == pytest.approx({0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})
    (change,) = verdicts(interactions(found, pairs), question, differ=True)
    assert change["difference"] == pytest.approx(0, abs=1e-12)
    assert change["first"] == "epochs 20 - epochs 10"


def test_the_interquartile_mean_is_over_seeds_and_levels():
    found, question = asked(RATES, "kfac-rho0.9", "svd-keep0.1", by=("noise_rate",), metrics=(TRUTH,))
    last = levels_of(found, question)[2]
    values = sorted(r[TRUTH] for r in RATES if r["edit"] == "kfac")
    assert (last["first"], last["n"], last["mean"]) == ("kfac-rho0.9", 8, pytest.approx(np.mean(values)))
    assert last["iqm"] == pytest.approx(np.mean(values[2:6]))
    assert last["iqm_low"] < last["iqm"] < last["iqm_high"]


def test_what_is_missing_is_said():
    table = rows("base", [0.0] * 4) + rows("kfac-rho0.9", ONE) + rows("svd-keep0.1", TWO[:2])
    table[5] |= {"status": "diverged: loss is NaN"}
    table[6] |= {TRUTH: math.nan}
    table[7] |= {"point": "best", "kept_validation": "False"}
    found, question = asked(table, "kfac-rho0.9", "svd-keep0.1", metrics=(TRUTH,))
    (pair,) = verdicts(comparisons(found), question)
    assert (pair["n"], pair["verdict"], math.isnan(pair["p"])) == (1, "one seed", True)
    assert pair["note"] == (
        "kfac-rho0.9 lacks seed 1 (diverged: loss is NaN); kfac-rho0.9 lacks seed 2 (no ground_truth_accuracy); "
        "kfac-rho0.9 lacks seed 3 (no trial kept validation); svd-keep0.1 lacks seeds 2, 3 (no row)"
    )
    text = contrast_tables.comparisons([pair], (), 0.02).notes[-1]
    assert text.startswith("kfac-rho0.9 - svd-keep0.1: one seed, so no test over seeds; kfac-rho0.9 lacks seed 1")
    assert (
        "of one seed, so without interval: kfac-rho0.9" in contrast_tables.levels(levels_of(found, question), ()).notes
    )


def test_cells_that_are_missing_at_a_level_are_said():
    table = [r for r in RATES if (r["edit"], r["noise_rate"]) != ("svd", 0.4)]
    found, question = asked(table, "kfac-rho0.9", "svd-keep0.1", by=("noise_rate",), metrics=(TRUTH,))
    pairs = comparisons(found)
    told = verdicts(pairs, question)
    assert [(r["n"], r["verdict"]) for r in told] == [(4, "better"), (0, "not compared")]
    assert told[1]["note"] == "svd-keep0.1 lacks seeds 0, 1, 2, 3 (no row)"
    (change,) = verdicts(interactions(found, pairs), question, differ=True)
    assert (change["n"], change["note"]) == (0, "seeds 0, 1, 2, 3 not at both levels")
    noted = contrast_tables.comparisons(told, found.factors, 0.02).notes[-1]
    assert noted.startswith("at noise_rate 0.4: kfac-rho0.9 - svd-keep0.1: no seed, so no test over seeds")
    partly = [r for r in RATES if (r["edit"], r["noise_rate"], r["seed"]) != ("svd", 0.4, 2)]
    found, _ = asked(partly, "kfac-rho0.9", "svd-keep0.1", by=("noise_rate",), metrics=(TRUTH,))
    mean = comparisons(found)[-1]
    assert (sorted(mean.differences), mean.note) == ([0, 1, 3], "seed 2 not at every level")


def test_several_experiments_are_levels_of_their_own():
    table = TABLE + [{**r, "experiment": "f"} for r in TABLE]
    found, _ = asked(table, "kfac-rho0.9", "svd-keep0.1")
    assert (found.factors, found.levels) == (("experiment",), [("e",), ("f",)])
    apart = rows("kfac-rho0.9", ONE) + [{**r, "experiment": "f"} for r in rows("svd-keep0.1", TWO)]
    assert asked(apart, "kfac-rho0.9", "svd-keep0.1")[0].factors == ()  # one model of each: paired by seed


@pytest.mark.parametrize(
    ("table", "between", "more", "message"),
    [
        (TABLE, ["kfac-rho0.8"], {}, "between: there is no 'kfac-rho0.8' in the table; there are: kfac-rho0.9"),
        (TABLE, ["*"], {"against": ("none",)}, "against: there is no 'none'"),
        (TABLE, ["base"], {}, "only base is chosen: name two"),
        (TABLE, ["kfac-rho0.9"], {"against": ("kfac-rho0.9",)}, "only kfac-rho0.9 is chosen"),
        (TABLE, ["*"], {"by": ("speed",)}, "by: no row has a 'speed'; columns in which rows differ: id, edit"),
        (TABLE, ["*"], {"by": ("id", "id")}, "give each factor once"),
        (TABLE, ["*"], {"metrics": ("validation",)}, "has a number as 'validation'; there are: validation_accuracy"),
        (TABLE, ["*"], {"margin": 0.0}, "margin is 0; expected a difference above 0"),
        (TABLE, ["*"], {"margin": math.nan}, "margin is nan"),
        (RATES, ["*"], {}, "kfac-rho0.9 has several rows for seed 0, which differ in noise_rate; give --by noise_rate"),
        (TABLE + TABLE[:1], ["*"], {}, "base has several rows for seed 0, and nothing tells them apart"),
        ([{**r, TRUTH: math.nan, VALIDATED: math.nan} for r in TABLE], ["*"], {}, "give --metrics"),
    ],
)  # fmt: skip
def test_questions_that_have_no_answer(table, between, more, message):
    with pytest.raises(ValueError, match=message):
        asked(table, *between, **more)


def test_power_from_a_table():
    from vitmem.evaluation.statistics import detectable_difference, seeds_needed

    found, _ = asked(TABLE, "*", against=("base",))
    pairs = comparisons(found)
    row = power_rows(pairs, 0.03, [3, 9])[0]
    sd = np.std(np.subtract(ONE, [0, 0, 0.01, 0]), ddof=1)
    assert (row["n"], row["sd"]) == (4, pytest.approx(sd))
    assert row["seeds_needed"] == seeds_needed(0.03, sd) < row["seeds_needed_family"]
    assert row["seeds_needed_family"] == seeds_needed(0.03, sd, level=0.05 / len(pairs))
    assert row["detectable_9"] == detectable_difference(sd, 9)


def answers(seed, n=400):
    """Return what a model of some skill says of training, validation and test examples, a third of them noisy."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    split = np.repeat([TRAIN, VALIDATION, TEST], [n // 2, n // 4, n // 4]).astype(np.int8)
    index = np.concatenate([np.arange((split == part).sum()) for part in (TRAIN, VALIDATION, TEST)])
    true = fixed.integers(4, size=n)
    given = np.where((split == TRAIN) & (fixed.random(n) < 1 / 3), (true + 1) % 4, true)
    said = np.where(rng.random(n) < 0.5, true, np.where(rng.random(n) < 0.5, given, (true + 2) % 4))
    known = (given != true) & (fixed.random(n) < 0.5)
    return ExampleTable(split, index, given, true, given != true, said, np.zeros(n), np.zeros(n), known)


ACCURACIES = (
    "memorized_accuracy", "memorized_known_accuracy", "memorized_unseen_accuracy", "ground_truth_accuracy",
    "ground_truth_known_accuracy", "ground_truth_unseen_accuracy", "clean_train_accuracy", "validation_accuracy",
    "validation_held_out_accuracy", "test_accuracy",
)  # fmt: skip


@pytest.mark.parametrize("metric", ACCURACIES)
def test_pairs_of_examples_have_the_shares_of_the_metrics_and_binomial_p(metric):
    first, second = answers(1), answers(2)
    order = np.random.default_rng(3).permutation(400)
    mixed = dataclasses.replace(second, **{name: getattr(second, name)[order] for name in COLUMNS})
    found = paired_examples(first, mixed, metric)
    for share, table in ((found.first, first), (found.second, second)):
        assert (share, found.n) == (compute(table)[metric].value, compute(table)[metric].n)
    differ = found.paired.only_first + found.paired.only_second
    assert found.paired.p == stats.binomtest(found.paired.only_first, differ).pvalue
    assert found.paired.only_first - found.paired.only_second == round((found.first - found.second) * found.n)
    assert found.paired.difference == pytest.approx(found.first - found.second)


def test_without_truth_memory_is_of_all_training_examples():
    first, second = (
        dataclasses.replace(answers(s), true=np.full(400, -1), is_noisy=np.zeros(400, bool)) for s in (1, 2)
    )
    assert paired_examples(first, second, "memorized_accuracy").n == compute(first)["memorized_accuracy"].n == 200


def test_only_shares_of_the_same_examples_are_paired():
    first = answers(1)
    assert paired_examples(first, first, "given_cross_entropy") is None
    assert paired_examples(first, first, "attack_success_rate") is None
    other = dataclasses.replace(first, given=first.true)
    with pytest.raises(ValueError, match="not measured on the same examples and labels"):
        paired_examples(first, other, TRUTH)


SMALL = Table(
    "A_b, c", ["x | y", "p"], [["1 % & 2", "<0.05"], ["Δ", "-"]], ["a note"], [{"x": 1, "p": math.nan}, {"q": 2}]
)


def test_formats():
    markdown = written([SMALL, SMALL], "markdown")
    assert markdown.count("### A_b, c\n\n| x \\| y  | p     |\n|---------|-------|\n| 1 % & 2 | <0.05 |\n") == 2
    assert markdown.endswith("\n- a note\n")
    latex = written([SMALL], "latex")
    assert r"\caption{A\_b, c}" in latex
    assert (
        "x \\textbar{} y & p \\\\\n\\midrule\n1 \\% \\& 2 & \\textless{}0.05 \\\\\n$\\Delta$ & - \\\\\n\\bottomrule"
        in latex
    )
    assert "a note." in latex
    found = list(csv.DictReader(io.StringIO(written([SMALL], "csv"))))
    assert found == [{"table": "a_b", "x": "1", "p": "", "q": ""}, {"table": "a_b", "x": "", "p": "", "q": "2"}]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_differences_are_no_certainty(seeds):
    """A few seeds of a coarse metric may agree; the spread of rounding errors would make p as small as one likes."""
    table = rows("kfac-rho0.9", [0.1 + 0.2 * k for k in range(seeds)])
    table += rows("svd-keep0.1", [0.15 + 0.2 * k for k in range(seeds)])
    truth = compared(table, "kfac-rho0.9", "svd-keep0.1", metrics=(TRUTH,))[0]
    assert truth["difference"] == pytest.approx(-0.05)
    assert math.isnan(truth["p"])
    assert math.isnan(truth["low"])
    assert truth["verdict"] == "undecided"
    near = rows("ssd", [0.11 + 0.2 * k for k in range(seeds)])
    within = compared(table + near, "kfac-rho0.9", "ssd", metrics=(TRUTH,), margin=0.02)[0]
    assert math.isnan(within["p_equal"])
    assert within["verdict"] == "undecided"
    same = compared(table + rows("ekfac-rho0.9", [0.1 + 0.2 * k for k in range(seeds)]), "kfac-rho0.9", "ekfac-rho0.9")
    assert same[0]["p"] == 1.0
