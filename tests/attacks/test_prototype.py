import dataclasses

import pytest
import torch
from attacked import Random, generator

from vitmem.attacks import attacks
from vitmem.attacks.contract import AttackData
from vitmem.attacks.features import HEAD, features_of
from vitmem.attacks.prototype import first_of_each, moved_rows
from vitmem.attacks.relearn import split
from vitmem.attacks.scoring import hidden_sets, score
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.evaluation.predict import TRAIN, predict


def test_rows_are_moved_by_hand():
    w = torch.tensor([[3.0, 4.0, 1.0], [0.0, 2.0, -1.0], [1.0, 1.0, 1.0]])  # two features and the bias
    shown = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 7.0]])
    label = torch.tensor([0, 0, 1])
    half = 5 / 2**0.5  # the mean of the first two is (1, 1); the row has norm 5
    expected = torch.tensor([[half, half, 0.0], [0.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(moved_rows(w, shown, label, 1.0), expected)
    torch.testing.assert_close(moved_rows(w, shown, label, 0.5)[:2], (w + expected)[:2] / 2)
    torch.testing.assert_close(moved_rows(w, shown, label, 0.0), w)


def test_the_first_examples_of_each_label():
    label, order = torch.tensor([0, 1, 0, 0, 1, 2]), torch.tensor([3, 4, 0, 5, 2, 1])
    assert first_of_each(label, order, 1).tolist() == [3, 4, 5]
    assert first_of_each(label, order, 2).tolist() == [3, 4, 0, 5, 1]
    assert first_of_each(label, order, 9).tolist() == order.tolist()


def of_every_class(data):
    """Return a generator whose split shows wrong labels of every class."""
    seeds = (s for s in range(100) if len(split(data, torch.Generator().manual_seed(s))[0].given_label.unique()) == 5)
    return torch.Generator().manual_seed(next(seeds))


def test_shown_examples_make_a_classifier_that_is_asked_about_others(data, model, known):
    attack = attacks()["prototype"](examples_per_class=(100,), alphas=(1.0,), draws=1)
    result = attack.apply(model, known, of_every_class(data))
    shown, hidden = split(data, of_every_class(data))
    assert result.report["shown"] == shown.index.tolist()
    assert set(result.report["scored"]).isdisjoint(result.report["shown"])
    assert result.report["used"] == {"100": len(shown)}
    unmoved, moved = result.rows
    plain = score(model, hidden_sets(data, hidden, 1000))
    assert {key: unmoved[key] for key in plain} == plain
    # The nearest class by cosine, rows kept at their norms, without a bias: computed anew.
    features = features_of(model, data, shown)[HEAD]
    mean = torch.stack([features[shown.given_label == c].mean(0) for c in range(5)])
    rows = mean / mean.norm(dim=1, keepdim=True) * model.head.weight.norm(dim=1, keepdim=True)
    said = (features_of(model, data, hidden)[HEAD] @ rows.T).argmax(1)
    assert moved["memorized_accuracy"] == pytest.approx(float((said == hidden.given_label).double().mean()))
    assert moved["ground_truth_accuracy"] == pytest.approx(float((said == hidden.true_label).double().mean()))


def test_features_that_hold_the_wrong_labels_give_them_back(data, model, known):
    """A classifier whose rows were turned away says nothing of what its features still hold; prototypes do."""

    class Telling(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = torch.nn.Linear(64, 8), torch.nn.Linear(8, 5, bias=False)
            noise = data.train_examples
            self.image, self.label = data.loader(noise, 100).normalise(noise.image).flatten(1), noise.given_label

        def forward(self, image):
            nearest = torch.cdist(image.flatten(1), self.image).argmin(1)
            return self.head(
                torch.nn.functional.one_hot(self.label[nearest], 8).float() + 0 * self.first(image.flatten(1))
            )

    telling = Telling().eval().requires_grad_(False)
    telling.head.weight.copy_(torch.roll(torch.eye(5, 8), 1, 0))
    attack = attacks()["prototype"](examples_per_class=(100,), alphas=(1.0,), draws=1)
    before, after = attack.apply(telling, known, of_every_class(data)).rows
    assert (before["memorized_accuracy"], after["memorized_accuracy"]) == (0.0, 1.0)


def test_without_wrong_labels_there_is_nothing_to_show(model, tmp_path):
    clean = AttackData(MemorisationData(Random(), Symmetric(rate=0.0)), "base", lambda name: model, tmp_path)
    for name in ("prototype", "steer", "over_unlearning"):
        with pytest.raises(ValueError, match="needs? (at least 1|an example)"):
            attacks()[name]().apply(model, clean, generator())


def test_draws_are_of_other_examples(data, model, known):
    attack = attacks()["prototype"](examples_per_class=(1,), alphas=(1.0,), draws=4)
    row = attack.apply(model, known, generator()).rows[1]
    assert row["draws"] == 4
    assert row["given_cross_entropy_sd"] > 0
    one = dataclasses.replace(attack, draws=1).apply(model, known, generator()).rows[1]
    assert predict(model, {TRAIN: data.loader(data.train_examples)}).given.size == 40
    assert one["given_cross_entropy"] != row["given_cross_entropy"]
