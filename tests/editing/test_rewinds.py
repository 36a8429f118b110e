"""Ways back that ask more than one number, against what is computed by hand."""

import math

import pytest
import torch
from edited import DATA, MODEL
from torch.nn import functional as F

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC
from vitmem.editing.known import tuning_half
from vitmem.editing.rewinds import FilteredRewind, RewindByBlock
from vitmem.editing.shrink import Rewind, block_of
from vitmem.models.build import with_weights

START = {name: value + 0.1 * (1 + value.abs()) for name, value in MODEL.state_dict().items()}
LAYERS = "blocks.*.mlp.*"


def apply(edit):
    return edit.apply(MODEL, EditData(DATA, edit.sees, initial=lambda: START), keyed_generator(0))


def norm(state, names):
    return torch.cat([(state[n] - START[n]).flatten() for n in names]).norm()


def test_without_the_filter_it_is_the_way_back():
    mixed, back = apply(FilteredRewind(keep=0.3, mix=0.0, examples=50)), apply(Rewind(keep=0.3))
    for name, value in back.state_dict.items():
        torch.testing.assert_close(mixed.state_dict[name], value)


@pytest.mark.slow
def test_the_filter_alone_is_ekfac_of_the_update_at_the_strength_that_keeps_the_share_of_the_norm():
    state = apply(FilteredRewind(keep=0.4, mix=1.0, layers=LAYERS, examples=50)).state_dict
    names = [f"blocks.{b}.mlp.{fc}.weight" for b in (0, 1) for fc in ("fc1", "fc2")]
    whole = norm(MODEL.state_dict(), names)
    assert float(norm(state, names) / whole) == pytest.approx(0.4, rel=1e-3)
    low, high = -60.0, 20.0  # log of the tau of the same norm, by bisection of the other edit
    for _ in range(40):
        tau = math.exp((low + high) / 2)
        filtered = apply(EKFAC(of="update", tau=tau, layers=LAYERS, examples=50)).state_dict
        low, high = (math.log(tau), high) if norm(filtered, names) > 0.4 * whole else (low, math.log(tau))
    for name in names:
        torch.testing.assert_close(state[name], filtered[name], rtol=1e-3, atol=1e-4)
    assert torch.equal(state["head.weight"], MODEL.state_dict()["head.weight"])


@pytest.mark.slow
def test_in_between_it_is_the_mean_of_both():
    one, other, both = (apply(FilteredRewind(keep=0.4, mix=mix, examples=50)).state_dict for mix in (0.0, 1.0, 0.25))
    for name, value in both.items():
        torch.testing.assert_close(value, 0.75 * one[name] + 0.25 * other[name], rtol=1e-4, atol=1e-5)


def loss_of(state):
    (batch,) = DATA.loader(tuning_half(DATA.validation_examples), 10_000)
    with torch.no_grad():
        return float(F.cross_entropy(with_weights(MODEL, state).eval()(batch.image).double(), batch.true_label))


def test_blocks_keep_powers_whose_exponents_keep_their_sum_and_lower_the_loss():
    found = apply(RewindByBlock(keep=0.5))
    exponents = found.report["exponents"]
    assert sum(exponents) == pytest.approx(len(exponents))
    assert min(exponents) >= 0
    place = block_of(MODEL)
    for name, value in MODEL.named_parameters():
        expected = START[name] + 0.5 ** exponents[place[name]] * (value.detach() - START[name])
        torch.testing.assert_close(found.state_dict[name], expected, rtol=1e-4, atol=1e-6)
    assert found.report["validation_loss"] == pytest.approx(loss_of(found.state_dict))
    assert loss_of(found.state_dict) <= loss_of(apply(Rewind(keep=0.5)).state_dict) + 1e-9


def test_no_single_exchange_is_better_than_what_was_found():
    """The oracle tries them all by hand, of the two blocks that there are."""
    settings = RewindByBlock(keep=0.5, rounds=10)
    exponents, place = apply(settings).report["exponents"], block_of(MODEL)

    def state(tried):
        trained = MODEL.state_dict()
        keep = {n: 0.5 ** tried[place[n]] for n in place}
        return trained | {n: START[n] + keep[n] * (trained[n] - START[n]) for n in place}

    best = loss_of(state(exponents))
    for change in (0.5, -0.5):
        tried = [exponents[0] + change, exponents[1] - change]
        if min(tried) >= 0:
            assert loss_of(state(tried)) >= best - 1e-6
