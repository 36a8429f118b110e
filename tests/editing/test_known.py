"""Which wrong labels an edit is told of."""

import math

import pytest
import torch
from edited import NOISY

from vitmem.datamodules.batch import keyed_generator
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


def test_the_same_run_knows_the_same_labels_in_every_version():
    """A draw keyed otherwise would make every stored edit with a forget set one of other examples."""
    noisy = torch.ones(10, dtype=torch.bool)
    order = torch.randperm(10, generator=keyed_generator(3, 2, 6))
    assert known_noisy(noisy, 0.4, 3, 2).nonzero()[:, 0].tolist() == sorted(order[:4].tolist())
    assert [int(known_noisy(noisy, share, 0, 0).sum()) for share in (0.04, 0.05, 0.14, 0.15, 1.0)] == [0, 1, 1, 2, 10]
