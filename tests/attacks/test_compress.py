import pytest
import torch
from attacked import generator

from vitmem.attacks import attacks
from vitmem.attacks.compress import noised, of_rank, pruned
from vitmem.attacks.scoring import score, scoring_sets


def test_changes_of_weights_by_hand():
    w = torch.tensor([[3.0, -1.0], [0.5, 2.0]])
    assert pruned(w, 0.5).tolist() == [[3.0, 0.0], [0.0, 2.0]]
    assert torch.equal(pruned(w, 0.0), w)
    assert torch.equal(pruned(torch.ones(2, 2), 0.5), torch.tensor([[0.0, 0.0], [1.0, 1.0]]))  # ties: exactly half
    low = torch.outer(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(of_rank(low, 0.5), low)
    assert int(torch.linalg.matrix_rank(of_rank(w, 0.5))) == 1
    moved = noised(w, 0.1, generator()) - w
    assert float(moved.norm() / w.norm()) == pytest.approx(0.1, rel=1e-5)


def test_draws_of_noise_are_averaged(model, known):
    attack = attacks()["compress"](prune=(0.0,), rank=(), noise=(0.5,), draws=3)
    nothing, noise = attack.apply(model, known, generator()).rows
    assert nothing["memorized_accuracy"] == score(model, scoring_sets(known.data, 100))["memorized_accuracy"]
    assert noise["draws"] == 3
    assert noise["given_cross_entropy_sd"] > 0
