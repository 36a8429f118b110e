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
