"""What an edit reads."""

import torch
from edited import DATA, MODEL, NOISY

from vitmem.curvature.cache import CurvatureCache
from vitmem.editing.data import EditData
from vitmem.editing.kfac import KFAC
from vitmem.editing.known import known_noisy


def test_an_edit_reads_the_known_ones_only():
    known = known_noisy(NOISY, 0.5, 0, 0)
    data = EditData(DATA, frozenset({"forget", "retain", "validation"}), known=known)
    served = torch.cat([batch.index for batch in data.forget(10)])
    assert sorted(served.tolist()) == known.nonzero()[:, 0].tolist()
    kept = torch.cat([batch.index for batch in data.retain(100)])
    assert sorted(kept.tolist()) == (~NOISY).nonzero()[:, 0].tolist()  # the unknown ones are in neither
    assert all((batch.index % 2 == 0).all() for batch in data.validation(100))
    only = torch.cat([batch.index for batch in data.images(KFAC(noisy="only"))])
    assert sorted(only.tolist()) == known.nonzero()[:, 0].tolist()


def test_curvature_of_the_known_ones_is_not_that_of_others():
    cache, edit = CurvatureCache(), KFAC(noisy="only")
    one, two = (
        EditData(DATA, edit.sees, cache, known_noisy(NOISY, 0.5, 0, seed)).curvature(MODEL, edit) for seed in (0, 1)
    )
    assert one is not two
    plain = KFAC()
    one, two = (
        EditData(DATA, plain.sees, cache, known_noisy(NOISY, 0.5, 0, seed)).curvature(MODEL, plain) for seed in (0, 1)
    )
    assert one is two
