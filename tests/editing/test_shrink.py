"""Shrinking by one number, towards zero or towards the start, against what is computed by hand."""

import pytest
import torch
from cases import vit
from edited import DATA, MODEL
from torch import nn
from torch.nn import functional as F

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.contract import TRACKS
from vitmem.editing.data import EditData
from vitmem.editing.shrink import NormsOff, Rewind, Scale
from vitmem.models.build import with_weights
from vitmem.models.kinds import is_norm

PARTS = ("weight", "bias")
START = {name: value + 0.1 * (1 + value.abs()) for name, value in MODEL.state_dict().items()}


def apply(edit, initial=START):
    data = EditData(DATA, edit.sees, initial=(lambda: initial) if initial is not None else None)
    return edit.apply(MODEL, data, keyed_generator(0)).state_dict


def changed(state):
    return {name for name, value in MODEL.state_dict().items() if not torch.equal(state[name], value)}


@pytest.mark.parametrize(
    "edit", [Scale(factor=1.0), Rewind(keep=1.0), Rewind(keep=1.0, layers="blocks.*"), NormsOff(keep=1.0)]
)
def test_strength_zero_changes_nothing(edit):
    assert not changed(apply(edit))


def test_scaling_is_a_product_of_the_chosen_matrices():
    state = apply(Scale(factor=0.5, layers="blocks.0.mlp.*, head"))
    assert changed(state) == {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "head.weight"}
    for name in changed(state):
        assert torch.equal(state[name], 0.5 * MODEL.state_dict()[name])


@pytest.mark.parametrize(("part", "third"), [("query", 0), ("key", 1), ("value", 2)])
def test_a_part_is_a_third_of_the_fused_rows(part, third):
    state = apply(Scale(factor=0.25, part=part))
    assert changed(state) == {f"blocks.{block}.attn.qkv.weight" for block in (0, 1)}
    for name in changed(state):
        before, after = MODEL.state_dict()[name].chunk(3), state[name].chunk(3)
        for number in range(3):
            assert torch.equal(after[number], before[number] * (0.25 if number == third else 1.0))


def test_a_temperature_divides_the_logits_of_attention():
    """The oracle calls attention with its scale divided; the edit divides the queries."""
    image = next(iter(DATA.loader(DATA.validation_examples))).image[:8]
    expected = with_weights(MODEL, dict(MODEL.state_dict()))
    for block in expected.blocks:
        block.attn.fused_attn = False
        block.attn.scale = block.attn.scale / 3.0
    found = with_weights(MODEL, apply(Scale(factor=1.0, temperature=3.0)))
    with torch.no_grad():
        assert torch.allclose(found(image), expected(image), atol=1e-6)
        assert not torch.allclose(found(image), MODEL(image), atol=1e-4)


def test_rewinding_is_the_straight_line_to_the_start():
    state = apply(Rewind(keep=0.25))
    for name, value in MODEL.state_dict().items():
        assert torch.allclose(state[name], START[name] + 0.25 * (value - START[name]), atol=1e-7), name
    assert all(torch.equal(apply(Rewind(keep=0.0))[name], START[name]) for name in dict(MODEL.named_parameters()))
    some = apply(Rewind(keep=0.25, layers="blocks.1.*"))
    assert changed(some) == {f"blocks.1.{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}


SHAKEN = vit(classes=10, dtype=torch.float32)  # scales are not 1 and shifts not 0, as they are before training


def shaken(edit):
    return edit.apply(SHAKEN, EditData(DATA, edit.sees), keyed_generator(0)).state_dict


def test_norms_without_what_they_learned_are_plain_norms():
    """The oracle's norms have no weights at all."""
    image = next(iter(DATA.loader(DATA.validation_examples))).image[:8]
    expected = with_weights(SHAKEN, dict(SHAKEN.state_dict()))
    norms = [name for name, module in SHAKEN.named_modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 5
    for name in norms:
        old = expected.get_submodule(name)
        expected.set_submodule(name, nn.LayerNorm(old.normalized_shape, old.eps, elementwise_affine=False))
    found = with_weights(SHAKEN, shaken(NormsOff()))
    with torch.no_grad():
        assert torch.allclose(found(image), expected(image), atol=1e-6)
        assert not torch.allclose(found(image), SHAKEN(image), atol=1e-3)


def test_a_share_of_chosen_norms_is_kept():
    before, after = SHAKEN.state_dict(), shaken(NormsOff(keep=0.25, layers="blocks.1.*, norm"))
    different = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert different == {f"{name}.{part}" for name in ("blocks.1.norm1", "blocks.1.norm2", "norm") for part in PARTS}
    for name in different:
        neutral = 1.0 if name.endswith("weight") else 0.0
        assert torch.allclose(after[name], neutral + 0.25 * (before[name] - neutral), atol=1e-6), name


def test_norms_are_told_by_what_they_are():
    from timm.layers import LayerNorm, LayerNorm2d, RmsNorm

    for norm in (nn.LayerNorm(4), LayerNorm(4), LayerNorm2d(4), RmsNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4)):
        assert is_norm(norm), norm
    for other in (nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 4), nn.Identity(), nn.Conv2d(4, 4, 2)):
        assert not is_norm(other), other
    model = nn.Sequential(nn.Linear(4, 4), RmsNorm(4))
    nn.init.constant_(model[1].weight, 3.0)
    found = NormsOff(keep=0.5).apply(model, EditData(DATA, frozenset()), keyed_generator(0)).state_dict
    assert found["1.weight"].tolist() == [2.0] * 4


def test_the_change_grows_with_the_strength():
    def distance(edit):
        state = apply(edit)
        return sum(F.mse_loss(state[name], value, reduction="sum") for name, value in MODEL.state_dict().items())

    for kind, option in ((Scale, "factor"), (Rewind, "keep")):
        found = [distance(kind(**{option: amount})) for amount in (1.0, 0.8, 0.5, 0.2, 0.0)]
        assert found == sorted(found)
        assert found[0] == 0 < found[1]


def test_the_start_is_declared_and_has_a_track_of_its_own():
    assert [edit.track for edit in (Scale(), Rewind(), NormsOff())] == [TRACKS[0], TRACKS[1], TRACKS[0]]
    with pytest.raises(PermissionError, match="'initial'"):
        EditData(DATA, frozenset({"unlabeled"}), initial=lambda: START).initial(MODEL)
    with pytest.raises(ValueError, match="not known"):
        apply(Rewind(), initial=None)
    with pytest.raises(ValueError, match=r"another model's: head.weight is missing"):
        apply(Rewind(), initial={n: v for n, v in START.items() if n != "head.weight"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(factor=1.5), "factor is 1.5"),
        (lambda: Scale(factor=float("nan")), "factor is nan"),
        (lambda: Scale(temperature=0.5), "temperature is 0.5"),
        (lambda: Scale(layers="blocks.*.mlp.*", part="query").check(MODEL), "no layer named qkv or in_proj"),
        (lambda: Rewind(keep=-0.1), "keep is -0.1"),
        (lambda: NormsOff(keep=1.5), "keep is 1.5"),
        (lambda: NormsOff(layers="head").check(MODEL), r"'head' matches no norm with a scale; there are: .*norm"),
        (lambda: NormsOff().check(torch.nn.Linear(2, 2)), "matches no norm with a scale; there are: none"),
        (lambda: Rewind(layers="nothing.*").check(MODEL), "matches no linear layer"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_slope_sends_late_blocks_further_back():
    even, late = Rewind(keep=0.25).shares(MODEL), Rewind(keep=0.25, slope=0.5).shares(MODEL)
    assert set(even.values()) == {0.25}
    first, last = 0.25**0.5, 0.25**1.5
    assert late["patch_embed.proj.weight"] == late["blocks.0.attn.qkv.weight"] == first
    assert late["blocks.1.mlp.fc2.bias"] == late["head.weight"] == last
    state = apply(Rewind(keep=0.25, slope=0.5))
    for name, share in late.items():
        assert torch.allclose(state[name], START[name] + share * (MODEL.state_dict()[name] - START[name]), atol=1e-6)


def test_an_earlier_checkpoint_is_another_start():
    middle = {name: value - 0.2 for name, value in MODEL.state_dict().items()}
    edit = Rewind(keep=0.0, to="early_stop")
    data = EditData(DATA, edit.sees, initial={"early_stop": middle}.__getitem__)
    state = edit.apply(MODEL, data, keyed_generator(0)).state_dict
    assert all(torch.equal(state[name], middle[name]) for name, _ in MODEL.named_parameters())
    assert edit.track == TRACKS[2]  # validation chose it
    with pytest.raises(PermissionError, match="'validation'"):
        EditData(DATA, frozenset({"initial"}), initial={"early_stop": middle}.__getitem__).initial(MODEL, "early_stop")


def test_a_temperature_that_a_norm_would_undo_is_refused():
    model = vit(classes=10)
    model.blocks[1].attn.q_norm = nn.LayerNorm(8)
    Scale(temperature=1.0).check(model)
    Scale(temperature=2.0, layers="blocks.0.*").check(model)
    with pytest.raises(ValueError, match=r"temperature: blocks.1.attn.qkv is followed by a norm of the queries"):
        Scale(temperature=2.0).check(model)


def test_a_temperature_alone_asks_for_attention_too():
    Scale(layers="blocks.*.mlp.*").check(MODEL)
    for options in ({"temperature": 2.0}, {"part": "value"}):
        with pytest.raises(ValueError, match="chooses no layer named qkv"):
            Scale(layers="blocks.*.mlp.*", **options).check(MODEL)


def test_queries_are_divided_with_their_biases_and_a_part_is_scaled_beside():
    state = shaken(Scale(layers="blocks.0.attn.*", part="value", factor=0.5, temperature=4.0))
    before = SHAKEN.state_dict()
    for part in PARTS:
        query, key, value = (piece.clone() for piece in before[f"blocks.0.attn.qkv.{part}"].chunk(3))
        expected = torch.cat([query / 4, key, value * (0.5 if part == "weight" else 1)])
        assert torch.equal(state[f"blocks.0.attn.qkv.{part}"], expected)
    assert torch.equal(state["blocks.0.attn.proj.weight"], before["blocks.0.attn.proj.weight"])
