"""What metrics, tables and tests must not depend on: the order of examples, rows and seeds, and class numbers."""

import dataclasses
import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from cases import loader, vit
from predicted import COLUMNS
from recovered import curve, result

from vitmem.evaluation.comparison import compare, comparison_table
from vitmem.evaluation.logistic import fit_logistic
from vitmem.evaluation.metrics import ACCURACIES, at_chance, compute
from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable, predict
from vitmem.evaluation.proportions import mcnemar, paired_proportions
from vitmem.evaluation.recovery import with_recovery
from vitmem.evaluation.scorecard import scorecards
from vitmem.evaluation.statistics import holm, paired_difference, t_interval
from vitmem.evaluation.tables import add_recovered, result_row, terminal_table
from vitmem.models.build import with_weights

N, CLASSES = 90, 5
RNG = np.random.default_rng(0)


def table(seed=0):
    """Return what a model of no skill says about 60 training and 30 validation examples."""
    rng = np.random.default_rng(seed)
    split = np.repeat([TRAIN, VALIDATION], [60, 30])
    true = rng.integers(CLASSES, size=N)
    given = np.where((split == TRAIN) & (rng.random(N) < 0.4), (true + 1) % CLASSES, true)
    log_p = np.log(rng.dirichlet(np.ones(CLASSES), N))
    noisy, index = given != true, np.concatenate([np.arange(60), np.arange(30)])
    known = noisy & (rng.random(N) < 0.5)
    rows = np.arange(N)
    said = log_p.argmax(1)
    return ExampleTable(split, index, given, true, noisy, said, log_p[rows, given], log_p[rows, true], known)


def changed(of, change):
    return ExampleTable(*(change(getattr(of, name)) for name in COLUMNS))


def values(metrics):
    return {name: metric.value for name, metric in metrics.items()}


def test_the_order_of_examples_does_not_matter():
    plain = compute(table())
    order = RNG.permutation(N)
    again = compute(changed(table(), lambda column: column[order]))
    assert {name: again[name] for name in ACCURACIES if name in again} == {
        name: plain[name] for name in ACCURACIES if name in plain
    }
    assert values(again) == pytest.approx(values(plain), rel=1e-12)


def test_examples_that_all_occur_twice_have_the_same_metrics_and_shorter_intervals():
    plain = compute(table())
    twice = compute(changed(table(), lambda column: np.concatenate([column, column])))
    assert values(twice) == pytest.approx(values(plain), rel=1e-12)
    for name, metric in twice.items():
        assert metric.n == 2 * plain[name].n
        if name in ACCURACIES:
            assert plain[name].low <= metric.low + 1e-15
            assert metric.high <= plain[name].high
            assert metric.high - metric.low < plain[name].high - plain[name].low
            assert metric.low - 1e-15 <= metric.value <= metric.high


def test_the_numbers_of_the_classes_do_not_matter():
    number = np.array([3, 0, 4, 1, 2])
    plain = table()
    labels = {name: number[getattr(plain, name)] for name in ("given", "true", "prediction")}
    again = dataclasses.replace(plain, **labels)
    assert compute(again) == compute(plain)
    assert at_chance(again) is at_chance(plain) is True
    right = dataclasses.replace(plain, prediction=plain.true)
    assert not at_chance(right)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_predictions_do_not_depend_on_batches_order_or_class_numbers(batch_size):
    model, number = vit(), torch.tensor([3, 0, 4, 1, 2])
    whole = loader(11, 11)
    plain = predict(model, {TRAIN: whole, VALIDATION: whole})
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    mixed = type(whole)(whole.examples.subset(order), batch_size)
    again = predict(model, {TRAIN: mixed, VALIDATION: mixed})
    places = np.concatenate([order.numpy(), 11 + order.numpy()])
    state = dict(model.state_dict())
    for part in ("head.weight", "head.bias"):
        state[part] = torch.empty_like(state[part])
        state[part][number] = model.state_dict()[part]
    examples = dataclasses.replace(
        whole.examples, given_label=number[whole.examples.given_label], true_label=number[whole.examples.true_label]
    )
    other = predict(with_weights(model, state), {TRAIN: type(whole)(examples, batch_size)})
    for name in COLUMNS:
        expected = getattr(plain, name)
        assert getattr(again, name) == pytest.approx(expected[places], abs=1e-5)
        if name in ("given", "true", "prediction"):
            expected = number.numpy()[expected]
        assert getattr(other, name) == pytest.approx(expected[:11], abs=1e-5)


def row(name, seed, rng, point="best"):
    """Return a row of the results table."""
    metrics = {key: vars(metric) for key, metric in compute(table(int(rng.integers(10**6)))).items()}
    edit = "" if name in ("base", "retrain") else name
    identity = {"experiment": "e", "seed": seed, "id": name if not edit else f"{name}-{point}", "edit": edit}
    more = {"point": point, "track": "known noisy examples", "trials": 3} if edit else {}
    return result_row({**identity, "option": "", "value": ""}, metrics, None, passes=float(rng.random()), **more)


def results():
    rng = np.random.default_rng(7)
    names = ("base", "retrain", "kfac", "npo", "svd")
    found = [row(name, seed, rng) for name in names for seed in range(4)]
    add_recovered(found)
    return found


def shuffled_seeds(rows):
    """Return rows with the seeds of each model in another order, models as they are."""
    groups = itertools.groupby(rows, key=lambda row: row["id"])
    return [row for number, (_, group) in enumerate(groups) for row in random.Random(number).sample(list(group), 4)]


def test_the_order_of_seeds_does_not_matter():
    rows = results()
    other = shuffled_seeds(rows)
    assert [row["seed"] for row in other] != [row["seed"] for row in rows]
    assert json.dumps(compare(other)) == json.dumps(compare(rows))
    assert comparison_table(other) == comparison_table(rows)
    assert terminal_table(other) == terminal_table(rows)


def test_the_order_of_rows_does_not_matter():
    rows = results()
    other = random.Random(0).sample(rows, len(rows))
    plain, again = ({line["method"]: json.dumps(line) for line in compare(part)} for part in (rows, other))
    assert again == plain
    fresh = [{key: value for key, value in row.items() if key != "ground_truth_recovered"} for row in other]
    add_recovered(fresh)
    assert fresh == other


def cards(rows, attacks):
    """Return a scorecard's numbers and reasons, in one order; a population names the first model that lacks a part."""
    found = scorecards(rows, with_recovery(attacks))
    return sorted(json.dumps({**card, "population": ""}, sort_keys=True) for card in found)


def test_the_order_of_attacks_and_seeds_does_not_matter_for_scorecards():
    rng, rows, attacks = np.random.default_rng(3), [], []
    for seed in range(3):
        for name, left in (("base", 0.9), ("retrain", 0.0), ("one", 0.2), ("two", 0.5)):
            level = 0.9 * left + 0.05 * rng.random()
            measured = {"memorized_accuracy": level, "memorized_accuracy_n": 50, "validation_accuracy": 0.9}
            rows.append({"experiment": "e", "seed": seed, "id": name, **measured})
            points = [level, level + 0.05 * rng.random(), level + 0.1 * rng.random()]
            attacks.append(curve(name, points) | {"seed": seed})
            settings = [{"bits": bits, "memorized_accuracy": level * rng.random()} for bits in (8, 4)]
            attacks.append(result(name, "quantize", ["bits"], settings, seed))
    plain = cards(rows, attacks)
    assert len(plain) > 100
    for number in range(3):
        mixed = random.Random(number)
        assert cards(rows, mixed.sample(attacks, len(attacks))) == plain
        assert cards(mixed.sample(rows, len(rows)), attacks) == plain


def test_statistics_do_not_depend_on_order():
    numbers = RNG.normal(size=7).tolist()
    assert t_interval(numbers[::-1]) == t_interval(numbers)
    by_seed = [dict(enumerate(RNG.normal(size=5))) for _ in range(2)]
    backwards = [dict(reversed(part.items())) for part in by_seed]
    assert paired_difference(*backwards) == paired_difference(*by_seed)
    one, other = paired_difference(*by_seed), paired_difference(*by_seed[::-1])
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))
    assert (other.p, other.sd, other.n) == pytest.approx((one.p, one.sd, one.n))
    p = [0.01, 0.04, 0.03, 0.005, math.nan, 0.2]
    order = RNG.permutation(len(p))
    assert holm([p[k] for k in order]) == pytest.approx([holm(p)[k] for k in order], nan_ok=True)


def test_pairs_of_examples_in_another_order_are_the_same_pairs():
    first, second = RNG.random(40) < 0.7, RNG.random(40) < 0.5
    order = RNG.permutation(40)
    plain = paired_proportions(first, second)
    assert paired_proportions(first[order], second[order]) == plain
    turned = paired_proportions(second, first)
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-plain.difference, -plain.high, -plain.low))
    assert (turned.only_first, turned.only_second, turned.p) == (plain.only_second, plain.only_first, plain.p)
    assert mcnemar(second, first) == plain.p
    both_wrong = paired_proportions(~first, ~second)
    assert (both_wrong.low, both_wrong.high) == pytest.approx((turned.low, turned.high))


def test_a_logistic_regression_does_not_depend_on_order_copies_or_class_numbers():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    label = torch.randint(3, (1, 50), generator=generator)
    weight = torch.rand(1, 50, generator=generator, dtype=torch.float64)

    def fitted(x, label, weight):
        return fit_logistic(x, label, weight, 0.1, 3, steps=1000, tolerance=1e-9)

    plain = fitted(x, label, weight)
    order = torch.randperm(50, generator=generator)
    number = torch.tensor([2, 0, 1])
    found = {
        "permuted": fitted(x[order], label[:, order], weight[:, order]),
        "doubled": fitted(torch.cat([x, x]), torch.cat([label, label], 1), torch.cat([weight, weight], 1)),
        "split in two": fitted(torch.cat([x, x]), torch.cat([label, label], 1), torch.cat([weight, 0 * weight], 1)),
        "weights in another unit": fitted(x, label, 7 * weight),
        "classes": fitted(x, number[label], weight)[..., number],
    }
    for what, coefficient in found.items():
        assert torch.allclose(coefficient, plain, atol=1e-6), what
