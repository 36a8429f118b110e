import copy

import pytest
import torch
from cases import VITS, loader, vit
from oracles import brute_force_selection, dense_factors
from torch import nn

from datamodules.batch import keyed_generator
from vitmem.curvature.collect import collect_factors
from vitmem.curvature.factors import LayerFactors, load_factors, save_factors
from vitmem.curvature.moments import add_second_moment, logit_gradients, mirror, sample_labels
from vitmem.curvature.spectrum import decompose, keep_mass, keep_random, keep_smallest
from vitmem.models import expand_braces, select_linear

LAYERS = "blocks.* head"


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def oracle_labels(model, batches, labels, draws, seed):
    """Labels N L and weights N L at which the oracle takes the loss."""
    batch = next(iter(batches))
    with torch.no_grad():
        p = model.eval()(batch.image).softmax(1)
    n, classes = p.shape
    if labels == "given":
        return batch, batch.given_label[:, None], torch.ones(n, 1, dtype=torch.float64)
    if labels == "exact":
        return batch, torch.arange(classes).expand(n, -1), p
    uniform = torch.rand(n, draws, generator=keyed_generator(seed, 3), dtype=torch.float64)
    drawn = (uniform[:, :, None] >= p.cumsum(1)[:, None, :]).sum(2)  # how many classes lie below the number
    return batch, drawn, torch.full((n, draws), 1 / draws, dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(VITS))
@pytest.mark.parametrize("tokens", ["cls", "all", "mean"])
@pytest.mark.parametrize(("labels", "draws"), [("sampled", 1), ("sampled", 3), ("exact", 1), ("given", 1)])
@pytest.mark.parametrize("batch_size", [4, 11])
def test_factors_equal_the_dense_oracle_whatever_the_batch_size(name, tokens, labels, draws, batch_size):
    model = vit(name)
    layers = select_linear(model, LAYERS)
    found = collect_factors(
        model, loader(11, batch_size), layers, tokens=tokens, labels=labels, draws=draws, seed=7, dtype=torch.float64
    )
    batch, label, weight = oracle_labels(model, loader(11, 11), labels, draws, 7)
    expected = dense_factors(model, batch.image, label, weight, list(layers), tokens)
    for layer, (a_sum, g_sum, positions) in expected.items():
        assert relative(found[layer].a_sum_II, a_sum) < 1e-10
        if g_sum.norm() > 0:  # tokens that a class-token model does not read have no gradient in the last block
            assert relative(found[layer].g_sum_OO, g_sum) < 1e-10
        else:
            assert found[layer].g_sum_OO.norm() == 0
        assert (found[layer].num_positions, found[layer].num_examples) == (positions, 11)


def test_sums_of_float32_are_close_to_those_of_float64():
    model = vit()
    layers = select_linear(model, LAYERS)
    single, double = (collect_factors(model, loader(), layers, dtype=t) for t in (torch.float32, torch.float64))
    for name in layers:
        assert single[name].a_sum_II.dtype == torch.float32
        assert relative(single[name].g_sum_OO.double(), double[name].g_sum_OO) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_are_refused(dtype):
    with pytest.raises(ValueError, match="use float32 or float64"):
        collect_factors(vit(), loader(), select_linear(vit(), LAYERS), dtype=dtype)


def test_block_triangle_equals_the_plain_product():
    x = torch.randn(50, 301, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(301, 301, dtype=torch.float64)
    add_second_moment(total, x[:20])
    add_second_moment(total, x[20:])
    assert torch.allclose(mirror(total), x.T @ x, rtol=0, atol=1e-12 * float((x.T @ x).abs().max()))
    assert torch.equal(mirror(total), mirror(total).T)


def test_exact_columns_are_a_root_of_the_softmax_hessian():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    columns = torch.stack(list(logit_gradients(logits, "exact", uniform_BD=None, given_B=None)), 2)
    assert torch.allclose(columns @ columns.mT, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], atol=1e-14)


def test_sampled_labels_follow_the_model():
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64).expand(1, 4)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(sample_labels(p, uniform)[0], minlength=4).double() / 20_000
    assert torch.allclose(counts, p[0], atol=0.015)
    assert counts[3] == 0


def test_temperature_flattens_and_scales():
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    (gradient,) = logit_gradients(logits, "given", uniform_BD=None, given_B=torch.tensor([0]), temperature=2.0)
    p = torch.softmax(logits / 2, 1)
    assert torch.allclose(gradient, (p - torch.tensor([[1.0, 0.0]])) / 2)


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
            collect_factors(model, batches(), select_linear(model, LAYERS))
    else:
        collect_factors(model, batches(), select_linear(model, LAYERS))
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
    with pytest.raises(RuntimeError, match=f"'{name}' {message}"):
        collect_factors(model, loader(), {name: getattr(model, name), "once": model.once})
    assert_untouched(before, state_of(model))


def test_nothing_runs_backward_below_the_first_chosen_layer():
    model = vit()
    ran = []
    handle = model.blocks[0].mlp.register_full_backward_hook(lambda *_: ran.append("block 0"))
    collect_factors(model, loader(), select_linear(model, "blocks.1.mlp.fc2"))
    handle.remove()
    assert not ran


def test_sums_add_and_survive_a_file(tmp_path):
    model = vit()
    layers = select_linear(model, LAYERS)
    whole = collect_factors(model, loader(11, 4), layers, labels="given", dtype=torch.float64)
    batches = list(loader(11, 4))
    parts = [
        collect_factors(model, part, layers, labels="given", dtype=torch.float64) for part in (batches[:1], batches[1:])
    ]
    save_factors(tmp_path / "part.safetensors", parts[0], {"note": "first"})
    first, metadata = load_factors(tmp_path / "part.safetensors")
    assert metadata["note"] == "first"
    for name in layers:
        total = first[name] + parts[1][name]
        assert relative(total.a_sum_II, whole[name].a_sum_II) < 1e-13
        assert relative(total.G, whole[name].G) < 1e-13
        assert total.num_positions == whole[name].num_positions


def test_a_compiled_model_gives_the_same_factors():
    model = vit()
    compiled = torch.compile(model, backend="eager")
    layers = select_linear(model, "blocks.0.*")
    one, two = (collect_factors(m, loader(), layers, dtype=torch.float64) for m in (model, compiled))
    assert all(torch.equal(one[n].g_sum_OO, two[n].g_sum_OO) for n in layers)


def random_factors(seed, inputs=4, outputs=3, rank=None):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank or 9, inputs, generator=generator, dtype=torch.float64)
    g = torch.randn(rank or 9, outputs, generator=generator, dtype=torch.float64)
    return LayerFactors(a.T @ a, g.T @ g, 9, 3)


def test_decomposition_rebuilds_the_factors_in_falling_order():
    factors = random_factors(0)
    basis = decompose(factors)
    assert torch.allclose(basis.u_g_OO @ basis.lambda_O.diag() @ basis.u_g_OO.T, factors.G)
    assert torch.allclose(basis.u_a_II @ basis.mu_I.diag() @ basis.u_a_II.T, factors.A)
    assert (basis.lambda_O.diff() <= 0).all()
    assert (basis.mu_I.diff() <= 0).all()


def test_negative_eigenvalues_are_clamped_and_reported():
    matrix = torch.diag(torch.tensor([3.0, 1.0, -1.0]))
    basis = decompose(LayerFactors(matrix, matrix, 1, 1))
    assert basis.mu_I.min() == 0
    assert basis.clamped_a == pytest.approx(0.25)


def test_factors_that_are_not_finite_name_the_layer():
    good = random_factors(0)
    bad = LayerFactors(good.a_sum_II, good.g_sum_OO * float("nan"), 9, 3)
    with pytest.raises(ValueError, match=r"G of layer 'blocks.3.fc1' has 9 entries that are not finite"):
        decompose(bad, "blocks.3.fc1")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rho", [1e-6, 0.3, 0.5, 0.77, 0.95, 0.9999])
def test_selection_equals_brute_force_with_ties(seed, rho):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (5 + 6,), generator=generator).double()  # few distinct values: many ties and zeros
    mass = torch.outer(values[:5], values[5:])
    if mass.sum() == 0:
        pytest.skip("a spectrum without mass has no brute-force answer")
    mask = keep_mass(mass, rho)
    assert {tuple(pair) for pair in mask.nonzero().tolist()} == brute_force_selection(mass, rho)


@pytest.mark.parametrize("seed", range(5))
def test_kept_sets_are_nested_in_rho_and_reach_it(seed):
    mass = decompose(random_factors(seed, 7, 6)).mass_OI
    previous = torch.zeros_like(mass, dtype=torch.bool)
    for rho in (0.1, 0.5, 0.9, 0.99, 1.0):
        mask = keep_mass(mass, rho)
        assert (mask | ~previous).all()
        kept = mass[mask]
        assert kept.sum() >= rho * mass.sum() * (1 - 1e-12)
        if rho < 1:
            assert kept.sum() - kept.min() < rho * mass.sum()
        previous = mask
    assert previous.all()


def test_selection_ignores_the_scale_of_the_factors():
    factors = random_factors(3, 7, 6)
    scaled = LayerFactors(factors.a_sum_II * 1e-6, factors.g_sum_OO * 1e5, 9, 3)
    for rho in (0.2, 0.7, 0.95):
        assert torch.equal(keep_mass(decompose(factors).mass_OI, rho), keep_mass(decompose(scaled).mass_OI, rho))


def test_controls_have_the_asked_size():
    mass = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    assert keep_random(mass, 10, torch.Generator().manual_seed(0)).sum() == 10
    smallest = keep_smallest(mass, 10)
    assert smallest.sum() == 10
    assert mass[smallest].max() <= mass[~smallest].min()
    assert not torch.equal(
        keep_random(mass, 10, torch.Generator().manual_seed(0)), keep_random(mass, 10, torch.Generator().manual_seed(1))
    )


def test_exactly_the_dropped_eigen_coordinates_vanish():
    factors = random_factors(5)
    basis = decompose(factors)
    w_OI = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = keep_mass(basis.mass_OI, 0.8)
    edited = basis.compose(basis.coordinates(w_OI) * mask)
    fisher = torch.kron(factors.G, factors.A)  # acts on W read row by row
    vectors = torch.kron(basis.u_g_OO, basis.u_a_II)
    assert torch.allclose(vectors.T @ fisher @ vectors, basis.mass_OI.flatten().diag(), atol=1e-10)
    before, after = vectors.T @ w_OI.flatten(), vectors.T @ edited.flatten()
    kept = mask.flatten()
    assert torch.allclose(after[kept], before[kept])
    assert after[~kept].abs().max() < 1e-12
    assert before[~kept].abs().min() > 1e-6


def test_layer_patterns():
    model = vit()
    assert list(select_linear(model, "blocks.{0,1}.mlp.fc? head")) == [
        "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2", "head",
    ]  # fmt: skip
    assert list(select_linear(model, ["blocks.[1-9].attn.*"])) == ["blocks.1.attn.qkv", "blocks.1.attn.proj"]
    assert expand_braces("a{b,c}d{e,f}") == ["abde", "abdf", "acde", "acdf"]
    with pytest.raises(ValueError, match=r"'blocks.7.\*' matches no linear layer; there are: blocks.\{0..1\}.attn.qkv"):
        select_linear(model, "head blocks.7.*")
    with pytest.raises(ValueError, match="no pattern"):
        select_linear(model, "")


def test_collecting_does_not_change_a_later_training_step():
    model = vit()
    twin = copy.deepcopy(model)
    collect_factors(model, loader(), select_linear(model, LAYERS))
    batch = next(iter(loader()))
    for m in (model, twin):
        m.train()(batch.image).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
