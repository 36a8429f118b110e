"""Filtering the update that training made, W - W0, with every filter: against the filter of a model that is W - W0."""

import pytest
import torch
from edited import CACHE, DATA, MODEL

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.contract import TRACKS, identity
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC, KFAC
from vitmem.editing.prune import Magnitude
from vitmem.editing.svd import SVD
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers
from vitmem.runs.edit import edit_inputs
from vitmem.runs.trained import TrainedRun

START = {name: value + 0.1 * torch.cos(7 * value) for name, value in MODEL.state_dict().items()}
ZERO = {name: torch.zeros_like(value) for name, value in MODEL.state_dict().items()}
MATRICES = [f"{name}.weight" for name in select_layers(MODEL, "blocks.*")]
EDITS = [
    SVD(keep=0.3),
    SVD(keep=0.3, filter="graded"),
    SVD(keep=0.3, scope="global", filter="graded", exponent=2.0),
    Magnitude(keep=0.4),
    Magnitude(keep=0.4, scope="global", filter="graded"),
]


def apply(edit, initial=START, model=MODEL):
    data = EditData(DATA, edit.sees, CACHE, initial=lambda: initial)
    return edit.apply(model, data, keyed_generator(0)).state_dict


def of_update(edit):
    return type(edit)(**{**vars(edit), "of": "update"})


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_the_update_is_filtered_as_the_weights_of_a_model_would_be(edit):
    difference = {name: value - START[name] for name, value in MODEL.state_dict().items()}
    expected = apply(edit, model=with_weights(MODEL, difference))
    found = apply(of_update(edit))
    for name in MATRICES:
        assert torch.allclose(found[name], START[name] + expected[name], atol=1e-6), name
    assert all(torch.equal(found[n], value) for n, value in MODEL.state_dict().items() if n not in MATRICES)


@pytest.mark.parametrize("edit", [*EDITS, KFAC(rho=0.8), EKFAC(rho=0.8)], ids=str)
def test_an_update_from_zero_is_the_weights(edit):
    plain, found = apply(edit), apply(of_update(edit), initial=ZERO)
    assert all(torch.allclose(found[name], plain[name], atol=1e-6) for name in MATRICES)


@pytest.mark.parametrize("edit", [SVD(keep=1.0), Magnitude(keep=1.0), KFAC(rho=1.0), EKFAC(rho=1.0)], ids=str)
def test_keeping_everything_of_the_update_changes_nothing(edit):
    found = apply(of_update(edit))
    assert all(torch.equal(found[name], value) for name, value in MODEL.state_dict().items())


def test_the_eigen_coordinates_of_the_update_are_masked():
    edit = KFAC(rho=0.8, of="update")
    layers = EditData(DATA, edit.sees, CACHE).curvature(MODEL, edit).layers
    found = apply(edit)
    for name, mask_OI in edit.hard(layers).items():
        basis, key = layers[name].basis, f"{name}.weight"
        left_OI = basis.coordinates(found[key].double() - START[key].double())
        whole_OI = basis.coordinates(MODEL.state_dict()[key].double() - START[key].double())
        assert torch.allclose(left_OI[mask_OI], whole_OI[mask_OI], atol=1e-5)
        assert left_OI[~mask_OI].abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("edit", [KFAC(rho=0.8, at="start"), EKFAC(rho=0.8, at="start", of="update")], ids=str)
def test_curvature_may_be_that_of_the_start(edit):
    """The oracle masks MODEL's coordinates by the curvature of a model that is the start."""
    beginning = with_weights(MODEL, START)
    layers = EditData(DATA, edit.sees, CACHE).curvature(beginning, edit).layers
    found, state, origin = apply(edit), MODEL.state_dict(), START if edit.of == "update" else ZERO
    for name, multiplier_OI in edit.weights(layers).items():
        basis, key = layers[name].basis, f"{name}.weight"
        whole_OI = basis.coordinates(state[key] - origin[key])
        expected = origin[key] + basis.compose(whole_OI * multiplier_OI.to(whole_OI))
        assert torch.allclose(found[key], expected, atol=1e-6), name
    assert edit.track == TRACKS[1]
    assert not torch.equal(found[key], apply(type(edit)(rho=0.8, of=edit.of))[key])


def test_graded_singular_values_by_hand():
    edit = SVD(keep=0.25, filter="graded", exponent=1.5)
    s = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    expected = torch.tensor([x**1.5 / (x**1.5 + 32.0**0.75) for x in s.tolist()], dtype=torch.float64)
    assert torch.allclose(edit.multipliers({"a": s})["a"], expected)
    both = SVD(keep=0.5, scope="global").multipliers({"a": s, "b": s / 16})
    assert (both["a"].tolist(), both["b"].tolist()) == ([1.0] * 4, [0.0] * 4)


def test_graded_magnitudes_by_hand():
    sizes = torch.tensor([4.0, 1.0, 2.0, 0.0])
    expected = [16 / (16 + 8), 1 / (1 + 8), 4 / (4 + 8), 0.0]
    assert Magnitude(keep=0.25, filter="graded").multiplier(sizes).tolist() == pytest.approx(expected)


def test_a_steep_graded_filter_is_the_hard_one():
    for kind in (SVD, Magnitude):
        plain, found = apply(kind(keep=0.3)), apply(kind(keep=0.3, filter="graded", exponent=1e5))
        assert all(torch.allclose(found[name], plain[name], atol=1e-4) for name in MATRICES)


def test_what_they_see_and_results_made_before_still_count(run_folder):
    assert [edit.track for edit in (KFAC(), KFAC(of="update"), SVD(of="update"))] == [TRACKS[0], TRACKS[1], TRACKS[1]]
    assert "of" not in identity(SVD())
    assert identity(SVD(of="update"))["of"] == "update"
    run = TrainedRun.open(run_folder)
    before = edit_inputs(run, SVD(), "svd")
    assert edit_inputs(run, SVD(of="update"), "svd") != before


@pytest.mark.slow
def test_the_start_of_a_run_is_built_again(cli, run_folder):
    """An edit of a run has the weights of step 0: a rewind to the start gives the model that training began with."""
    from vitmem.models.build import create

    run = TrainedRun.open(run_folder)
    assert cli("edit", "rewind", run_folder, "--keep=0", "--id=start")[0] == 0
    arguments = run.config.model.timm_arguments((1, 8, 8), 10)
    fresh, found = create(arguments, seed=run.config.seed), TrainedRun.open(run_folder).model_of("start")
    assert all(torch.equal(found.state_dict()[name], value) for name, value in fresh.named_parameters())
    assert cli("edit", "ekfac", run_folder, "--of=update", "--rho=0.9")[0] == 0
