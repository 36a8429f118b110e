import copy

import pytest
import torch
from families import CLASSES, PIXELS, family
from oracles import dense_factors
from torch import nn
from torch.nn import functional as F

from vitmem.curvature.collect import collect_factors
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.moments import LabelRule
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.models.attention import OpenAttention, closed_names, closed_state, opened, opened_state
from vitmem.models.layers import select_layers


class Plain(nn.Module):
    """The function of a classifier with one ``nn.MultiheadAttention``, written with ``nn.Linear`` modules."""

    def __init__(self, model):
        super().__init__()
        attention = model.attention
        width = attention.embed_dim
        self.heads = attention.num_heads
        self.embed = copy.deepcopy(model.embed)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.qkv.load_state_dict({"weight": attention.in_proj_weight, "bias": attention.in_proj_bias})
        self.out.load_state_dict(attention.out_proj.state_dict())
        self.classifier = copy.deepcopy(model.classifier)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose(1, 2))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        y = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3) @ v
        return self.classifier((x + self.out(y.transpose(1, 2).flatten(2)))[:, 0])


class Attentive(nn.Module):
    """A classifier of 6 tokens of 3 numbers with one attention of PyTorch."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        nn.init.normal_(self.attention.in_proj_bias)
        self.classifier = nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x.flatten(2).transpose(1, 2))
        return self.classifier((x + self.attention(x, x, x, need_weights=False)[0])[:, 0])


def setting():
    """Return the model, opened, its twin of linear modules, images and labels."""
    torch.manual_seed(0)
    model = Attentive().double().eval()
    image, label = torch.randn(7, 3, 2, 3, dtype=torch.float64), torch.randint(4, (7,))
    return model, opened(model), Plain(model).double(), image, label


def test_an_opened_attention_has_the_factors_of_the_dense_oracle_and_of_linear_modules():
    model, open_model, plain, image, label = setting()
    assert torch.allclose(open_model(image), model(image), atol=1e-12)
    assert torch.allclose(plain(image), model(image), atol=1e-12)

    class Doubles(InMemoryLoader):
        def normalise(self, images):
            return images

    def factors(of, names):
        maps = linear_maps(select_layers(of, names))
        batches = Doubles(Examples(image, label, label, torch.arange(7)), 3)
        return collect_factors(of, batches, maps, rule=LabelRule("exact"), dtype=torch.float64)

    found = factors(open_model, "attention.*")
    twins = factors(plain, "qkv out")
    labels = torch.arange(4).expand(7, 4)
    with torch.no_grad():
        weights = plain(image).softmax(1)
    oracle = dense_factors(plain, image, labels, weights, ["qkv", "out"], "all")
    for name, twin in (("attention.in_proj", "qkv"), ("attention.out_proj", "out")):
        for one, other in (
            (found[name].a_sum_II, oracle[twin][0]), (found[name].g_sum_OO, oracle[twin][1]),
            (found[name].a_sum_II, twins[twin].a_sum_II), (found[name].g_sum_OO, twins[twin].g_sum_OO),
        ):  # fmt: skip
            assert (one - other).norm() / other.norm() < 1e-10
        assert found[name].num_positions == oracle[twin][2] == 42


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("mask", [None, "bool", "float", "padding"])
def test_it_computes_what_the_attention_of_pytorch_does(batch_first, need_weights, mask):
    torch.manual_seed(1)
    closed = nn.MultiheadAttention(8, 2, batch_first=batch_first).double().eval()
    nn.init.normal_(closed.in_proj_bias)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    options = {
        None: {},
        "bool": {"attn_mask": hidden},
        "float": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
        "padding": {"key_padding_mask": torch.arange(5).expand(3, 5) >= torch.tensor([[5], [4], [3]])},
    }[mask]
    x = x if batch_first else x.transpose(0, 1).contiguous()
    expected = closed(x, x, x, need_weights=need_weights, **options)
    found = OpenAttention(closed)(x, x, x, need_weights=need_weights, **options)
    assert torch.allclose(found[0], expected[0], atol=1e-12)
    assert (found[1] is None) is not need_weights
    if need_weights:
        assert torch.allclose(found[1], expected[1], atol=1e-12)


def test_the_way_round_modules_that_an_encoder_takes_is_closed():
    torch.manual_seed(2)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x, ran = torch.randn(3, 4, 8), []
    open_encoder = opened(encoder).requires_grad_(False)
    open_encoder.layers[1].linear1.register_forward_hook(lambda *_: ran.append("linear1"))
    open_encoder.layers[0].self_attn.in_proj.register_forward_hook(lambda *_: ran.append("in_proj"))
    with torch.no_grad():
        assert torch.allclose(open_encoder(x), encoder(x), atol=1e-6)
    assert ran == ["in_proj", "linear1"]


def test_names_lead_there_and_back():
    model = family("torchvision vit")
    open_model = opened(model)
    image = torch.randn(2, 3, PIXELS, PIXELS)
    assert torch.allclose(open_model(image), model(image), atol=1e-5)
    assert len(closed_names(open_model)) == 4
    state = closed_state(open_model, open_model.state_dict())
    assert sorted(state) == sorted(model.state_dict())
    model.load_state_dict(state)
    open_model.load_state_dict(opened_state(open_model, state))
    assert any(isinstance(module, nn.MultiheadAttention) for module in model.modules())  # it was not changed
    assert model.heads.head.out_features == CLASSES


def test_what_needs_no_opening_is_returned_as_it_is():
    model = family("plain CNN")
    assert opened(model) is model


@pytest.mark.parametrize("name", ["timm beit", "timm eva02"])
def test_biases_apart_from_the_projection_are_added_outside_of_it(name):
    model = family(name)
    open_model, ran = opened(model), []
    open_model.blocks[0].attn.qkv.register_forward_hook(lambda *_: ran.append("qkv"))
    image = torch.randn(2, 3, PIXELS, PIXELS)
    assert torch.allclose(open_model(image), model(image), atol=1e-5)
    assert ran == ["qkv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kdim": 4}, "other widths"), ({"add_bias_kv": True}, "biases of keys"), ({"add_zero_attn": True}, "opened")],
)
def test_attention_of_another_kind_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        opened(nn.Sequential(nn.MultiheadAttention(8, 2, **options)))


def test_attention_between_two_sequences_is_refused():
    x = torch.randn(1, 2, 8)
    attention = OpenAttention(nn.MultiheadAttention(8, 2, batch_first=True))
    with pytest.raises(ValueError, match="within one batch of sequences"):
        attention(x, x + 1, x)
    with pytest.raises(ValueError, match="within one batch of sequences"):
        attention(x[0], x[0], x[0])


def test_dropout_is_that_of_training_alone():
    closed = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    attention, x = OpenAttention(closed), torch.randn(2, 4, 8)
    one, two = (attention(x, x, x, need_weights=False)[0] for _ in range(2))
    assert not torch.equal(one, two)
    attention.eval()
    assert torch.equal(*(attention(x, x, x, need_weights=False)[0] for _ in range(2)))
    assert F.mse_loss(*(attention(x, x, x, need_weights=weights)[0] for weights in (True, False))) < 1e-10
