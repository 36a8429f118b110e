import dataclasses
import math
from functools import cache

import pytest
import torch
from cases import TINY, vit
from edited import DATA, MODEL, apply

from vitmem.editing import edits
from vitmem.editing.contract import TRACKS, track
from vitmem.editing.data import EditData
from vitmem.editing.finetune import OracleLabels
from vitmem.editing.kfac import KFAC
from vitmem.models.build import create


def quick(name):
    """Return a registered edit with its defaults, but in few passes over the data."""
    few = {"epochs": 1, "steps": 3, "tries": 3}
    options = {field.name for field in dataclasses.fields(edits()[name])}
    return edits()[name](**{option: value for option, value in few.items() if option in options})


@cache
def applied(name):
    """Return a model that was edited, its weights before, and the result."""
    model = vit("token", classes=10, dtype=torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    return model, before, apply(quick(name), model, seed=4)


@pytest.mark.parametrize("name", sorted(edits()))
class TestContract:
    """What every registered edit must do; a new one is enrolled by itself."""

    @pytest.mark.slow
    def test_the_model_is_not_changed(self, name):
        model, before, result = applied(name)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        changed = [key for key, value in result.state_dict.items() if not torch.equal(value, before[key])]
        assert changed

    def test_the_weights_fit_the_model_and_are_finite(self, name):
        _, _, result = applied(name)
        model = create(TINY.timm_arguments((1, 8, 8), 10))
        model.load_state_dict(result.state_dict, strict=True)
        assert all(torch.isfinite(value).all() for value in result.state_dict.values())
        assert all(value.dtype == MODEL.state_dict()[key].dtype for key, value in result.state_dict.items())

    @pytest.mark.slow
    def test_the_same_seed_gives_the_same_weights(self, name):
        model, _, result = applied(name)
        one, two = result.state_dict, apply(quick(name), model, seed=4).state_dict
        assert all(torch.equal(one[key], two[key]) for key in one)

    def test_the_report_names_layers_and_cost(self, name):
        report = applied(name)[2].report
        assert report["layers"]
        assert {"layer", "relative_change"} <= set(report["layers"][0])
        assert all(seconds >= 0 and math.isfinite(seconds) for seconds in report["seconds"].values())

    def test_options_have_defaults_and_the_main_one_exists(self, name):
        edit = edits()[name]()
        assert edit.main_option is None or hasattr(edit, edit.main_option)


@pytest.mark.parametrize("name", sorted(edits()))
def test_a_pattern_that_matches_nothing_is_refused_before_any_work(name):
    if "layers" not in {field.name for field in dataclasses.fields(edits()[name])}:
        pytest.skip("all weights are edited")
    edit = edits()[name](layers="blocks.9.*")
    with pytest.raises(ValueError, match=r"'blocks.9.\*' matches no (linear layer|norm)"):
        edit.check(MODEL)


def test_edits_read_only_what_they_declare():
    data = EditData(DATA, frozenset({"unlabeled"}))
    batch = next(iter(data.unlabeled(50, 50)))
    assert (batch.given_label == -1).all()
    assert (batch.true_label == -1).all()
    assert not batch.is_noisy.any()
    for kind in (data.retain, data.forget):
        with pytest.raises(PermissionError, match="declares that it sees \\['unlabeled'\\]"):
            kind(10)
    with pytest.raises(PermissionError, match="'given'"):
        data.given(10, 10)
    assert KFAC().sees == {"unlabeled"}
    assert KFAC(labels="given").sees == {"unlabeled", "given"}
    given = next(iter(EditData(DATA, frozenset({"given"})).given(50, 50)))
    assert (given.given_label >= 0).all()
    assert (given.true_label == -1).all()
    known = EditData(DATA, frozenset({"retain", "forget"}))
    assert all(not b.is_noisy.any() for b in known.retain(500))
    assert sum(int(b.is_noisy.sum()) for b in known.forget(500)) == int(DATA.manifest.is_noisy.sum())


def test_tracks():
    assert track(frozenset({"unlabeled", "given"})) == "label-free"
    assert track(frozenset({"unlabeled", "validation"})) == "right labels"
    assert track(frozenset({"retain", "unlabeled"})) == "right labels"
    assert track(frozenset({"retain", "forget"})) == "known noisy examples"
    assert OracleLabels().track not in TRACKS
