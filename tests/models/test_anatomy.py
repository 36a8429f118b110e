import pytest
import torch
from cases import vit
from families import PIXELS, family
from torch import nn

from vitmem.models.anatomy import Anatomy, anatomy_of, depths, head_of, seen_anatomy
from vitmem.models.layers import select_layers


@pytest.mark.parametrize(
    ("name", "head", "blocks"),
    [
        ("timm vit", "head", ("blocks.0", "blocks.1")),
        ("timm swin", "head.fc", ("layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0")),
        ("torchvision vit", "heads.head", ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1")),
        ("Hugging Face ViT", "classifier", None),
        ("plain CNN", "7", ("0", "3")),
        ("ResNet", "7", ("3", "4")),
    ],
)
def test_blocks_and_head_are_found_by_structure_and_by_a_pass(name, head, blocks):
    model = family(name)
    found = anatomy_of(model)
    assert found.head == head
    assert found.blocks == (blocks or found.blocks)
    assert len(found.blocks) == (3 if "swin" in name else 2)
    if name != "Hugging Face ViT":  # it returns an object
        assert seen_anatomy(model, torch.randn(2, 3, PIXELS, PIXELS)) == found


class Backwards(nn.Module):
    """Its classifier is registered first."""

    def __init__(self):
        super().__init__()
        self.out, self.hidden = nn.Linear(4, 3), nn.Linear(4, 4)

    def forward(self, x):
        return self.out(self.hidden(x.flatten(1)).relu())


def test_a_pass_finds_a_head_that_is_not_registered_last():
    model = Backwards()
    assert anatomy_of(model).head == "hidden"
    assert seen_anatomy(model, torch.randn(2, 1, 2, 2)) == Anatomy("out", ("hidden",))
    model.anatomy = Anatomy("out", ("hidden",))
    assert head_of(model)[0] == "out"
    assert list(select_layers(model, "head")) == ["out"]


def test_no_classifier_two_classifiers_and_another_kind():
    with pytest.raises(ValueError, match="has no linear layer"):
        anatomy_of(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="several classifiers"):
        head_of(family("timm deit, distilled"))
    with pytest.raises(ValueError, match=r"the classifier 1 is a Conv2d"):
        head_of(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)))


def test_depths_count_from_the_embedding_to_the_head():
    found = depths(vit())
    assert found["cls_token"] == found["pos_embed"] == found["patch_embed.proj.weight"] == 0
    assert found["blocks.0.attn.qkv.weight"] == 1
    assert found["blocks.1.mlp.fc2.bias"] == 2
    assert found["norm.weight"] == found["head.weight"] == 3
    swin = depths(family("timm swin"))
    assert swin["patch_embed.proj.weight"] == 0
    assert {d for name, d in swin.items() if "downsample" in name} == {2}  # between two blocks
    assert swin["head.fc.weight"] == 4


@pytest.mark.parametrize("name", ["torchvision vit", "Hugging Face ViT", "timm swin", "ResNet"])
def test_standard_names_stand_for_a_models_own(name):
    model = family(name)
    found = anatomy_of(model)
    assert list(select_layers(model, "blocks.1.*")) == [
        layer for layer in select_layers(model, "*") if layer.startswith(found.blocks[1])
    ]
    assert list(select_layers(model, "head")) == [found.head]
    assert list(select_layers(model, "patch_embed.proj")) == list(select_layers(model, "*"))[:1]
    with pytest.raises(ValueError, match="matches no linear layer"):
        select_layers(model, "blocks.7.*")
