"""What an edit reads."""

import dataclasses

import pytest
import torch
from edited import DATA, INITIAL, MODEL, NOISY, apply

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


def served(edit, known=None):
    """Return the positions that curvature options choose, and how many images collecting them counts."""
    data = EditData(DATA, edit.sees, CurvatureCache(), known)
    found = torch.cat([batch.index for batch in data.images(edit)])
    data.served = 0
    data.curvature(MODEL, edit)
    return found.tolist(), data.served


@pytest.mark.parametrize(("layers_per_pass", "groups"), [(0, 1), (1, 4), (3, 2), (4, 1), (9, 1)])
def test_images_are_counted_for_every_pass(layers_per_pass, groups):
    edit = KFAC(examples=30, layers="blocks.0.*", layers_per_pass=layers_per_pass)
    assert served(edit)[1] == 30 * groups
    assert served(dataclasses.replace(edit, moments="ekfac"))[1] == 30 * groups * 2


@pytest.mark.slow
def test_which_images_are_chosen():
    noisy, half = set(NOISY.nonzero()[:, 0].tolist()), known_noisy(NOISY, 0.5, 0, 0)
    assert not noisy & set(served(KFAC(noisy="excluded", layers="head"))[0])
    assert len(served(KFAC(noisy="excluded", layers="head"))[0]) == len(NOISY) - len(noisy)
    assert served(KFAC(noisy="only", layers="head"), half)[0] == half.nonzero()[:, 0].tolist()
    assert served(KFAC(layers="head"))[0] == list(range(len(NOISY)))
    assert all(index % 2 == 0 for index in served(KFAC(split="validation", layers="head"))[0])
    drawn, count = served(KFAC(examples=40, layers="head"))
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count == 40
    assert drawn != served(KFAC(examples=40, layers="head", seed=1))[0]
    for batch in EditData(DATA, frozenset({"unlabeled", "given"})).images(KFAC(labels="given", examples=40)):
        assert torch.equal(batch.given_label, DATA.train_examples.given_label[batch.index])
        assert (batch.true_label == -1).all()


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (lambda data: data.unlabeled(5, 5), "unlabeled"),
        (lambda data: data.given(5, 5), "given"),
        (lambda data: data.retain(5), "retain"),
        (lambda data: data.forget(5), "forget"),
        (lambda data: data.validation(5), "validation"),
        (lambda data: data.initial(MODEL), "initial"),
        (lambda data: data.images(KFAC()), "unlabeled"),
        (lambda data: data.images(KFAC(labels="given")), "given"),
        (lambda data: data.images(KFAC(noisy="excluded")), "retain"),
        (lambda data: data.images(KFAC(noisy="only")), "forget"),
        (lambda data: data.images(KFAC(split="validation")), "validation"),
    ],
)
def test_what_was_not_declared_is_refused_by_its_name(ask, kind):
    with pytest.raises(PermissionError, match=f"sees no data, but it asked for '{kind}'"):
        ask(EditData(DATA, frozenset(), initial=lambda: INITIAL))


def test_nothing_is_served_before_it_is_asked_for():
    data = EditData(DATA, frozenset({"given", "retain"}))
    assert (data.served, data.passes, data.reused) == (0, 0, False)
    list(data.given(50, 20))
    assert (data.served, data.passes) == (50, 50 / len(NOISY))
    assert len(data.given(50, 20)) == 3
    assert data.given(50, 20).image_shape == (1, 8, 8)
    assert sum(int(batch.is_noisy.sum()) for batch in data.given(10**6, 500)) == 0  # hidden


def test_initial_weights_must_be_those_of_the_model():
    def asked(initial):
        return EditData(DATA, frozenset({"initial"}), initial=initial).initial(MODEL)

    found = asked(lambda: {**INITIAL, "more": torch.zeros(1)})
    assert list(found) == list(MODEL.state_dict())
    assert all(torch.equal(found[name], INITIAL[name]) for name in found)
    with pytest.raises(ValueError, match="are not known"):
        asked(None)
    for wrong in ({n: v for n, v in INITIAL.items() if n != "pos_embed"}, INITIAL | {"pos_embed": torch.zeros(1)}):
        with pytest.raises(ValueError, match="pos_embed is missing or of another shape"):
            asked(lambda wrong=wrong: wrong)


def test_no_images_of_a_kind():
    data = EditData(DATA, frozenset({"forget"}), known=torch.zeros_like(NOISY))
    with pytest.raises(ValueError, match="there are no images to collect from: noisy is 'only'"):
        data.images(KFAC(noisy="only"))
    assert apply(KFAC(examples=30, layers="head")).report["layers"]
