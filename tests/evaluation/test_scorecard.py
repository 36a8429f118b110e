"""Scorecards: hand computations, and NaN with a reason instead of 0."""

import math

import pytest
from recovered import RELEARNT, curve, pick, result

from vitmem.evaluation.recovery import Value, with_recovery
from vitmem.evaluation.scorecard import ATTACKS, CRITERIA, Durability, scorecards, terminal_table, verdict

NAN = math.nan


def results_row(name, memorized, validation, seed=0):
    values = {"memorized_accuracy": memorized, "validation_accuracy": validation}
    return {"experiment": "e", "seed": seed, "id": name, **values}


RESULTS = [results_row("base", 1.0, 0.8), results_row("retrain", 0.0, 0.9), results_row("edit", 0.2, 0.72)]


def cards_of(results, rows=RESULTS, **options):
    cards = scorecards(rows, with_recovery(results), **options)
    return {(card["id"], card["criterion"]): card for card in cards}


def flat(attack, setting, values, **more):
    return [
        result(name, attack, [setting[0]], [{setting[0]: setting[1], "memorized_accuracy": value, **more}])
        for name, value in values.items()
    ]


def test_criteria_by_hand():
    results = [
        *flat("views", ("view", "any"), {"base": 0.9, "retrain": 0.1, "edit": 0.5}),
        *flat("sequential", ("round", 2), {"edit": 0.1}, validation_accuracy=0.6),
        result(
            "edit", "membership", ["score"], [{"score": "loss", "priv_leak": -30.0}, {"score": "rmia", "priv_leak": 10}]
        ),
    ]
    others = [[results_row("base", 1.0, 0.7), results_row("retrain", 0.0, 0.8), results_row("edit", 0.5, 0.6)]]
    found = cards_of(results, others=others)
    expected = {"verbatim": 0.8, "views": 0.5, "privacy": 0.7, "utility": 0.9, "scale": 0.5, "sustained": 0.75}
    assert {name: found["edit", name]["value"] for name in CRITERIA} == pytest.approx(expected)


def test_utility_is_measured_on_what_no_edit_was_tuned_on():
    held_out = {"base": 0.5, "retrain": 0.5, "edit": 0.4}
    rows = [row | {"validation_held_out_accuracy": held_out[row["id"]]} for row in RESULTS]
    values = {"validation_accuracy": 0.6, "validation_held_out_accuracy": 0.3}
    repeated = flat("sequential", ("round", 1), {"edit": 0.1}, **values)
    found = cards_of(repeated, rows)
    assert found["edit", "utility"]["value"] == pytest.approx(0.8)
    assert found["edit", "sustained"]["value"] == pytest.approx(0.6)
    rows[0]["validation_held_out_accuracy"] = None  # base's must be there too
    assert cards_of(repeated, rows)["edit", "utility"]["value"] == pytest.approx(0.9)


def test_an_edit_that_diverged_when_repeated_is_not_sustained():
    (repeated,) = flat("sequential", ("round", 1), {"edit": 0.1}, validation_accuracy=0.8)
    assert cards_of([repeated])["edit", "sustained"]["value"] == 1
    found = cards_of([repeated | {"report": {"stopped": "round 2: the loss is nan"}}])["edit", "sustained"]
    assert (found["value"], found["reason"]) == (0, "round 2: the loss is nan")


def test_an_attack_that_failed_is_undefined_and_says_why():
    failed = [result("edit", name, [], []) | {"report": {"failed": "no memory"}} for name in ("views", "sequential")]
    assert [row["metric"] for row in with_recovery(failed)] == ["failed", "failed"]
    found = cards_of(failed)
    for criterion in ("views", "sustained", "back_views"):
        card = found["edit", criterion]
        assert math.isnan(card["value"])
        assert card["reason"].endswith("failed: no memory")


def test_what_was_not_measured_is_nan_with_the_reason():
    found = cards_of([RELEARNT[2]], [RESULTS[2]])
    assert all(math.isnan(found["edit", name]["value"]) and found["edit", name]["reason"] for name in CRITERIA)
    assert "noise rate" in found["edit", "scale"]["reason"]
    assert math.isnan(found["edit", "durable"]["value"])


def test_references_score_as_they_must():
    found = cards_of(RELEARNT)
    assert found["base", "verbatim"]["value"] == 0
    assert found["retrain", "verbatim"]["value"] == 1
    assert found["base", "durable"]["reason"].startswith("not removed")


def test_the_most_that_an_attack_brings_back_and_destroyed_models_do_not_count():
    found = cards_of(RELEARNT)["edit", "back_relearn"]
    assert found["value"] == pytest.approx(0.25)  # excess from 0.2 to 0.45
    assert found["reason"] == "arm retain step 10"
    destroyed = [*RELEARNT[:2], curve("edit", (0.2, 0.4, 0.55), validation=(0.9, 0.85, 0.5))]
    found = cards_of(destroyed)["edit", "back_relearn"]
    assert (found["value"], found["reason"]) == (pytest.approx(0.2), "arm retain step 1")


def test_every_edit_is_judged_by_the_labels_that_none_knew():
    values = {"base": (1.0, 1.0, 1.0), "retrain": (0.0, 0.0, 0.1), "edit": (0.5, 0.9, 0.1)}
    names = ("memorized_accuracy", "memorized_known_accuracy", "memorized_unseen_accuracy")
    told = {"track": "known noisy examples", "memorized_unseen_accuracy_n": 50}
    rows = [row | dict(zip(names, values[row["id"]], strict=True)) | told for row in RESULTS]
    rows = [row if row["id"] == "edit" else row | {"track": ""} for row in rows]
    attacked = {"base": (1.0, 1.0), "retrain": (0.0, 0.1), "edit": (0.5, 0.46)}
    quantized = [
        result(name, "quantize", ["bits"], [{"bits": 4, **dict(zip(names[::2], pair, strict=True))}])
        for name, pair in attacked.items()
    ]
    assert pick(with_recovery(quantized), "edit", "excess_unseen")[0]["value"] == pytest.approx(0.36)
    found = cards_of(quantized, rows)
    assert found["edit", "verbatim"]["value"] == pytest.approx(0.5)  # of all, as for every other edit
    assert found["edit", "back_quantize"]["value"] == pytest.approx(0.4)  # from 0.1 to 0.46 of 0.9
    assert found["edit", "left"]["value"] == 0  # 0.1, as retrain has it
    assert "quantize (bits 4) brings back 0.40" in found["edit", "durable"]["reason"]
    assert found["edit", "durable"]["reason"].endswith("of the wrong labels that no edit knew")
    assert cards_of(quantized, [row | {"track": "label-free"} for row in rows]) == found  # one population for all
    older = [  # attacks made when all wrong labels were known
        result(name, "quantize", ["bits"], [{"bits": 4, names[0]: pair[0]}]) for name, pair in attacked.items()
    ]
    assert "not removed: 0.50" in cards_of(older, rows)["edit", "durable"]["reason"]


def test_an_attack_that_was_made_twice_counts_twice():
    mild, hot = curve("edit", (0.2, 0.2, 0.2)), curve("edit", (0.2, 0.9, 0.95))
    results = [*RELEARNT[:2], mild, *(r | {"attack": "hot", "name": "relearn"} for r in (*RELEARNT[:2], hot))]
    found = cards_of(results)["edit", "back_relearn"]
    assert found["value"] == pytest.approx(0.7)
    assert found["reason"] == "attack hot arm retain step 1"
    alone = cards_of(results[3:])["edit", "back_relearn"]
    assert alone["value"] == pytest.approx(0.7)


def test_a_removal_that_destroyed_a_model_or_was_not_attacked_everywhere_is_not_durable():
    second = [row | {"seed": 1} for row in RESULTS]
    found = cards_of(RELEARNT, [*RESULTS, *second])["edit", "durable"]
    assert math.isnan(found["value"])
    assert found["reason"] == "open: attacked in 1 of 2 seeds"
    second[2]["status"] = "at chance"
    found = cards_of(RELEARNT, [*RESULTS, *second])["edit", "durable"]
    assert found["value"] == 0
    assert found["reason"].endswith("at chance in seed(s) 1")


def test_verdicts():
    none = {attack: Value(0.0) for attack in ATTACKS}
    some = none | {"quantize": Value(0.3, "bits 4")}
    unknown = none | {"views": Value(NAN, "not measured")}
    assert verdict([0.1], [none]).value == 1
    assert "of one seed, without interval" in verdict([0.1], [none]).reason
    failed = verdict([0.1], [some])
    assert failed.value == 0
    assert "quantize (bits 4) brings back 0.30" in failed.reason
    assert verdict([0.1], [some], Durability(back=0.4)).value == 1
    assert "not removed: 0.30" in verdict([0.3], [none]).reason
    assert math.isnan(verdict([0.1], [unknown]).value)
    assert "views not measured" in verdict([0.1], [unknown]).reason
    assert verdict([0.1], [unknown | {"relearn": Value(0.5)}]).value == 0  # one failure is enough
    assert math.isnan(verdict([NAN], [none]).value)


def test_verdicts_wait_for_intervals():
    """Of three seeds: mean +- 4.303 sd / sqrt 3."""

    def seeds(*quantized):
        return [{attack: Value(0.0) for attack in ATTACKS} | {"quantize": Value(v, "bits 4")} for v in quantized]

    assert verdict([0.1, 0.11, 0.12], seeds(0.01, 0.02, 0.03)).value == 1
    wide = verdict([0.1, 0.11, 0.12], seeds(0.0, 0.05, 0.1))
    assert math.isnan(wide.value)
    assert "too few seeds to tell (quantize 0.05 [-0.07, 0.17])" in wide.reason
    assert verdict([0.1, 0.11, 0.12], seeds(0.2, 0.21, 0.22)).value == 0
    assert "brings back 0.21 [0.19, 0.23]" in verdict([0.1, 0.11, 0.12], seeds(0.2, 0.21, 0.22)).reason
    left = verdict([0.1, 0.2, 0.3], seeds(0.0, 0.0, 0.0))
    assert math.isnan(left.value)
    assert "left 0.20 [-0.05, 0.45]" in left.reason


def test_the_table_of_a_terminal():
    lines = terminal_table(scorecards(RESULTS, with_recovery(RELEARNT))).splitlines()
    assert lines[0].split() == [*CRITERIA, "left", *(f"+{attack}" for attack in ATTACKS)]
    assert lines[4].split() == ["edit", "0.800", "-", "-", "0.900", "-", "-", "0.200", "0.250", "-", "-", "-"]
    assert lines[-1].startswith("edit: not durable: relearn (arm retain step 10) brings back 0.25")
