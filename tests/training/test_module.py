import itertools

import pytest

from vitmem.training.module import warmup_cosine


def test_warmup_and_cosine():
    shares = [warmup_cosine(step, 4, 12) for step in range(13)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4] == 1.0
    assert shares[8] == pytest.approx(0.5)
    assert shares[12] == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(shares[4:]))
    assert warmup_cosine(0, 0, 5) == 1.0
