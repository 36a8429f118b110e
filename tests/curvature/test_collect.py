import copy

import pytest
import torch
from cases import VITS, loader, vit
from factors import maps_of, relative
from oracles import dense_factors
from torch import nn

from vitmem.curvature.collect import collect_factors, collect_moments
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.curvature.moments import (
    LabelRule,
    keyed_uniform,
)
from vitmem.curvature.spectrum import KroneckerMass, decompose, decompose_all


def oracle_labels(model, batches, rule):
    """Labels N L and weights N L at which the oracle takes the loss."""
    batch = next(iter(batches))
    with torch.no_grad():
        p = model.eval()(batch.image).softmax(1)
    n, classes = p.shape
    if rule.labels == "given":
        return batch, batch.given_label[:, None], torch.ones(n, 1, dtype=torch.float64)
    if rule.labels == "exact":
        return batch, torch.arange(classes).expand(n, -1), p
    uniform = keyed_uniform(rule.seed, batch.index, rule.draws)
    drawn = (uniform[:, :, None] >= p.cumsum(1)[:, None, :]).sum(2)  # how many classes lie below the number
    return batch, drawn, torch.full((n, rule.draws), 1 / rule.draws, dtype=torch.float64)


RULES = [LabelRule("sampled", seed=7), LabelRule("sampled", draws=3, seed=7), LabelRule("exact"), LabelRule("given")]


RULE_IDS = ["sampled", "draws3", "exact", "given"]


@pytest.mark.parametrize("name", sorted(VITS))
@pytest.mark.parametrize("tokens", ["cls", "all", "mean"])
@pytest.mark.parametrize("rule", RULES, ids=RULE_IDS)
@pytest.mark.parametrize("batch_size", [4, 11])
def test_factors_equal_the_dense_oracle_whatever_the_batch_size(name, tokens, rule, batch_size):
    model = vit(name)
    maps = maps_of(model)
    found = collect_factors(model, loader(11, batch_size), maps, tokens=tokens, rule=rule, dtype=torch.float64)
    batch, label, weight = oracle_labels(model, loader(11, 11), rule)
    expected = dense_factors(model, batch.image, label, weight, list(maps), tokens)
    for layer, (a_sum, g_sum, positions) in expected.items():
        assert relative(found[layer].a_sum_II, a_sum) < 1e-10
        if g_sum.norm() > 0:  # tokens that a class-token model does not read have no gradient in the last block
            assert relative(found[layer].g_sum_OO, g_sum) < 1e-10
        else:
            assert found[layer].g_sum_OO.norm() == 0
        assert (found[layer].num_positions, found[layer].num_examples) == (positions, 11)


def per_example_gradients(model, batch, label, weight, maps):
    """Yield (weight, {layer: matrix O I}) of the loss of each example at each label, by autograd on the weights."""
    for n in range(len(batch.index)):
        logits = model(batch.image[n : n + 1])
        for y, w in zip(label[n], weight[n], strict=True):
            loss = nn.functional.cross_entropy(logits, y[None], reduction="sum")
            weights = [m.module.weight for m in maps.values()]
            biases = [m.module.bias for m in maps.values()]
            grads = torch.autograd.grad(loss, weights + biases, retain_graph=True)
            matrices = {}
            for (name, m), gw, gb in zip(maps.items(), grads[: len(maps)], grads[len(maps) :], strict=True):
                matrices[name] = torch.cat([gw.flatten(1), gb[:, None]], 1) if m.bias else gw.flatten(1)
            yield w, matrices


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=RULE_IDS)
@pytest.mark.parametrize("batch_size", [4, 11])
def test_ekfac_moments_equal_a_loop_over_per_example_gradients(rule, bias, batch_size):
    model = vit()
    maps = maps_of(model, "patch_embed.proj blocks.* head", bias)
    factors = collect_factors(model, loader(11, batch_size), maps, rule=rule, dtype=torch.float64)
    bases = decompose_all(factors)
    found = collect_moments(model, loader(11, batch_size), maps, bases, rule=rule, dtype=torch.float64)
    batch, label, weight = oracle_labels(model, loader(11, 11), rule)
    expected = {name: 0.0 for name in maps}
    for w, matrices in per_example_gradients(model, batch, label, weight, maps):
        for name, gradient in matrices.items():
            expected[name] += w * (bases[name].u_g_OO.T @ gradient @ bases[name].u_a_II).square()
    for name in maps:
        assert relative(found[name].squares_OI, expected[name]) < 1e-10
        assert found[name].num_examples == 11


def test_reduce_concerns_the_factors_not_the_gradient():
    model = vit()
    maps = maps_of(model, "blocks.0.mlp.fc1")
    bases = decompose_all(collect_factors(model, loader(), maps, tokens="mean", dtype=torch.float64))
    mean, whole = (
        collect_moments(model, loader(), maps, bases, tokens=t, dtype=torch.float64) for t in ("mean", "all")
    )
    assert torch.equal(mean["blocks.0.mlp.fc1"].squares_OI, whole["blocks.0.mlp.fc1"].squares_OI)


def test_the_patch_embedding_is_a_linear_map_on_patches():
    model = vit()
    (m,) = maps_of(model, "patch_embed.proj", bias=True).values()
    image = next(iter(loader(3, 3))).image
    rows = m.with_constant(m.input_rows(image))
    by_matrix = rows @ m.matrix().T
    assert torch.allclose(by_matrix, model.patch_embed.proj(image).flatten(2).transpose(1, 2))
    state = m.state(m.matrix())
    assert torch.equal(state["patch_embed.proj.weight"], model.patch_embed.proj.weight)
    assert torch.equal(state["patch_embed.proj.bias"], model.patch_embed.proj.bias)
    for bias in (True, False):
        for layer in maps_of(model, "patch_embed.proj blocks.0.* head", bias).values():
            assert torch.equal(layer.matrix_of(model.state_dict()), layer.matrix())
            assert layer.matrix().shape == (layer.outputs, layer.inputs)
            assert all(torch.equal(v, model.state_dict()[k]) for k, v in layer.state(layer.matrix()).items())


def test_a_layer_without_a_bias_has_none_to_take_part():
    layers = {"with": nn.Linear(3, 2), "without": nn.Linear(3, 2, bias=False)}
    assert {name: layer.inputs for name, layer in linear_maps(layers, True).items()} == {"with": 4, "without": 3}
    assert {name: layer.inputs for name, layer in linear_maps(layers).items()} == {"with": 3, "without": 3}


def test_softmax_regression_on_one_token_against_the_dense_fisher():
    """One example: A and G factorise exactly, so K-FAC is the Fisher; several: EK-FAC has its diagonal."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False)).double()
    maps = {"1": LinearMap("1", model[1])}
    for n in (1, 11):
        batch = next(iter(loader(n, n)))
        x, p = batch.image.flatten(1), model(batch.image).softmax(1).detach()
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        fisher = sum(torch.kron(h, torch.outer(v, v)) for h, v in zip(hessian, x, strict=True)) / n
        factors = collect_factors(model, loader(n, 4), maps, rule=LabelRule("exact"), dtype=torch.float64)
        basis = decompose(factors["1"])
        moments = collect_moments(model, loader(n, 4), maps, {"1": basis}, rule=LabelRule("exact"), dtype=torch.float64)
        vectors = torch.kron(basis.u_g_OO, basis.u_a_II)
        diagonal = torch.diagonal(vectors.T @ fisher @ vectors).view(5, 64)
        assert torch.allclose(moments["1"].mean_OI, diagonal, atol=1e-12)
        kfac = torch.kron(factors["1"].G, factors["1"].A)
        if n == 1:
            assert relative(kfac, fisher) < 1e-10
            assert torch.allclose(KroneckerMass(basis.lambda_O, basis.mu_I).dense(), diagonal, atol=1e-12)
        else:
            assert torch.trace(kfac) == pytest.approx(float(torch.trace(factors["1"].G) * torch.trace(factors["1"].A)))


def state_of(model):
    return (
        [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()],
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
        [p.detach().clone() for p in model.parameters()],
    )


def assert_untouched(before, after):
    assert before[:4] == after[:4]
    assert all(torch.equal(a, b) for a, b in zip(before[4], after[4], strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_leave_no_trace(fails):
    model = vit()
    model.train()
    model.blocks[0].eval()
    model.norm.weight.requires_grad_(False)
    before = state_of(model)

    def batches():
        yield from loader(8, 4)
        if fails:
            raise RuntimeError("the disk is gone")

    if fails:
        with pytest.raises(RuntimeError, match="the disk is gone"):
            collect_factors(model, batches(), maps_of(model))
    else:
        collect_factors(model, batches(), maps_of(model))
    assert_untouched(before, state_of(model))


class Odd(nn.Module):
    """A model with one layer that runs twice and one that never runs."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.once = nn.Linear(64, 64), nn.Linear(64, 5), nn.Linear(64, 5)

    def forward(self, image):
        return self.once(self.twice(self.twice(image.flatten(1))))


@pytest.mark.parametrize(("name", "message"), [("never", "never ran"), ("twice", "ran twice")])
def test_layers_that_do_not_fire_once(name, message):
    model = Odd().double()
    before = state_of(model)
    with pytest.raises(ValueError, match=f"'{name}' {message}"):
        collect_factors(model, loader(), linear_maps({name: getattr(model, name), "once": model.once}))
    assert_untouched(before, state_of(model))


def test_nothing_runs_backward_below_the_first_chosen_layer():
    model = vit()
    ran = []
    handle = model.blocks[0].mlp.register_full_backward_hook(lambda *_: ran.append("block 0"))
    collect_factors(model, loader(), maps_of(model, "blocks.1.mlp.fc2"))
    handle.remove()
    assert not ran


def test_a_compiled_model_gives_the_same_factors():
    model = vit()
    compiled = torch.compile(model, backend="eager")
    maps = maps_of(model, "blocks.0.*")
    one, two = (collect_factors(m, loader(), maps, dtype=torch.float64) for m in (model, compiled))
    assert all(torch.equal(one[n].g_sum_OO, two[n].g_sum_OO) for n in maps)


def test_collecting_does_not_change_a_later_training_step():
    model = vit()
    twin = copy.deepcopy(model)
    collect_factors(model, loader(), maps_of(model))
    batch = next(iter(loader()))
    for m in (model, twin):
        m.train()(batch.image).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


class Convolutions(nn.Module):
    """A plain CNN, with activations in place, and the same function on unfolded patches by linear modules."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 3, 3, padding=1, stride=2)
        self.c2 = nn.Conv2d(3, 4, (3, 2), padding="same", dilation=(1, 2))
        self.head = nn.Linear(4 * 16, 10)

    def forward(self, x):
        x = nn.functional.relu(self.c1(x), inplace=True)
        x = nn.functional.relu(self.c2(x), inplace=True)
        return self.head(x.flatten(1))


class Unfolded(nn.Module):
    """``Convolutions`` without a convolution: patches are cut by hand, and go through linear modules."""

    def __init__(self, model):
        super().__init__()
        for name in ("c1", "c2"):
            c = getattr(model, name)
            twin = nn.Linear(c.weight[0].numel(), len(c.weight)).to(c.weight)
            twin.load_state_dict({"weight": c.weight.detach().flatten(1), "bias": c.bias.detach()})
            setattr(self, name, twin)
        self.head = copy.deepcopy(model.head)

    def forward(self, x):
        def patches(x, rows, columns, pad, stride):
            x = nn.functional.pad(x, pad)
            cut = [
                x[:, :, r : r + rows[-1] + 1, c : c + columns[-1] + 1][:, :, rows][:, :, :, columns].flatten(1)
                for r in range(0, x.shape[2] - rows[-1], stride)
                for c in range(0, x.shape[3] - columns[-1], stride)
            ]
            return torch.stack(cut, 1)

        def image(tokens, side):
            return tokens.transpose(1, 2).unflatten(2, (side, side))

        x = image(torch.relu(self.c1(patches(x, [0, 1, 2], [0, 1, 2], (1, 1, 1, 1), 2))), 4)
        x = image(torch.relu(self.c2(patches(x, [0, 1, 2], [0, 2], (1, 1, 1, 1), 1))), 4)
        return self.head(x.flatten(1))


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_is_a_linear_map_on_the_patches_under_its_kernel(bias):
    """Factors and moments equal those of the same function written with linear modules; the pass survives in-place."""
    torch.manual_seed(0)
    model = Convolutions().double()
    twin = Unfolded(model)
    batches = loader(11, 4)
    image = next(iter(loader(11, 11))).image
    assert torch.allclose(model(image), twin(image), atol=1e-12)
    rule = LabelRule("exact")
    maps, twins = maps_of(model, "*", bias), maps_of(twin, "*", bias)
    found = collect_factors(model, batches, maps, rule=rule, dtype=torch.float64)
    expected = collect_factors(twin, batches, twins, rule=rule, dtype=torch.float64)
    bases = decompose_all(expected)
    moments = collect_moments(model, batches, maps, bases, rule=rule, dtype=torch.float64)
    wanted = collect_moments(twin, batches, twins, bases, rule=rule, dtype=torch.float64)
    for name in ("c1", "c2", "head"):
        assert relative(found[name].a_sum_II, expected[name].a_sum_II) < 1e-10
        assert relative(found[name].g_sum_OO, expected[name].g_sum_OO) < 1e-10
        assert found[name].num_positions == expected[name].num_positions
        assert relative(moments[name].squares_OI, wanted[name].squares_OI) < 1e-10
        assert torch.equal(maps[name].matrix(), twins[name].matrix())
        state = maps[name].state(2 * maps[name].matrix())
        assert torch.equal(state[f"{name}.weight"], 2 * model.get_submodule(name).weight)
