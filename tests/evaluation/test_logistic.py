import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vitmem.datamodules.batch import keyed_generator
from vitmem.evaluation.logistic import choose_l2, fit_logistic, log_probabilities, standardised


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
    train, other = torch.randn(50, 3) * 5 + 2, torch.randn(9, 3)
    train[:, 1] = 7.0
    a, b = standardised(train, other)
    assert torch.allclose(a.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert a.std(0, correction=0).tolist() == pytest.approx([1, 0, 1])
    assert torch.allclose(b[:, 0], (other[:, 0] - train[:, 0].mean()).double() / train[:, 0].std(correction=0).double())
    assert (b[:, 1] == 0).all()
