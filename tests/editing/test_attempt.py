"""What an attempt counts, and what becomes of an edit that diverges."""

import time

import pytest
from edited import DATA, MODEL, NOISY
from edited_runs import Explode, Reader

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.attempt import applied, attempt
from vitmem.editing.contract import EditDiverged
from vitmem.editing.data import EditData
from vitmem.editing.kfac import KFAC
from vitmem.editing.known import known_noisy


def test_passes_are_counted_exactly():
    known = known_noisy(NOISY, 0.5, 0, 0)
    made = attempt(Reader(epochs=3), MODEL, EditData(DATA, Reader.sees, known=known), keyed_generator(0))
    expected = 3 * int(known.sum()) + 100 + 100  # three times all, then the first batch of each
    assert made.passes == expected / len(NOISY)
    assert made.status == "ok"


@pytest.mark.parametrize(
    ("options", "images"),
    [({}, 200), ({"moments": "ekfac"}, 400), ({"layers_per_pass": 3}, 3 * 200), ({"noisy": "only"}, 130)],
)
def test_cached_curvature_counts_as_if_it_were_collected(options, images):
    edit, cache = KFAC(examples=200, **options), CurvatureCache()
    known = known_noisy(NOISY, 1.0, 0, 0)
    images = min(images, int(known.sum())) if "noisy" in options else images
    first, again = (attempt(edit, MODEL, EditData(DATA, edit.sees, cache, known), keyed_generator(0)) for _ in range(2))
    assert first.passes == again.passes == images / len(NOISY)
    assert first.extra_memory is not None
    assert again.extra_memory is None


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_what_diverged_has_a_status_and_no_result(how):
    made = attempt(Explode(how), MODEL, EditData(DATA, Explode.sees), keyed_generator(0))
    assert made.result is None
    words = {"raises": "diverged: the loss is nan at step 3", "nan": "diverged: head.bias is not finite"}
    assert made.status == words[how]


def test_an_edit_is_applied_or_its_divergence_raised():
    known = known_noisy(NOISY, 0.5, 0, 0)
    data = EditData(DATA, Reader.sees, known=known)
    assert applied(Reader(epochs=1), MODEL, data, keyed_generator(0)).state_dict.keys() == MODEL.state_dict().keys()
    with pytest.raises(EditDiverged, match=r"head.bias is not finite"):
        applied(Explode("nan"), MODEL, EditData(DATA, Explode.sees), keyed_generator(0))


def test_what_cannot_be_applied_is_an_error_unless_others_are_to_go_on():
    data = EditData(DATA, Explode.sees)
    with pytest.raises(RuntimeError, match="there is no kernel"):
        attempt(Explode("fails"), MODEL, data, keyed_generator(0))
    made = attempt(Explode("fails"), MODEL, data, keyed_generator(0), keep_going=True)
    assert (made.result, made.status) == (None, "failed: there is no kernel")
    for keep_going in (False, True):  # want of memory says nothing of the edit
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            attempt(Explode("memory"), MODEL, data, keyed_generator(0), keep_going=keep_going)


def test_a_long_reason_is_cut_and_on_one_line():
    class Talks(Explode):
        def apply(self, model, data, generator):
            raise ValueError("no\n" + "x" * 400)

    made = attempt(Talks(), MODEL, EditData(DATA, Explode.sees), keyed_generator(0), keep_going=True)
    assert made.status == "failed: no " + "x" * 297


def test_seconds_are_part_of_the_whole_and_memory_is_told_where_nothing_came_from_a_cache():
    start = time.perf_counter()
    made = attempt(Reader(), MODEL, EditData(DATA, Reader.sees), keyed_generator(0))
    assert 0 < made.seconds <= time.perf_counter() - start
    assert made.extra_memory is not None
