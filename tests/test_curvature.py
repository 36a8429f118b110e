import copy

import pytest
import torch
from cases import VITS, loader, vit
from oracles import brute_force_selection, dense_factors
from torch import nn

from vitmem.curvature.collect import collect_factors, collect_moments
from vitmem.curvature.factors import LayerFactors, load_sums, save_sums
from vitmem.curvature.filters import graded_filter, hard_masks, random_mask, smallest_mask
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.curvature.moments import (
    LabelRule,
    SecondMoment,
    add_gradient_moment,
    add_second_moment,
    keyed_uniform,
    mirror,
    sample_labels,
)
from vitmem.curvature.spectrum import DenseMass, KroneckerMass, Target, decompose, decompose_all, find_threshold
from vitmem.models.layers import expand_braces, select_layers

LAYERS = "blocks.* head"


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


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


def maps_of(model, patterns=LAYERS, bias=False):
    return linear_maps(select_layers(model, patterns), bias)


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


@pytest.mark.parametrize("tokens", ["cls", "mean", "all"])
def test_moments_of_one_row_and_of_few_at_a_time(tokens):
    generator = torch.Generator().manual_seed(0)
    g, a = (torch.randn(5, 1 if tokens != "all" else 3, n, generator=generator, dtype=torch.float64) for n in (4, 6))
    expected = torch.einsum("bto,bti->boi", g, a).square().sum(0)
    for most in (1, 50, 1 << 24):
        total = torch.zeros(4, 6, dtype=torch.float64)
        add_gradient_moment(total, g, a, most)
        assert torch.allclose(total, expected, rtol=1e-12)


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


def test_exact_labels_are_the_limit_of_many_draws():
    model = vit()
    maps = maps_of(model, "blocks.1.mlp.fc2 head")
    exact = collect_factors(model, loader(), maps, rule=LabelRule("exact"), dtype=torch.float64)
    parts = [
        collect_factors(model, loader(), maps, rule=LabelRule("sampled", draws=200, seed=s), dtype=torch.float64)
        for s in range(8)
    ]
    for name in maps:
        samples = torch.stack([part[name].g_sum_OO for part in parts])
        error = (samples.mean(0) - exact[name].g_sum_OO) / (samples.std(0) / 8**0.5)
        assert error.square().mean() < 2.5  # a t statistic with 7 degrees of freedom has variance 1.4
        assert relative(samples.mean(0), exact[name].g_sum_OO) < 0.1


def test_the_likeliest_labels_with_the_rest_lumped():
    logits = 2 * torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index = torch.arange(4)
    p = logits.softmax(1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    for top in (1, 3, 5, 6):
        rule = LabelRule("topk", top=top)
        columns = torch.stack(list(rule.logit_gradients(logits, index, index)), 2)
        assert columns.shape[2] == min(top + 1, 6)
        lost = hessian - columns @ columns.mT
        assert torch.linalg.eigvalsh(lost).min() > -1e-12
        traces = torch.diagonal(lost, dim1=1, dim2=2).sum() / torch.diagonal(hessian, dim1=1, dim2=2).sum()
        lost_trace, total_trace = rule.lumped_trace(logits)
        assert lost_trace / total_trace == pytest.approx(float(traces), abs=1e-12)
        if top >= 5:
            assert lost.abs().max() < 1e-12


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


def test_drawn_labels_depend_on_seed_and_example_alone():
    index = torch.tensor([5, 0, 9])
    one = keyed_uniform(1, index, 2)
    assert torch.equal(keyed_uniform(1, index.flip(0), 2), one.flip(0))
    assert not torch.equal(keyed_uniform(2, index, 2), one)
    many = keyed_uniform(0, torch.arange(50_000), 1)
    assert abs(float(many.mean()) - 0.5) < 0.01
    assert abs(float(many.var()) - 1 / 12) < 0.005
    assert len(many.unique()) == 50_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_sums_are_refused(dtype):
    with pytest.raises(ValueError, match="use float32 or float64"):
        collect_factors(vit(), loader(), maps_of(vit()), dtype=dtype)


def test_block_triangle_equals_the_plain_product():
    x = torch.randn(50, 701, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(701, 701, dtype=torch.float64)
    add_second_moment(total, x[:20])
    add_second_moment(total, x[20:])
    assert torch.allclose(mirror(total), x.T @ x, rtol=0, atol=1e-12 * float((x.T @ x).abs().max()))
    assert torch.allclose(total, total.T, rtol=1e-13)


@pytest.mark.parametrize("batches", [[3], [100, 100, 100], [5, 300, 7], [256], []])
def test_a_running_sum_loses_no_rows(batches):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 9, generator=generator, dtype=torch.float64) for n in batches]
    running = SecondMoment(9, torch.float64, "cpu")
    for part in parts:
        running.add(part)
        part.zero_() if len(part) < 256 else None  # rows that wait are copies
    generator.manual_seed(0)
    whole = torch.cat([torch.randn(n, 9, generator=generator, dtype=torch.float64) for n in [*batches, 0]])
    assert torch.allclose(running.total(), whole.T @ whole, rtol=1e-12)


def test_exact_columns_are_a_root_of_the_softmax_hessian():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    columns = torch.stack(list(LabelRule("exact").logit_gradients(logits, torch.arange(3), torch.arange(3))), 2)
    assert torch.allclose(columns @ columns.mT, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], atol=1e-14)


def test_sampled_labels_follow_the_model():
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64).expand(1, 4)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(sample_labels(p, uniform)[0], minlength=4).double() / 20_000
    assert torch.allclose(counts, p[0], atol=0.015)
    assert counts[3] == 0


def test_temperature_flattens_and_scales():
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    rule = LabelRule("given", temperature=2.0)
    (gradient,) = rule.logit_gradients(logits, torch.tensor([0]), torch.tensor([0]))
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


def test_sums_add_and_survive_a_file(tmp_path):
    model = vit()
    maps = maps_of(model)
    whole = collect_factors(model, loader(11, 4), maps, dtype=torch.float64)
    batches = list(loader(11, 4))
    parts = [collect_factors(model, part, maps, dtype=torch.float64) for part in (batches[2:], batches[:2])]
    save_sums(tmp_path / "part.safetensors", parts[0], {"note": "first"})
    first, metadata = load_sums(tmp_path / "part.safetensors", LayerFactors)
    assert metadata["note"] == "first"
    for name in maps:
        total = first[name] + parts[1][name]
        assert relative(total.a_sum_II, whole[name].a_sum_II) < 1e-13
        assert relative(total.G, whole[name].G) < 1e-13
        assert total.num_positions == whole[name].num_positions


def test_a_compiled_model_gives_the_same_factors():
    model = vit()
    compiled = torch.compile(model, backend="eager")
    maps = maps_of(model, "blocks.0.*")
    one, two = (collect_factors(m, loader(), maps, dtype=torch.float64) for m in (model, compiled))
    assert all(torch.equal(one[n].g_sum_OO, two[n].g_sum_OO) for n in maps)


def masses_in_tenths(seed):
    generator = torch.Generator().manual_seed(seed)
    few, many = (torch.randint(1, 6, (n,), generator=generator).double() / 10 for n in (4, 5))
    return both(few, many)


@pytest.mark.parametrize("seed", range(20))
def test_ties_that_are_not_exact_in_binary(seed):
    for rho in (0.3, 0.5, 0.7, 0.9):
        for mass in masses_in_tenths(seed):
            (mask,) = keep(mass, "rho", rho)
            kept = mass.dense()[mask]
            assert kept.sum() >= rho * mass.total * (1 - 1e-9)
            assert kept.sum() - kept.min() < rho * mass.total * (1 + 1e-9)
            assert kept.min() >= mass.dense()[~mask].max()


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


def keep(masses, kind, amount):
    masses = masses if isinstance(masses, list) else [masses]
    return hard_masks(masses, find_threshold(masses, Target(kind, amount)))


def both(few, many):
    """The same masses, separable and one by one."""
    few, many = (x.sort(descending=True).values for x in (few, many))
    return KroneckerMass(few, many), DenseMass(torch.outer(few, many))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("rho", [1e-6, 0.3, 0.5, 0.77, 0.95, 0.9999])
def test_selection_equals_brute_force_with_ties(seed, rho):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (5 + 6,), generator=generator).double()  # few distinct values: many ties and zeros
    values[0] = values[-1] = 3
    for mass in both(values[:5], values[5:]):
        (mask,) = keep(mass, "rho", rho)
        assert {tuple(pair) for pair in mask.nonzero().tolist()} == brute_force_selection(mass.dense(), rho)


@pytest.mark.parametrize("seed", range(25))
def test_selection_equals_brute_force_on_random_spectra(seed):
    generator = torch.Generator().manual_seed(seed)
    spectra = [torch.rand(n, generator=generator, dtype=torch.float64).exp().pow(9) for n in (7, 12, 9, 4)]
    spectra[2][:2] = spectra[2][0]
    for masses in zip(both(*spectra[:2]), both(*spectra[2:]), strict=True):
        for rho in (0.2, 0.75, 0.97):
            together = brute_force_selection(torch.cat([m.dense().flatten() for m in masses])[None], rho)
            masks = torch.cat([mask.flatten() for mask in keep(list(masses), "rho", rho)])
            assert masks.nonzero()[:, 0].tolist() == sorted(place for _, place in together)
        for count in (1, 17, 83, 84 + 36 - 1):
            masks = keep(list(masses), "pairs", count)
            assert sum(int(mask.sum()) for mask in masks) == count
            smallest_kept = min(float(m.dense()[k].min()) for m, k in zip(masses, masks, strict=True) if k.any())
            largest_dropped = max(float(m.dense()[~k].max()) for m, k in zip(masses, masks, strict=True) if (~k).any())
            assert smallest_kept >= largest_dropped
        fraction = keep(list(masses), "fraction", 0.25)
        assert sum(int(mask.sum()) for mask in fraction) == 30
        tau = float(masses[0].dense().median())
        assert all(
            torch.equal(k, m.dense() >= tau) for m, k in zip(masses, keep(list(masses), "tau", tau), strict=True)
        )


def test_counting_is_exact_at_every_mass_that_occurs():
    generator = torch.Generator().manual_seed(0)
    kronecker, dense = both(*(torch.rand(n, generator=generator, dtype=torch.float64).pow(6) for n in (30, 40)))
    for tau in dense.dense().flatten().tolist():
        assert kronecker.at_least(tau)[1] == int((dense.dense() >= tau).sum())
        assert kronecker.at_least(tau)[0] == pytest.approx(dense.at_least(tau)[0], rel=1e-12)
        above = float(torch.nextafter(torch.tensor(tau, dtype=torch.float64), torch.tensor(1e9, dtype=torch.float64)))
        assert kronecker.at_least(above)[1] == int((dense.dense() > tau).sum())


def test_zeros_are_kept_only_to_reach_a_number():
    for mass in both(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([3.0, 0.0])):
        assert int(keep(mass, "rho", 0.999)[0].sum()) == 2
        assert int(keep(mass, "pairs", 4)[0].sum()) == 4
        assert keep(mass, "pairs", 6)[0].all()
        assert keep(mass, "rho", 1.0)[0].all()
    nothing = DenseMass(torch.zeros(2, 3))
    assert keep(nothing, "rho", 0.5)[0].all()
    assert int(keep(nothing, "pairs", 4)[0].sum()) == 4


@pytest.mark.parametrize("seed", range(5))
def test_kept_sets_are_nested_in_rho_and_reach_it(seed):
    basis = decompose(random_factors(seed, 7, 6))
    mass = KroneckerMass(basis.lambda_O, basis.mu_I)
    previous = torch.zeros(mass.shape, dtype=torch.bool)
    for rho in (0.1, 0.5, 0.9, 0.99, 1.0):
        (mask,) = keep(mass, "rho", rho)
        assert (mask | ~previous).all()
        kept = mass.dense()[mask]
        assert kept.sum() >= rho * mass.total * (1 - 1e-12)
        if rho < 1:
            assert kept.sum() - kept.min() < rho * mass.total
        previous = mask
    assert previous.all()


def test_selection_ignores_the_scale_of_the_factors():
    factors = random_factors(3, 7, 6)
    scaled = LayerFactors(factors.a_sum_II * 1e-6, factors.g_sum_OO * 1e5, 9, 3)
    for rho in (0.2, 0.7, 0.95):
        one, two = (KroneckerMass(b.lambda_O, b.mu_I) for b in (decompose(factors), decompose(scaled)))
        assert torch.equal(*keep(one, "rho", rho), *keep(two, "rho", rho))


def test_graded_filters():
    mass = torch.tensor([0.0, 0.5, 1.0, 2.0, 8.0], dtype=torch.float64)
    assert graded_filter(mass, 2.0, 1.0).tolist() == pytest.approx([0, 0.2, 1 / 3, 0.5, 0.8])
    assert graded_filter(mass, 2.0, 0.5).tolist() == pytest.approx([0, 1 / 3, 1 / (1 + 2**0.5), 0.5, 2 / 3])
    assert graded_filter(mass, 2.0, 200.0).round().tolist() == pytest.approx([0, 0, 0, 0, 1])
    assert (graded_filter(mass, 0.0, 1.0) == 1).all()


@pytest.mark.parametrize(
    ("kind", "amount"), [("rho", 0), ("rho", 1.1), ("fraction", -1), ("pairs", 0), ("tau", 0), ("tau", float("nan"))]
)
def test_targets_out_of_range(kind, amount):
    with pytest.raises(ValueError, match=f"^{kind} is {amount}; it is the"):
        Target(kind, amount)


def test_controls_have_the_asked_size():
    mass = torch.rand(6, 7, generator=torch.Generator().manual_seed(0))
    one, same, other = (random_mask((6, 7), 10, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert one.sum() == other.sum() == 10
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    smallest = smallest_mask(mass, 10)
    assert smallest.sum() == 10
    assert mass[smallest].max() <= mass[~smallest].min()


def test_the_layer_whose_factor_the_solver_refuses_is_named(monkeypatch):
    original = torch.linalg.eigh

    def fails(matrix):
        if matrix.ndim == 3 or float(matrix.trace()) > 100:
            raise RuntimeError("linalg.eigh: the algorithm failed to converge")
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    good = random_factors(0)
    assert set(decompose_all({"a": good, "b": good})) == {"a", "b"}  # one by one after the stack has failed
    bad = LayerFactors(good.a_sum_II * 1e6, good.g_sum_OO, 9, 3)
    with pytest.raises(ValueError, match="A of layer 'b' could not be decomposed"):
        decompose_all({"a": good, "b": bad})


def test_layers_decomposed_together_equal_those_decomposed_alone():
    layers = {str(i): random_factors(i, 5, 5 if i % 2 else 4) for i in range(6)}
    for name, basis in decompose_all(layers).items():
        assert torch.allclose(basis.mu_I, decompose(layers[name]).mu_I, rtol=1e-12)


def test_exactly_the_dropped_eigen_coordinates_vanish():
    factors = random_factors(5)
    basis = decompose(factors)
    w_OI = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mass = KroneckerMass(basis.lambda_O, basis.mu_I)
    (mask,) = keep(mass, "rho", 0.8)
    edited = basis.compose(basis.coordinates(w_OI) * mask)
    fisher = torch.kron(factors.G, factors.A)  # acts on W read row by row
    vectors = torch.kron(basis.u_g_OO, basis.u_a_II)
    assert torch.allclose(vectors.T @ fisher @ vectors, mass.dense().flatten().diag(), atol=1e-10)
    before, after = vectors.T @ w_OI.flatten(), vectors.T @ edited.flatten()
    kept = mask.flatten()
    assert torch.allclose(after[kept], before[kept])
    assert after[~kept].abs().max() < 1e-12
    assert before[~kept].abs().min() > 1e-6


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


def test_collecting_does_not_change_a_later_training_step():
    model = vit()
    twin = copy.deepcopy(model)
    collect_factors(model, loader(), maps_of(model))
    batch = next(iter(loader()))
    for m in (model, twin):
        m.train()(batch.image).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
