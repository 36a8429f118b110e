import pytest

from vitmem.evaluation.unlearning import NAMES, add_unlearning


def row(model, forget, retain, test, **more):
    return {
        "seed": 0, "id": model, "memorized_accuracy": forget, "clean_train_accuracy": retain,
        "validation_held_out_accuracy": test, **more,
    }  # fmt: skip


def test_tug_of_war_by_hand():
    rows = [row("retrain", 0.5, 1.0, 0.75, membership_auc=0.5), row("edit", 0.75, 0.75, 0.25, membership_auc=0.6)]
    add_unlearning(rows)
    assert rows[1]["forget_accuracy"] == 0.75
    assert (rows[1]["forget_gap"], rows[1]["retain_gap"], rows[1]["test_gap"]) == (0.25, -0.25, -0.5)
    assert rows[1]["tow"] == pytest.approx(0.75 * 0.75 * 0.5)
    assert rows[1]["tow_mia"] == pytest.approx(0.9 * 0.75 * 0.5)
    assert (rows[0]["tow"], rows[0]["tow_mia"], rows[0]["forget_gap"]) == (1, 1, 0)


def test_a_test_split_goes_before_validation():
    rows = [row("retrain", 0, 1, 0.5, test_accuracy=0.5), row("edit", 0, 1, 0.25, test_accuracy=0.75)]
    add_unlearning(rows)
    assert rows[1]["test_gap"] == 0.25


def test_what_lacks_a_part_is_absent():
    rows = [row("base", 0.5, 1.0, 0.75), row("edit", 0.5, None, 0.75)]  # no retrain; no forget set
    add_unlearning(rows)
    derived = [name for name in NAMES if name not in ("forget_accuracy", "retain_accuracy")]
    assert all(found.get(name) is None for found in rows for name in derived)
    assert rows[0]["forget_accuracy"] == 0.5
    assert rows[1].get("forget_accuracy") is None
    other = [row("retrain", 0.5, 1.0, 0.75), {"seed": 1, "id": "edit", "memorized_accuracy": 0.5}]  # another seed
    add_unlearning(other)
    assert other[1]["tow"] is None
