"""Example-tied dropout."""

import pytest
import torch

from vitmem.datamodules.batch import keyed_seed
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.training.tied_dropout import TiedDropout, is_fixed, tied_mask, uniform

MODEL = ModelConfig(width=16, depth=2, heads=2, patch=4)


def blank(seed=3):
    return create(MODEL.timm_arguments((1, 8, 8), 10), seed=seed).eval()


def test_numbers_look_drawn_and_follow_splitmix64():
    """The finaliser in Python's integers, which do not wrap by themselves."""

    def expected(number, key):
        x = (number * 0x9E3779B97F4A7C15 + key) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return ((x ^ (x >> 31)) >> 11) / 2**53

    key = keyed_seed(5)
    numbers = torch.arange(20000)
    found = uniform(numbers, key)
    assert found[:50].tolist() == [expected(n, key) for n in range(50)]
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1]) == pytest.approx(0.0, abs=0.03)


def test_an_example_keeps_its_units_and_the_first_ones_belong_to_all():
    index = torch.arange(400)
    mask = tied_mask(index, 50, 0.3, 0.2, key=1)
    assert mask[:, :15].all()
    assert float(mask[:, 15:].float().mean()) == pytest.approx(0.2, abs=0.015)
    assert torch.equal(tied_mask(index[[7, 3]], 50, 0.3, 0.2, key=1), mask[[7, 3]])
    assert not torch.equal(tied_mask(index, 50, 0.3, 0.2, key=2), mask)
    assert len(torch.unique(mask, dim=0)) > 390
    assert int(is_fixed(10, 0.21).sum()) == 3  # rounded up


def test_the_mask_is_what_the_second_layer_sees_on_every_token():
    model = blank()
    tied = TiedDropout(model, 0.25, 0.5, seed=0)
    seen = []
    model.blocks[1].mlp.fc2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    index = torch.tensor([11, 4])
    with torch.no_grad(), tied(index):
        model(torch.rand(2, 1, 8, 8))
    mask = tied_mask(index, 64, 0.25, 0.5, keyed_seed(0, 1, 6))
    assert torch.equal((seen[0] != 0).all(1), mask)
    assert torch.equal((seen[0] != 0).any(1), mask)
    with torch.no_grad():
        model(torch.rand(2, 1, 8, 8))
    assert (seen[1][..., 16:] == 0).all()  # outside the context nobody's own units are on


def test_the_folded_model_answers_as_the_hooked_one_and_is_plain():
    model, image = blank(), torch.rand(3, 1, 8, 8)
    tied = TiedDropout(model, 0.25, 0.1, seed=0)
    with torch.no_grad():
        hooked = model(image)
        tied.fold()
        torch.testing.assert_close(model(image), hooked)
    old = blank().state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("mlp.fc2.weight"):
            torch.testing.assert_close(value[:, :16], old[name][:, :16] * 0.35 / 0.25)
            assert (value[:, 16:] == 0).all()
        else:
            assert torch.equal(value, old[name])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_switched_off_it_leaves_no_trace():
    model = blank()
    tied = TiedDropout(model, 1.0, 0.1, seed=0)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with tied(torch.arange(2)):
        pass
    tied.fold()
    assert all(torch.equal(value, blank().state_dict()[name]) for name, value in model.state_dict().items())
