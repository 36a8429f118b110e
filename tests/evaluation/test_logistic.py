import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vitmem.datamodules.batch import keyed_generator
from vitmem.evaluation.logistic import L2_GRID, choose_l2, fit_logistic, log_probabilities, standardised


def random_problem(n=60, d=7, classes=3, problems=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, d)
    label = torch.stack(
        [(x[:, 0] > 0).long() + (x[:, 1] + x[:, 2] > 0).long(), torch.randint(classes, (n,), generator=generator)]
    )
    return x, label[:problems]


@pytest.mark.parametrize("l2", [0.01, 1.0])
def test_logistic_regression_against_scikit_learn(l2):
    x, label = random_problem()
    weight = torch.ones(2, 60, dtype=torch.float64)
    weight[1, :20] = 0
    coefficient = fit_logistic(x, label, weight, l2, 3)
    for p, rows in enumerate((slice(None), slice(20, None))):
        oracle = LogisticRegression(C=1 / (l2 * weight[p].sum().item()), tol=1e-9, max_iter=10000)
        oracle.fit(x[rows].numpy(), label[p, rows].numpy())
        found = log_probabilities(x, coefficient)[p].exp().numpy()
        assert found == pytest.approx(oracle.predict_proba(x.numpy()), abs=1e-3)


def test_more_features_than_examples_than_in_scikit_learn():
    x = torch.randn(12, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = torch.arange(12) % 3
    coefficient = fit_logistic(x, label[None], torch.ones(1, 12, dtype=torch.float64), 0.1, 3)
    oracle = LogisticRegression(C=1 / 1.2, tol=1e-9, max_iter=10000).fit(x.numpy(), label.numpy())
    new = torch.randn(9, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert log_probabilities(new, coefficient)[0].exp().numpy() == pytest.approx(
        oracle.predict_proba(new.numpy()), abs=5e-3
    )


def test_cross_validation_chooses_strength_by_what_is_held_out():
    x, label = random_problem()
    assert choose_l2(x, label[0], 3, keyed_generator(0)) < 1  # a clear rule
    assert choose_l2(x, label[1], 3, keyed_generator(0)) >= 1  # labels drawn at random


def test_standardised_uses_the_first_and_drops_constants():
    generator = torch.Generator().manual_seed(0)
    train, other = (torch.randn(n, 3, generator=generator, dtype=torch.float64) * 5 + 2 for n in (50, 9))
    train[:, 1] = 7.0
    a, b = standardised(train, other)
    assert torch.allclose(a.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert a.std(0, correction=0).tolist() == pytest.approx([1, 0, 1])
    assert torch.allclose(b[:, 0], (other[:, 0] - train[:, 0].mean()) / train[:, 0].std(correction=0))
    assert (b[:, 1] == 0).all()


def test_the_gradient_vanishes_where_the_fit_ends():
    """The stationary point of the objective as it is stated, by autograd."""
    x, label = random_problem()
    weight = torch.rand(2, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    coefficient = fit_logistic(x, label, weight, 0.3, 3, steps=500, tolerance=1e-9).requires_grad_()
    share = weight / weight.sum(1, keepdim=True)
    loss = -log_probabilities(x, coefficient).gather(2, label[..., None])[..., 0]
    total = (share * loss).sum() + 0.3 / 2 * coefficient[:, :-1].square().sum()
    (gradient,) = torch.autograd.grad(total, coefficient)
    assert gradient.abs().max() < 2e-5
    assert coefficient.shape == (2, 8, 3)


def test_the_usual_effort_is_enough():
    x, label = random_problem()
    weight = torch.ones(2, 60, dtype=torch.float64)
    usual, much = (fit_logistic(x, label, weight, 0.01, 3, *more) for more in ((), (2000, 1e-10)))
    assert torch.allclose(usual, much, atol=1e-2)


def test_folds_hold_everything_out_once(monkeypatch):
    x, label = random_problem()
    seen = []

    def spy(x_ND, label_PN, weight_PN, l2, classes):
        seen.append((weight_PN, l2, classes))
        return torch.zeros(len(weight_PN), x_ND.shape[1] + 1, classes, dtype=torch.float64)

    monkeypatch.setattr("vitmem.evaluation.logistic.fit_logistic", spy)
    assert choose_l2(x, label[0], 3, keyed_generator(0)) == L2_GRID[0]  # all alike: the first
    assert [l2 for _, l2, _ in seen] == [0.01, 0.1, 1.0, 10.0]
    for weight, _, classes in seen:
        assert classes == 3
        assert weight.shape == (5, 60)
        assert (weight.sum(0) == 4).all()  # each example is left out by one fold
        assert (weight.sum(1) == 48).all()


def test_few_examples_have_few_folds_and_one_has_none():
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 1, 0])
    assert choose_l2(x, label, 2, keyed_generator(0), folds=5) in L2_GRID
    assert choose_l2(x[:1], label[:1], 2, keyed_generator(0)) == 10.0
    assert choose_l2(x[:2], label[:2], 2, keyed_generator(0)) in L2_GRID
    assert choose_l2(x[:1], label[:1], 2, keyed_generator(0), grid=(3.0, 1.0)) == 3.0


def test_features_that_barely_vary_are_dropped_and_others_are_not():
    large = torch.full((40, 3), 1e4, dtype=torch.float64)
    large[:20, 0] += 1e-5  # below the precision that is asked for
    large[:20, 1] += 1.0
    (found,) = standardised(large)
    assert (found[:, 0] == 0).all()
    assert found[:, 1].abs() == pytest.approx(1.0)
    assert (found[:, 2] == 0).all()
