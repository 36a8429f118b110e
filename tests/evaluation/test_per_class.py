import dataclasses
import math

import numpy as np
import pytest
from predicted import by_hand
from scipy.stats import binomtest

from vitmem.evaluation.metrics import compute, remembered
from vitmem.evaluation.per_class import class_rows, flip_rows

NAMES = ("zero", "one", "two")


def found(table=None):
    return {(row["by"], row["class"]): row for row in class_rows(table or by_hand(), NAMES)}


def test_accuracies_of_a_class_by_hand():
    rows = found()
    assert list(rows) == [(by, k) for by in ("true", "given") for k in range(3)]
    zero, one, two = (rows["true", k] for k in range(3))
    assert (zero["class_name"], zero["memorized_accuracy_n"], zero["memorized_accuracy"]) == ("zero", 3, 1 / 3)
    assert (zero["ground_truth_accuracy"], zero["clean_train_accuracy_n"]) == (1 / 3, 1)
    assert (one["memorized_accuracy_n"], one["clean_train_accuracy"]) == (0, 0)
    assert math.isnan(one["memorized_accuracy"])
    assert (two["validation_accuracy"], two["validation_accuracy_n"]) == (1, 1)
    given = [(rows["given", k]["memorized_accuracy_n"], rows["given", k]["memorized_accuracy"]) for k in (1, 2)]
    assert given == [(2, 0.5), (1, 0)]
    assert "ground_truth_accuracy" not in rows["given", 1]
    interval = binomtest(1, 3).proportion_ci(0.95, "wilson")
    assert (zero["memorized_accuracy_low"], zero["memorized_accuracy_high"]) == pytest.approx(interval)


def random_table(seed, unknown=False):
    generator = np.random.default_rng(seed)
    split = np.repeat([0, 1], (60, 20))
    true, given, said = (generator.integers(0, 3, 80) for _ in range(3))
    given = np.where(split == 1, true, given)
    true = np.where(unknown, -1, true) if unknown else true
    index = np.concatenate([generator.permutation(60), np.arange(20)])
    zeros = np.zeros(80)
    noisy = (given != true) & (true >= 0)
    return dataclasses.replace(
        by_hand(), split=split, index=index, given=given, true=true, is_noisy=noisy, prediction=said,
        log_prob_given=zeros, log_prob_true=zeros, is_known=np.zeros(80, bool),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_classes_add_up_to_the_whole(seed):
    table = random_table(seed)
    whole, rows = compute(table), class_rows(table, NAMES)
    for by, metric in [("true", name) for name in rows[0] if name.endswith("accuracy")] + [
        ("given", "memorized_accuracy")
    ]:
        own = [row for row in rows if row["by"] == by]
        sizes = [row[f"{metric}_n"] for row in own]
        right = sum(row[metric] * n for row, n in zip(own, sizes, strict=True) if n)
        assert sum(sizes) == whole[metric].n
        assert right == pytest.approx(whole[metric].value * whole[metric].n)


def test_what_is_remembered_without_truth_counts_by_given_class_alone():
    rows = found(random_table(0, unknown=True))
    assert sum(rows["true", k]["memorized_accuracy_n"] for k in range(3)) == 0
    assert sum(rows["given", k]["memorized_accuracy_n"] for k in range(3)) == 60


def test_flips_are_what_models_say_about_wrong_labels():
    table = random_table(1)
    edited = dataclasses.replace(table, prediction=table.true)
    rows = flip_rows(
        [("base", table.by_index(remembered(table))), ("kfac", edited.by_index(remembered(edited)))],
        [f"{k}.png" for k in range(60)],
    )
    assert [row["index"] for row in rows] == sorted(table.index[(table.split == 0) & table.is_noisy].tolist())
    for row in rows:
        (at,) = np.flatnonzero((table.split == 0) & (table.index == row["index"]))
        assert row["file"] == f"{row['index']}.png"
        assert (row["given"], row["true"]) == (table.given[at], table.true[at])
        assert (row["base"], row["kfac"]) == (table.prediction[at], row["true"])
    assert flip_rows([]) == []
    other = dataclasses.replace(edited, given=(edited.given + 1) % 3)
    with pytest.raises(ValueError, match="kfac was measured on other examples or labels than base"):
        flip_rows([("base", table.by_index(remembered(table))), ("kfac", other.by_index(remembered(other)))])
