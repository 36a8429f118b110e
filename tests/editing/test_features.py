"""Truncated features against the singular vectors of the inputs."""

import math

import numpy as np
import pytest
import torch
from cases import vit
from closed_form import DATA, MODEL, apply, before, inputs_of

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.contract import TRACKS
from vitmem.editing.data import EditData
from vitmem.editing.features import Features, truncation
from vitmem.models.layers import select_layers

EVERYTHING = 10**6


def changed(state):
    return {name for name, value in MODEL.state_dict().items() if not torch.equal(state[name], value)}


def test_keeping_all_directions_changes_nothing():
    assert not changed(apply(Features(keep=1.0, examples=20)).state_dict)
    assert not changed(apply(Features(keep=0.99, examples=20, layers="blocks.*.attn.*")).state_dict)  # ceil(15.84) = 16


@pytest.mark.parametrize(("name", "keep", "rank"), [("blocks.0.mlp.fc1", 0.3, 5), ("blocks.1.mlp.fc2", 0.02, 2)])
def test_weights_are_projected_on_the_leading_singular_vectors(name, keep, rank):
    state = apply(Features(layers=name, keep=keep, examples=EVERYTHING)).state_dict
    assert changed(state) == {f"{name}.weight"}
    u, _, _ = np.linalg.svd(inputs_of(name, DATA.train_examples).T, full_matrices=False)
    expected = before(f"{name}.weight").double().numpy() @ u[:, :rank] @ u[:, :rank].T
    np.testing.assert_allclose(state[f"{name}.weight"].double().numpy(), expected, atol=1e-5)


def test_the_moment_is_not_centred():
    turn = torch.linalg.qr(torch.arange(9.0, dtype=torch.float64).view(3, 3) ** 2 + torch.eye(3))[0]
    inputs = torch.tensor([[5.0, 1.0, 0.0], [5.0, -1.0, 0.0], [5.0, 0.0, 0.1]], dtype=torch.float64) @ turn.T
    found = turn.T @ truncation(inputs.T @ inputs, 1) @ turn
    # the mean's direction leads; centred, the second would
    torch.testing.assert_close(found, torch.diag(torch.tensor([1.0, 0, 0], dtype=torch.float64)), atol=0.01, rtol=0)


def test_every_chosen_layer_gets_its_rank_and_another_draw_another_result():
    one, two = (apply(Features(keep=0.25, examples=40), seed=seed).state_dict for seed in (0, 1))
    for name, layer in select_layers(MODEL, "blocks.*").items():
        rank = np.linalg.matrix_rank(one[f"{name}.weight"].numpy(), tol=1e-4)
        assert rank == math.ceil(layer.in_features / 4)
        assert not torch.equal(one[f"{name}.weight"], two[f"{name}.weight"])


def test_it_sees_images_alone_and_no_more_than_asked_for():
    edit = Features(examples=30)
    data = EditData(DATA, edit.sees)
    edit.apply(MODEL, data, keyed_generator(0))
    assert (edit.track, data.served) == (TRACKS[0], 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features(keep=0.0), "keep is 0.0"),
        (lambda: Features(keep=1.1), "keep is 1.1"),
        (lambda: Features(examples=0), "examples is 0"),
        (lambda: Features(layers="nothing.*").check(MODEL), "matches no linear layer"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_all_directions_are_no_projection_in_double_precision_either():
    model = vit("token", classes=10).eval()
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    edit = Features(keep=1.0, examples=20)
    state = edit.apply(model, EditData(DATA, edit.sees), keyed_generator(0)).state_dict
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
