"""Models and data of unusual form: what would come out wrong is refused, and what looks otherwise comes out right."""

import copy

import pytest
import torch
from families import CLASSES, family, images
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import vitmem
from vitmem.models.anatomy import Anatomy, depths
from vitmem.models.kinds import is_linear

IMAGE, GIVEN, TRUE = images(40)


def test_true_labels_apart_need_a_loader_in_order():
    model, data = family("plain CNN"), TensorDataset(IMAGE, GIVEN)
    for loader in (DataLoader(data, 8, shuffle=True), DataLoader(data, 12, drop_last=True)):
        with pytest.raises(ValueError, match="a loader that shuffles or leaves examples out"):
            vitmem.adopt(model, loader, true=TRUE)
    found = vitmem.adopt(model, DataLoader(data, 8), true=TRUE).data.train_examples
    assert torch.equal(found.is_noisy, GIVEN != TRUE)
    whole = DataLoader(TensorDataset(IMAGE, GIVEN, TRUE), 8, shuffle=True)
    assert int(vitmem.adopt(model, whole).data.train_examples.is_noisy.sum()) == int((GIVEN != TRUE).sum())


def test_tied_weights_and_other_types_are_refused():
    block = nn.Linear(8, 8)
    tied = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8), block, block, nn.Linear(8, CLASSES))
    with pytest.raises(ValueError, match=r"3\.weight and 4\.weight are one tied weight"):
        vitmem.adopt(tied, (IMAGE, GIVEN))
    with pytest.raises(ValueError, match=r"torch.bfloat16; .* give model.float\(\)"):
        vitmem.adopt(family("plain CNN").bfloat16(), (IMAGE, GIVEN))


def test_a_compiled_model_is_the_model_itself():
    model = family("plain CNN")
    subject = vitmem.adopt(torch.compile(model), (IMAGE, GIVEN, TRUE))
    assert vitmem.edit(subject, "scale").state_dict.keys() == model.state_dict().keys()


class Tripled(nn.MultiheadAttention):
    """An attention that computes something else than PyTorch's."""

    def forward(self, query, *rest, **options):
        found, weight = super().forward(query, *rest, **options)
        return 3 * found + query, weight


class Encoder(nn.Module):
    """Patches through PyTorch's encoder, with the sequence or the batch first."""

    def __init__(self, batch_first: bool, attention: type[nn.MultiheadAttention] | None = None):
        super().__init__()
        self.batch_first = batch_first
        self.head = nn.Linear(16, CLASSES)  # registered before what it follows
        self.embed = nn.Conv2d(3, 16, 4, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        if attention is not None:
            for one in self.encoder.layers:
                one.self_attn = attention(16, 2, batch_first=batch_first)

    def forward(self, image):
        x_BSC = self.embed(image).flatten(2).transpose(1, 2)
        x = self.encoder(x_BSC if self.batch_first else x_BSC.transpose(0, 1))
        return self.head(x.mean(1 if self.batch_first else 0))


def test_an_attention_of_ones_own_computes_what_it_computed():
    model = Encoder(True, Tripled).eval()
    subject = vitmem.adopt(model, (IMAGE, GIVEN, TRUE))
    torch.testing.assert_close(subject.model(IMAGE), model(IMAGE))  # without no_grad: the fused kernel passes by it


@pytest.mark.parametrize("name", ["kfac", "ekfac"])
@pytest.mark.parametrize("tokens", ["all", "mean"])
def test_sequences_first_change_no_edit(name, tokens):
    torch.manual_seed(0)
    first = Encoder(True).eval()
    second = Encoder(False).eval()
    second.load_state_dict(first.state_dict())
    options = {"tokens": tokens, "layers": "encoder.*", "labels": "given", "batch_size": 10}
    edits = [vitmem.edit(vitmem.adopt(model, (IMAGE, GIVEN, TRUE)), name, **options) for model in (first, second)]
    assert edits[0].status == edits[1].status == "ok"
    one, two = (edited.state_dict["encoder.layers.0.linear1.weight"] for edited in edits)
    change = (one - first.encoder.layers[0].linear1.weight).norm()
    assert change > 0
    assert (one - two).norm() < 1e-3 * change


@pytest.mark.parametrize("layer", ["attn.qkv", "mlp.fc1"])
def test_windows_of_an_image_are_one_example(layer):
    """EK-FAC's masses are mean squares of each example's whole gradient, not of each window's."""
    name = f"layers.0.blocks.0.{layer}"
    subject = vitmem.adopt(family("timm swin"), (IMAGE, GIVEN, TRUE))
    found = vitmem.curvature_of(
        subject, layers=name, moments="ekfac", labels="given", dtype="float64", batch_size=10
    ).layers[name]
    model, axes = copy.deepcopy(subject.model).double(), found.basis
    weight = model.get_parameter(f"{name}.weight")
    expected = torch.zeros_like(weight, dtype=torch.float64)
    for image, label in zip(IMAGE, GIVEN, strict=True):
        loss = F.cross_entropy(model(image[None].double()), label[None])
        (gradient,) = torch.autograd.grad(loss, weight)
        expected += (axes.u_g_OO.double().T @ gradient @ axes.u_a_II.double()).square() / len(IMAGE)
    torch.testing.assert_close(found.mass.dense().double(), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_the_class_token_is_refused_where_windows_are_seen():
    subject = vitmem.adopt(family("timm swin"), (IMAGE, GIVEN, TRUE))
    with pytest.raises(ValueError, match="no class token; use tokens: all"):
        vitmem.curvature_of(subject, layers="layers.0.blocks.0.attn.qkv", tokens="cls")


def test_layers_that_compute_otherwise_are_no_linear_maps():
    from timm.layers import Conv2dSame, Linear, StdConv2d

    assert is_linear(nn.Linear(2, 2))
    assert is_linear(Linear(2, 2))
    assert is_linear(nn.Conv2d(3, 4, 3))
    assert not is_linear(StdConv2d(3, 4, 3))
    assert not is_linear(Conv2dSame(3, 4, 3, stride=2))


def test_the_head_is_deepest_wherever_it_was_registered():
    model = Encoder(True)
    model.vitmem_anatomy = Anatomy("head", ("encoder.layers.0", "encoder.layers.1"))
    subject = vitmem.adopt(model.eval(), (IMAGE, GIVEN, TRUE))
    found = depths(subject.model)
    assert found["head.weight"] == max(found.values()) == 3
    assert found["embed.weight"] == 0


def test_inputs_alone_need_no_labels():
    subject = vitmem.adopt(family("plain CNN"), (IMAGE, GIVEN, TRUE))
    assert vitmem.edit(subject, "kfac", labels="given", masses="a").status == "ok"


def test_salun_takes_a_model_with_a_weight_that_nothing_uses():
    model = family("plain CNN")
    model.register_parameter("spare", nn.Parameter(torch.ones(3)))
    assert vitmem.edit(vitmem.adopt(model, (IMAGE, GIVEN, TRUE)), "salun", epochs=1).status == "ok"


def test_a_filtered_way_back_has_one_filter():
    from vitmem.editing.rewinds import FilteredRewind

    for options in ({"permuted": True}, {"scope": "layer"}, {"filter": "hard"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is .*; this edit has one graded filter"):
            FilteredRewind(**options)
