import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from vitmem.models.build import create, is_decayed
from vitmem.models.config import ModelConfig


def test_sizes_that_are_given_replace_those_of_the_name():
    config = ModelConfig(name="vit_tiny_patch16_224", width=24, depth=2, heads=3, patch=4, mlp_ratio=2.0)
    model = create(config.timm_arguments((3, 16, 8), 7))
    assert model(torch.zeros(2, 3, 16, 8)).shape == (2, 7)
    assert len(model.blocks) == 2
    assert model.blocks[0].mlp.fc1.weight.shape == (48, 24)
    assert model.pos_embed.shape == (1, 1 + 4 * 2, 24)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    arguments = ModelConfig(width=8, depth=1, heads=1, patch=4).timm_arguments((1, 8, 8), 3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (create(arguments, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": -1}, "model.width is -1; it must be positive"),
        ({"patch": 0}, "model.patch is 0"),
        ({"depth": 2000}, "model.depth is 2000; it must be positive, and at most 1024"),
        ({"mlp_ratio": float("nan")}, "model.mlp_ratio is nan"),
        ({"dropout": 1.0}, r"model.dropout is 1.0; it must be in \[0, 1\)"),
        ({"width": 10, "heads": 3}, "model.width 10 is not a multiple of model.heads 3"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


@pytest.mark.parametrize("name", ["resnet18", "vit_nothing", ""])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="unknown model"):
        create(ModelConfig(name=name).timm_arguments((3, 32, 32), 10))


def test_a_name_with_the_tag_of_weights_is_refused_unless_they_are_given():
    tagged = {"name": "vit_base_patch16_224.augreg_in21k_ft_in1k"}
    with pytest.raises(ValueError, match=r"names weights of timm \(augreg_in21k_ft_in1k\), which would not be loaded"):
        ModelConfig(**tagged).timm_arguments((3, 224, 224), 10)
    assert ModelConfig(**tagged, pretrained="a.pth").timm_arguments((3, 224, 224), 10)["model_name"] == tagged["name"]


@pytest.mark.parametrize("config", [ModelConfig(patch=3), ModelConfig(name="vit_base_patch16_224")])
def test_patches_that_do_not_divide_the_image(config):
    with pytest.raises(ValueError, match=r"does not divide the image of 8 x 8 pixels; .* 1, 2, 4, 8"):
        create(config.timm_arguments((1, 8, 8), 10), device="meta")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_relpos_small_patch16_224"])
def test_shapes_without_memory_are_those_of_the_model(name):
    arguments = ModelConfig(name=name, depth=1, pool="avg").timm_arguments((3, 32, 32), 5)
    blank, model = (create(arguments, device=device).state_dict() for device in ("meta", "cpu"))
    assert {key: value.shape for key, value in blank.items()} == {key: value.shape for key, value in model.items()}
    assert all(value.is_meta for value in blank.values())


def test_what_is_decayed():
    model = create(ModelConfig(width=8, depth=1, heads=1, patch=4).timm_arguments((1, 8, 8), 3))
    decayed = {name for name, p in model.named_parameters() if is_decayed(name, p)}
    assert decayed == {
        "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight",
        "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "head.weight",
    }  # fmt: skip


def test_a_run_loads_in_plain_timm(finished):
    description = json.loads((finished / "model.json").read_text())
    model = timm.create_model(**description["timm"])
    assert not model.load_state_dict(load_file(finished / "model.safetensors"), strict=True).missing_keys
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert len(description["mean"]) == 1
