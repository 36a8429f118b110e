"""Which wrong labels an edit is told of."""

import math

import pytest
import torch
from edited import NOISY

from vitmem.editing.known import drawn, known_noisy


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_known_share_is_drawn_for_the_run(share):
    known = known_noisy(NOISY, share, 0, 0)
    assert int(known.sum()) == math.floor(share * int(NOISY.sum()) + 0.5)
    assert not (known & ~NOISY).any()
    assert torch.equal(known, known_noisy(NOISY, share, 0, 0))
    if share < 1:
        assert not torch.equal(known, known_noisy(NOISY, share, 0, 1))
        assert not torch.equal(known, known_noisy(NOISY, share, 1, 0))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=r"known is .*\(0, 1\]"):
        known_noisy(NOISY, share, 0, 0)


def test_half_of_the_known_ones_are_a_half():
    known = known_noisy(NOISY, 0.5, 0, 0)
    fit = drawn(known, 0.5, 0, 0, 7)
    assert not (fit & ~known).any()
    assert abs(2 * int(fit.sum()) - int(known.sum())) <= 1
