import re

import pytest
from cases import vit

from vitmem.models.layers import expand_braces, select_layers, split_patterns


def test_layer_patterns():
    model = vit()
    assert list(select_layers(model, "blocks.{0,1}.mlp.fc? head")) == [
        "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "head",
    ]  # fmt: skip
    assert list(select_layers(model, ["blocks.[1-9].attn.*"])) == ["blocks.1.attn.qkv", "blocks.1.attn.proj"]
    assert expand_braces("a{b,c}d{e,f}") == ["abde", "abdf", "acde", "acdf"]
    with pytest.raises(
        ValueError,
        match=r"'blocks.7.\*' matches no linear layer; there are: patch_embed.proj, blocks.\{0..1\}.attn.qkv",
    ):
        select_layers(model, "head blocks.7.*")
    with pytest.raises(ValueError, match="no pattern"):
        select_layers(model, "")


def test_patterns_may_take_layers_away():
    model = vit()
    assert list(select_layers(model, "blocks.0.*, !blocks.*.mlp.*")) == ["blocks.0.attn.qkv", "blocks.0.attn.proj"]
    every = select_layers(model, "*")
    assert list(select_layers(model, "!head")) == [name for name in every if name != "head"]
    assert list(select_layers(model, ["!blocks.{0,1}.*", "*"])) == ["patch_embed.proj", "head"]
    with pytest.raises(ValueError, match=r"'!blocks.7.\*' matches no linear layer"):
        select_layers(model, "*, !blocks.7.*")
    with pytest.raises(ValueError, match="take away all that they choose"):
        select_layers(model, "head !*")


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("blocks.{0,11}.mlp.*", ["blocks.{0,11}.mlp.*"]),
        ("blocks.0.*, head", ["blocks.0.*", "head"]),
        ("blocks.{0, 1}.* head,patch_embed.proj", ["blocks.{0, 1}.*", "head", "patch_embed.proj"]),
        (" , ", []),
    ],
)
def test_patterns_are_separated_by_commas_or_spaces(text, patterns):
    assert split_patterns(text) == patterns


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("{a,b}" * 30, "stand for 1.1e+09 patterns"), ("a" * 10_001, "has 10,001 characters")],
)
def test_patterns_without_bounds(pattern, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        select_layers(vit(), pattern)
