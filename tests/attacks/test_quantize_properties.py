"""Rounding to few levels: never further than half a step, nothing left to round, order, sign and scale kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import few

from vitmem.attacks.quantize import codes, grid, quantized

SCHEMES = ("symmetric", "asymmetric")
NUMBERS = st.floats(-8, 8, width=32)


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    values = draw(st.lists(NUMBERS, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float64).view(rows, columns)


def steps(w, bits, group, scheme):
    """Return the step of each weight's grid, O I."""
    size = min(group or w.shape[1], w.shape[1])
    return torch.cat([grid(part, bits, 0, scheme)[0].expand(part.shape) for part in w.split(size, 1)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@few
@given(w=matrices(), bits=st.integers(2, 16), group=st.integers(0, 10))
def test_no_weight_moves_further_than_half_a_step(scheme, w, bits, group):
    once = quantized(w, bits, group, scheme)
    step = steps(w, bits, group, scheme)
    assert ((once - w).abs() <= step / 2 * (1 + 1e-9) + 1e-15).all()
    assert (steps(w, min(16, bits + 1), group, scheme) <= step + 1e-15).all()  # so that the bound falls with more bits


@pytest.mark.parametrize("scheme", SCHEMES)
@few
@given(w=matrices(), bits=st.integers(2, 8), group=st.integers(0, 10))
def test_what_was_rounded_stays(scheme, w, bits, group):
    once = quantized(w, bits, group, scheme)
    torch.testing.assert_close(quantized(once, bits, group, scheme), once, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
@few
@given(w=matrices(), bits=st.integers(2, 8))
def test_codes_are_few_integers_that_reach_the_ends(scheme, w, bits):
    levels = grid(w, bits, 0, scheme)
    found = codes(w, levels)
    low, high = (0, 2**bits - 1) if scheme == "asymmetric" else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    assert levels[2:] == (low, high)
    assert torch.equal(found, found.round())
    assert found.min() >= low
    assert found.max() <= high
    for row, code in zip(w, found, strict=True):
        if scheme == "symmetric" and row.abs().max() > 1e-300:
            assert code.abs().max() == high
        if scheme == "asymmetric" and row.max() - row.min() > 1e-300:
            assert (code.min(), code.max()) == (low, high)


@pytest.mark.parametrize("scheme", SCHEMES)
@few
@given(w=matrices(), bits=st.integers(2, 8), power=st.integers(-8, 8))
def test_order_and_scale_are_kept(scheme, w, bits, power):
    once = quantized(w, bits, 0, scheme)
    for row, found in zip(w, once, strict=True):
        assert (found[row.argsort()].diff() >= -1e-12).all()
    assert torch.equal(quantized(w * 2.0**power, bits, 0, scheme), once * 2.0**power)
    if scheme == "symmetric":
        assert torch.equal(quantized(-w, bits), -once)
