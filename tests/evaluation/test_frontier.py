import math

import pytest

from vitmem.evaluation.frontier import at_memorized, best_ground_truth, unreached


def rows(*points):
    names = ("memorized_accuracy", "ground_truth_accuracy", "validation_accuracy")
    return [dict(zip(names, point, strict=True)) for point in points]


FRONTIER = rows((0.9, 0.1, 0.9), (0.5, 0.4, 0.8), (0.1, 0.6, 0.6))


def test_interpolation_between_the_rows_around_the_target():
    found = at_memorized(FRONTIER, 0.2, ("ground_truth_accuracy", "validation_accuracy"))
    assert found == pytest.approx({"ground_truth_accuracy": 0.55, "validation_accuracy": 0.65})
    assert at_memorized(FRONTIER, 0.5, ["validation_accuracy"]) == {"validation_accuracy": pytest.approx(0.8)}
    back = rows((0.9, 0, 0), (0.3, 1, 1), (0.6, 2, 2), (0.1, 3, 3))
    assert at_memorized(back, 0.45, ["validation_accuracy"])["validation_accuracy"] == pytest.approx(0.75)


def test_a_frontier_that_does_not_reach_the_target_is_unknown():
    for target in (0.05, 0.95):
        assert math.isnan(at_memorized(FRONTIER, target, ["validation_accuracy"])["validation_accuracy"])
    assert math.isnan(at_memorized(FRONTIER[:1], 0.9, ["validation_accuracy"])["validation_accuracy"])


def test_the_best_row_within_the_drop():
    base = {"validation_accuracy": 0.9}
    assert best_ground_truth(FRONTIER, base, 0.1) is FRONTIER[1]
    assert best_ground_truth(FRONTIER, base, 0.0) is FRONTIER[0]
    assert best_ground_truth(FRONTIER[2:], base, 0.1) is None


def test_rows_that_are_no_success_are_passed_over():
    lost = dict(FRONTIER[1], status="at chance")
    found = at_memorized([FRONTIER[0], lost, FRONTIER[2]], 0.5, ["validation_accuracy"])
    assert found == {"validation_accuracy": pytest.approx(0.75)}
    assert best_ground_truth([lost, FRONTIER[0]], {"validation_accuracy": 0.9}, 0.5) is FRONTIER[0]


def test_a_frontier_that_stands_still_takes_the_gentler_row():
    flat = rows((0.5, 0.1, 0.9), (0.5, 0.3, 0.7))
    assert at_memorized(flat, 0.5, ["ground_truth_accuracy"]) == {"ground_truth_accuracy": 0.1}


def test_a_row_that_loses_just_the_allowed_counts():
    base = {"validation_accuracy": 0.8}
    kept = rows((0.5, 0.4, 0.7), (0.4, 0.5, 0.7 - 1e-9))
    assert best_ground_truth(kept, base, 0.1) is kept[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"point": ""}, ""),
        ({"point": None}, ""),
        ({"point": "at0.2"}, ""),  # the table does not say how near trials came
        ({"point": "at0.2", "tuned_memorized": 0.25}, ""),
        ({"point": "at0.2", "tuned_memorized": 0.2501}, "its trials came no nearer to memorized 0.2 than 0.05"),
        ({"point": "at0.2", "tuned_memorized": math.nan}, "its trials came no nearer to memorized 0.2 than 0.05"),
        ({"point": "best", "kept_validation": "True"}, ""),
        ({"point": "best", "kept_validation": "False"}, "no trial kept validation"),
        ({"point": "best"}, ""),
    ],
)
def test_a_row_says_why_it_is_not_at_its_operating_point(row, said):
    assert unreached(row) == said
