"""Scorecards: hand computations, and NaN with a reason instead of 0."""

import math

import pytest
from recovered import RELEARNT, curve, result

from vitmem.evaluation.durability import ALL
from vitmem.evaluation.recovery import with_recovery
from vitmem.evaluation.scorecard import ATTACKS, CRITERIA, JUDGED, scorecards, terminal_table, to_csv

NAN = math.nan


def results_row(name, memorized, validation, seed=0):
    values = {"memorized_accuracy": memorized, "memorized_accuracy_n": 50, "validation_accuracy": validation}
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


NAMES = ("memorized_accuracy", "memorized_known_accuracy", "memorized_unseen_accuracy")
MEASURED = {"base": (1.0, 1.0, 1.0), "retrain": (0.0, 0.0, 0.1), "edit": (0.5, 0.9, 0.1)}
ROUNDED = {"base": (1.0, 1.0, 1.0), "retrain": (0.0, 0.0, 0.1), "edit": (0.7, 0.94, 0.46)}


def told(values, n=50):
    return dict(zip(NAMES, values, strict=True)) | {f"{name}_n": n for name in NAMES}


def rounded(values=ROUNDED):
    return [result(name, "quantize", ["bits"], [{"bits": 4, **told(v)}]) for name, v in values.items()]


@pytest.mark.parametrize("track", ["label-free", "known noisy examples"])
def test_every_edit_is_judged_by_the_wrong_labels_that_no_edit_knew(track):
    rows = [row | told(MEASURED[row["id"]]) | {"track": track} for row in RESULTS]
    found = cards_of(rounded(), rows)
    assert found["edit", "verbatim"]["value"] == pytest.approx(0.5)  # of all
    assert found["edit", "left"]["value"] == 0
    assert found["edit", "back_quantize"]["value"] == pytest.approx(0.4)  # from 0.1 to 0.46 of 0.9
    assert found["edit", "durable_back"]["value"] == found["edit", "back_quantize"]["value"]
    assert {found["edit", name]["population"] for name in ("left", "durable", *JUDGED)} == {
        "wrong labels that no edit knew"
    }
    assert "attacks bring back 0.40 [" in found["edit", "durable"]["reason"]


def test_results_that_do_not_hold_the_unseen_part_are_judged_by_all_and_say_so():
    rows = [row | told(MEASURED[row["id"]]) for row in RESULTS]
    old = [row | {"memorized_unseen_accuracy": None} for row in rows]
    attacked = rounded()
    plain = [{k: v for k, v in row.items() if k not in NAMES[1:]} for row in attacked[2]["rows"]]
    shares = [row | {"memorized_unseen_accuracy_n": 40} if row["id"] == "edit" else row for row in rows]
    for table, results, why in (
        (old, attacked, "base (seed 0) and 2 more"),
        (rows, [*attacked[:2], attacked[2] | {"rows": plain}], "quantize on edit (seed 0))"),
        (shares, attacked, "knew different shares"),
    ):
        found = cards_of(results, table)["edit", "durable_back"]
        assert found["population"].startswith(ALL)
        assert why in found["population"]
        assert found["value"] == pytest.approx(0.2)


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


def test_the_table_of_a_terminal():
    lines = terminal_table(scorecards(RESULTS, with_recovery(RELEARNT))).splitlines()
    assert lines[0].split() == [*CRITERIA, *(f"+{attack}" for attack in ATTACKS), *JUDGED.values()]
    assert lines[4].split()[:11] == ["edit", "0.800", "-", "-", "0.900", "-", "-", "0.250", "-", "-", "-"]
    assert lines[4].split()[11::3] == ["0.200", "0.250"]
    assert lines[-2].startswith(f"+, left, back and verdicts: of {ALL}")
    assert lines[-1].startswith("edit: open: 0.20 [")
    assert "attacks bring back 0.25 [" in lines[-1]
    assert ", most relearn (arm retain step 10)" in lines[-1]


def test_the_table_shows_the_numbers_of_the_verdict_with_their_interval():
    cards = scorecards(RESULTS, with_recovery(RELEARNT))
    (back,) = [card for card in cards if (card["id"], card["criterion"]) == ("edit", "durable_back")]
    assert f"0.250 [{back['low']:.3f}, {back['high']:.3f}]" in terminal_table(cards)
    row = next(line for line in to_csv(cards).splitlines() if ",edit,durable_back," in line)
    assert row.startswith(f"e,,edit,durable_back,{back['value']},{back['low']},{back['high']},")


def test_the_table_is_written_with_every_column_and_empty_cells_for_nan():
    cards = scorecards([RESULTS[2]], with_recovery([RELEARNT[2]]))
    header, *lines = to_csv(cards).splitlines()
    assert header == "experiment,seed,id,criterion,value,low,high,reason,population"
    assert lines[0].startswith("e,0,edit,verbatim,,,,memorized_accuracy of base was not measured")
    names = [*CRITERIA, "left", *(f"back_{attack}" for attack in ATTACKS), *JUDGED, "durable"]
    assert [line.split(",")[3] for line in lines] == names
    assert all(line.split(",")[4] == "" for line in lines)


def test_models_that_were_not_attacked_have_no_card():
    rows = [*RESULTS, results_row("other", 0.5, 0.5), results_row("edit", 0.5, 0.5, seed=1)]
    found = scorecards(rows, with_recovery(RELEARNT))
    assert {(card["id"], card["seed"]) for card in found} == {
        (name, seed) for name in ("base", "retrain", "edit") for seed in (0, "")
    }
    assert {card["experiment"] for card in found} == {"e"}


def test_each_seed_is_compared_with_its_own_references():
    second = [results_row(n, m, 0.8, seed=1) for n, m in (("base", 0.5), ("retrain", 0.1), ("edit", 0.4))]
    stored = [*RELEARNT, *(curve(n, (0.5, 0.5, 0.5)) | {"seed": 1} for n in ("base", "retrain", "edit"))]
    cards = scorecards([*RESULTS, *second], with_recovery(stored))
    verbatim = {c["seed"]: c["value"] for c in cards if (c["id"], c["criterion"]) == ("edit", "verbatim")}
    assert verbatim == pytest.approx({0: 0.8, 1: 0.25})
    left = {c["seed"]: c["value"] for c in cards if (c["id"], c["criterion"]) == ("edit", "left")}
    assert left == pytest.approx({0: 0.2, 1: 0.75})
    (judged,) = (c for c in cards if (c["id"], c["criterion"]) == ("edit", "durable_left"))
    assert judged["value"] == pytest.approx(0.475)


def test_the_worst_score_the_lowest_rate_and_the_last_round_count():
    leaks = [("loss", -30.0), ("rmia", 45.0), ("lira", NAN)]
    leaked = result("edit", "membership", ["score"], [{"score": s, "priv_leak": v} for s, v in leaks])
    rounds = [
        {"round": r, "memorized_accuracy": 0.1, "validation_accuracy": v} for r, v in ((1, 0.4), (3, 0.2), (2, 0.6))
    ]
    others = [
        [results_row("base", 1.0, 0.7), results_row("retrain", 0.0, 0.8), results_row("edit", value, 0.6)]
        for value in (0.5, 0.1)
    ]
    found = cards_of([leaked, result("edit", "sequential", ["round"], rounds)], others=others)
    values = {name: found["edit", name]["value"] for name in ("privacy", "scale", "sustained")}
    assert values == pytest.approx({"privacy": 0.55, "scale": 0.5, "sustained": 0.25})
    lower = cards_of([leaked], others=others[1:])["edit", "scale"]["value"]
    assert lower == pytest.approx(0.8)  # the rate at hand counts too
    undefined = cards_of([leaked | {"rows": [{"score": "lira", "priv_leak": NAN}]}])["edit", "privacy"]
    assert undefined["reason"] == "not measured: needs attack membership with a retrain model"


def test_seeds_are_averaged_in_the_table():
    second = [row | {"seed": 1} for row in RESULTS]
    second[2] = second[2] | {"memorized_accuracy": 0.4}
    stored = [*RELEARNT, *(row | {"seed": 1} for row in RELEARNT)]
    lines = terminal_table(scorecards([*RESULTS, *second], with_recovery(stored))).splitlines()
    cells = next(line for line in lines if line.startswith("edit ")).split()
    assert cells[:5] == ["edit", "0.700", "-", "-", "0.900"]
    assert lines[1] == "-" * len(lines[1])
    assert not any(line.endswith(" ") for line in lines)
