import pytest
import torch
from cases import loader, vit
from factors import maps_of, relative

from vitmem.curvature.collect import collect_factors
from vitmem.curvature.moments import (
    LabelRule,
    add_gradient_moment,
    keyed_uniform,
    sample_labels,
)


@pytest.mark.parametrize("tokens", ["cls", "mean", "all"])
def test_moments_of_one_row_and_of_few_at_a_time(tokens):
    generator = torch.Generator().manual_seed(0)
    g, a = (torch.randn(5, 1 if tokens != "all" else 3, n, generator=generator, dtype=torch.float64) for n in (4, 6))
    expected = torch.einsum("bto,bti->boi", g, a).square().sum(0)
    for most in (1, 50, 1 << 24):
        total = torch.zeros(4, 6, dtype=torch.float64)
        add_gradient_moment(total, g, a, most)
        assert torch.allclose(total, expected, rtol=1e-12)


@pytest.mark.slow
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


def test_drawn_labels_depend_on_seed_and_example_alone():
    index = torch.tensor([5, 0, 9])
    one = keyed_uniform(1, index, 2)
    assert torch.equal(keyed_uniform(1, index.flip(0), 2), one.flip(0))
    assert not torch.equal(keyed_uniform(2, index, 2), one)
    many = keyed_uniform(0, torch.arange(50_000), 1)
    assert abs(float(many.mean()) - 0.5) < 0.01
    assert abs(float(many.var()) - 1 / 12) < 0.005
    assert len(many.unique()) == 50_000


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


def test_drawn_numbers_are_those_of_splitmix64(monkeypatch):
    monkeypatch.setattr("vitmem.curvature.moments.keyed_seed", lambda *key: 1234567)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    expected = [(value >> 11) / 2**53 for value in published]
    assert keyed_uniform(0, torch.arange(4), 1)[:, 0].tolist() == expected
    assert keyed_uniform(0, torch.arange(2), 2).flatten().tolist() == expected


def test_a_number_at_the_end_of_the_distribution_draws_a_class_that_can_be():
    p = torch.tensor([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    uniform = torch.tensor([[0.0, 0.25, 0.5, 1.0], [0.0, 0.25, 0.5, 1 - 2**-53]], dtype=torch.float64)
    assert sample_labels(p, uniform).tolist() == [[0, 1, 2, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize(("option", "value"), [("draws", 0), ("top", 0), ("temperature", 0.0), ("temperature", -1.0)])
def test_rules_out_of_range(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}; it must be"):
        LabelRule(**{option: value})
    LabelRule(draws=1, top=1, temperature=1e-3)


@pytest.mark.parametrize("rule", [LabelRule("exact", temperature=2.0), LabelRule("topk", top=4, temperature=2.0)])
def test_temperature_scales_every_column(rule):
    """The curvature of softmax(z / T) in z is that of softmax in z / T, over T^2."""
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = LabelRule(rule.labels, top=rule.top)
    index = torch.arange(3)
    for one, other in zip(
        rule.logit_gradients(logits, index, index), plain.logit_gradients(logits / 2, index, index), strict=True
    ):
        assert torch.allclose(one, other / 2)
    assert rule.lumped_trace(logits) == pytest.approx(plain.lumped_trace(logits / 2))
