"""The edits of experiments/digits_quantisation.py: NPO on a grid of levels, through adapters, by signs."""

import importlib.util
from pathlib import Path

import pytest
import torch
from cases import vit

from vitmem.attacks.quantize import quantized
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing.data import EditData
from vitmem.models.layers import select_layers

FILE = Path(__file__).parents[2] / "experiments" / "digits_quantisation.py"
SHORT = {"weight_decay": 0.0, "lr": 1e-4, "steps": 2, "batch_size": 8, "forget_batch_size": 8}


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("digits_quantisation", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data, model = MemorisationData(Digits(), Symmetric()), vit(classes=10, dtype=torch.float32).eval()

    def make(**options):
        edit = module.EDITS["npo_of"](**SHORT, **options)
        known = data.train_examples.is_noisy
        state = edit.apply(model, EditData(data, edit.sees, known=known), keyed_generator(0)).state_dict
        names = [f"{name}.weight" for name in select_layers(model, "*")]
        return dict(model.state_dict()), state, names

    return make


def test_on_a_grid_small_steps_round_back_to_the_start(made):
    before, after, names = made(grid=4)
    for name in names:
        start, end = (state[name].flatten(1) for state in (before, after))
        assert not torch.equal(quantized(start, 4), end)
        torch.testing.assert_close(quantized(end, 4), quantized(start, 4), atol=2e-3, rtol=0)


def test_adapters_change_matrices_alone_by_few_directions(made):
    before, after, names = made(rank=2)
    for name, value in before.items():
        change = (after[name] - value).flatten(1) if name in names else after[name] - value
        assert (name in names) == bool(change.any())
        if name in names:
            assert 1 <= torch.linalg.matrix_rank(change, atol=1e-6) <= 2


def test_signs_are_steps_of_one_size(made):
    before, after, names = made(sign=True, frozen=True)
    change = torch.cat([(after[name] - before[name]).flatten().abs() for name in names])
    moved = change[change > 1e-8]
    step = SHORT["lr"]  # twice, forth and back or on: 0 or 2 steps, unless a gradient was 0
    near = (moved - 2 * step).abs() < 1e-6
    assert near.double().mean() > 0.9
    assert torch.equal(before["cls_token"], after["cls_token"])
