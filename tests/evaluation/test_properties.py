"""Thresholds, intervals and derived numbers go the way that they must go, whatever the numbers."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st
from properties import few
from recovered import curve, result

from vitmem.evaluation.durability import ATTACKS, Durability, Estimate, brought_back, memory_left, verdict
from vitmem.evaluation.frontier import at_memorized, best_ground_truth
from vitmem.evaluation.metrics import wilson
from vitmem.evaluation.proportions import square_and_add
from vitmem.evaluation.recovery import area, recovery, steps_to_half, with_recovery
from vitmem.evaluation.statistics import holm

SHARES = st.floats(0, 1)
SEEDS = st.lists(SHARES, min_size=1, max_size=4)
MORE = st.floats(0, 0.5)


def rank(value):
    """Return 0 for broken, 1 for open, 2 for durable."""
    return 1 if math.isnan(value) else 2 * int(value)


def estimates(values, shift=0.0, width=0.02):
    return [Estimate(v + shift, "", v + shift - width, v + shift + width) for v in values]


def judged(left, back, rule=None):
    attacks = [dict.fromkeys(ATTACKS, estimate) for estimate in back]
    return rank(verdict(left, attacks, rule or Durability()).durable.value)


@st.composite
def pairs_of_seeds(draw):
    number = draw(st.integers(1, 4))
    return [draw(st.lists(SHARES, min_size=number, max_size=number)) for _ in range(2)]


@few
@given(pairs_of_seeds(), MORE, MORE)
def test_more_memory_never_makes_a_removal_more_durable(both, further, returned):
    left, back = both
    plain = judged(estimates(left), estimates(back))
    assert judged(estimates(left, further), estimates(back)) <= plain
    assert judged(estimates(left), estimates(back, returned)) <= plain


@few
@given(pairs_of_seeds(), MORE, MORE)
def test_a_looser_rule_never_makes_it_less_durable(both, further, returned):
    found = [estimates(values) for values in both]
    rule = Durability()
    assert judged(*found, Durability(rule.left + further, rule.back + returned)) >= judged(*found)


@few
@given(pairs_of_seeds())
def test_an_attack_that_was_not_made_never_makes_it_more_durable(both):
    left, back = (estimates(values) for values in both)
    made = [dict.fromkeys(ATTACKS, estimate) for estimate in back]
    without = [by | {"views": Estimate(math.nan, "not made")} for by in made]
    assert rank(verdict(left, without).durable.value) <= min(1, rank(verdict(left, made).durable.value))


@few
@given(SHARES, SHARES, SHARES, st.integers(2, 500))
def test_what_is_left_is_a_share_with_its_interval(own, base, retrain, n):
    rows = [{"memorized_accuracy": round(share * n) / n, "memorized_accuracy_n": n} for share in (own, base, retrain)]
    found = memory_left(*rows)
    own, base, retrain = (row["memorized_accuracy"] for row in rows)
    if base <= retrain:
        assert math.isnan(found.value)
    else:
        assert math.isclose(found.value, (own - retrain) / (base - retrain), abs_tol=1e-12)
        assert found.low <= found.value <= found.high


@few
@given(st.lists(st.tuples(SHARES, SHARES), min_size=3, max_size=3), MORE, MORE)
def test_more_settings_that_count_never_bring_back_less(points, drop, further):
    memorized, validation = zip(*points, strict=True)
    stored = [curve("base", (1.0, 1.0, 1.0)), curve("retrain", (0.0, 0.0, 0.0)), curve("edit", memorized, validation)]
    rows = {
        name: {"memorized_accuracy": value, "memorized_accuracy_n": 50, "validation_accuracy": 0.9}
        for name, value in (("base", 1.0), ("retrain", 0.0), ("edit", memorized[0]))
    }
    theirs = [row for row in with_recovery(stored) if row["id"] == "edit"]
    given = (theirs, rows["edit"], rows["base"], rows["retrain"])
    few, more = (brought_back("relearn", *given, share) for share in (drop, drop + further))
    assert 0 <= few.value <= more.value <= 1
    assert few.low <= few.value <= few.high


@few
@given(SHARES, SHARES, SHARES)
def test_recovery_is_0_at_retrain_1_at_base_and_rises(attacked, base, retrain):
    found = recovery(attacked, base, retrain)
    if base <= retrain:
        assert math.isnan(found.value)
        assert found.reason
    elif base - retrain > 1e-6:
        assert recovery(base, base, retrain).value == 1
        assert recovery(retrain, base, retrain).value == 0
        assert (found.value <= 1) == (attacked <= base)
        assert (found.value >= 0) == (attacked >= retrain)


CURVES = st.dictionaries(st.integers(1, 1000), SHARES, min_size=2, max_size=6)


@few
@given(CURVES, SHARES)
def test_areas_lie_between_the_ends_and_half_comes_later_for_more(points, base):
    found = area(points).value
    assert min(points.values()) - 1e-12 <= found <= max(points.values()) + 1e-12
    assert area({0: 7.0, **points}).value == found  # the start has no logarithm
    assert math.isclose(area(dict.fromkeys(points, base)).value, base, abs_tol=1e-12)
    assert math.isclose(area({10 * step: value for step, value in points.items()}).value, found, abs_tol=1e-9)
    if base > 0:
        first = steps_to_half(points, base).value
        assert all(value < base / 2 for step, value in points.items() if step < first or math.isnan(first))
        assert math.isnan(first) or points[first] >= base / 2


@few
@given(st.integers(0, 200), st.integers(1, 200), st.integers(1, 5))
def test_wilson_intervals_hold_the_share_rise_with_it_and_shrink_with_n(successes, n, times):
    successes = min(successes, n)
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-15
    assert successes / n - 1e-15 <= high <= 1
    again = wilson(n - successes, n)
    assert math.isclose(again[0], 1 - high, abs_tol=1e-12)
    if successes < n:
        assert wilson(successes + 1, n)[0] > low - 1e-15
    assert wilson(successes * times, n * times)[1] <= high + 1e-12


@few
@given(st.lists(st.tuples(st.sampled_from([-1, 1]), SHARES, st.integers(1, 300)), min_size=1, max_size=4))
def test_an_interval_of_a_sum_holds_the_sum_and_turns_with_its_signs(terms):
    total = sum(sign * share for sign, share, _ in terms)
    low, high = square_and_add(terms)
    assert low <= total <= high
    turned = square_and_add([(-sign, share, n) for sign, share, n in terms])
    assert math.isclose(turned[0], -high, abs_tol=1e-12)
    assert math.isclose(turned[1], -low, abs_tol=1e-12)


@few
@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=8))
def test_holm_raises_p_values_keeps_their_order_and_never_more_than_bonferroni(p_values):
    found = holm(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p + 1e-15)
    assert [a for _, a in sorted(zip(p_values, found, strict=True))] == sorted(found)


POINTS = st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=2, max_size=5)


@few
@given(POINTS, SHARES, MORE, MORE)
def test_operating_points_lie_on_the_frontier_and_more_drop_is_never_worse(points, target, drop, further):
    names = ("memorized_accuracy", "ground_truth_accuracy", "validation_accuracy")
    rows = [dict(zip(names, point, strict=True)) for point in points]
    found = at_memorized(rows, target, names)
    falling = [(a, b) for a, b in itertools.pairwise(rows) if a[names[0]] >= target >= b[names[0]]]
    if not falling:
        assert all(map(math.isnan, found.values()))
    else:
        ends = falling[0]
        assert math.isclose(found["memorized_accuracy"], target, abs_tol=1e-9) or ends[0][names[0]] == ends[1][names[0]]
        for name in names:
            low, high = sorted(end[name] for end in ends)
            assert low - 1e-9 <= found[name] <= high + 1e-9
    base = {"validation_accuracy": 0.8}
    strict, loose = (best_ground_truth(rows, base, share) for share in (drop, drop + further))
    assert strict is None or strict["ground_truth_accuracy"] <= loose["ground_truth_accuracy"]
    if loose is None:
        assert all(row["validation_accuracy"] < 0.8 - drop - further for row in rows)


@few
@given(SHARES, SHARES)
def test_a_setting_is_compared_with_its_own_references(one, other):
    """What base and retrain reached under another setting plays no part."""
    shares = {"base": (0.9, 0.8), "retrain": (0.1, 0.2), "edit": (one, other)}
    rows = {
        name: [{"bits": bits, "memorized_accuracy": value} for bits, value in zip((8, 4), values, strict=True)]
        for name, values in shares.items()
    }
    found = with_recovery([result(name, "quantize", ["bits"], settings) for name, settings in rows.items()])
    values = {r["bits"]: r["value"] for r in found if (r["id"], r["metric"]) == ("edit", "recovery")}
    assert math.isclose(values[8], (one - 0.1) / 0.8, abs_tol=1e-12)
    assert math.isclose(values[4], (other - 0.2) / 0.6, abs_tol=1e-12)
