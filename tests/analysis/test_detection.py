import dataclasses

import pytest
import torch
from cases import vit
from torch import nn

from vitmem.analysis import detection
from vitmem.analysis.contract import MadeEdit
from vitmem.analysis.detection import Detection, cross_validated, input_curvature, of_edits, of_training
from vitmem.analysis.resample import auroc
from vitmem.evaluation.predict import predict


def generator():
    return torch.Generator().manual_seed(0)


class Linear(nn.Module):
    """A linear classifier of 8 x 8 images, in float64, whose Hessian is known."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 5, bias=False).double()

    def forward(self, image_BCHW):
        return self.head(image_BCHW.double().flatten(1))


def test_input_curvature_is_the_mean_norm_of_the_hessian_times_the_directions(data):
    """Of a linear classifier H = W^T (diag p - p p^T) W, whatever the label."""
    torch.manual_seed(1)
    model, examples = Linear().eval(), data.train_examples
    found = input_curvature(model, data, examples, 3, 1e-2, generator())
    (batch,) = data.loader(examples, 40)
    std, draws = data.mean_std[1][0], generator()
    p_NK = model(batch.image).softmax(1)
    signs = [torch.randint(2, batch.image.shape, generator=draws).double().flatten(1) * 2 - 1 for _ in range(3)]
    expected = []
    for n, p in enumerate(p_NK):
        hessian = model.head.weight.T @ (p.diag() - torch.outer(p, p)) @ model.head.weight / std**2
        expected.append(torch.stack([(hessian @ sign[n]).norm() for sign in signs]).mean())
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=0.05, atol=1e-3)


def test_scores_of_training_are_sums_over_epochs():
    losses = torch.arange(20.0).view(10, 2)
    losses[3, 1] = torch.nan
    found = of_training(losses, torch.tensor([1]))
    assert float(found["summed_loss"]) == sum(range(1, 20, 2)) - 7
    assert float(found["early_loss"]) == 1 + 3
    assert of_training(None, torch.tensor([1])) == {}


def test_flips_are_shares_of_the_strengths(known, data):
    found = of_edits(known, data.train_examples)
    table = known.training_table("scale-factor0.5")
    assert torch.equal(found["flips_scale"] * 2, torch.from_numpy(table.prediction != table.given).double())


def test_edits_that_were_told_which_labels_are_wrong_are_no_score(known, data):
    sees = {"scale": {"unlabeled"}, "npo": {"forget", "retain"}, "finetune": {"retain"}, "early": {"validation"}}
    told = {f"{name}-{k}": MadeEdit(name, "factor", k, frozenset(sees[name])) for name in sees for k in (1.0, 2.0)}
    table = predict(vit(dtype=torch.float32).eval(), data.evaluation_loaders())
    known = dataclasses.replace(known, edits=lambda: told, table=lambda of: table)
    assert of_edits(known, data.train_examples).keys() == {"flips_scale", "flips_early"}


def test_perfect_and_useless_scores_are_told_as_such():
    wrong = torch.arange(100) % 5 == 0
    perfect = Detection().quality(wrong.double(), wrong, generator())
    assert (perfect["auroc"], perfect["average_precision"], perfect["missed_at_budget"]) == (1, 1, 0)
    worst = Detection().quality(-wrong.double(), wrong, generator())
    assert (worst["auroc"], worst["missed_at_budget"]) == (0, 1)
    useless = Detection().quality(torch.zeros(100), wrong, generator())
    assert useless["auroc"] == 0.5
    assert useless["missed_at_budget"] == pytest.approx(0.8, abs=0.2)  # 20 of 100 are flagged at random


@pytest.mark.slow
def test_the_null_controls_are_null(known, model):
    rows = {row["score"]: row for row in Detection(directions=1, resamples=20).apply(model, known, generator()).rows}
    assert rows["random"]["auroc_low"] <= 0.5 <= rows["random"]["auroc_high"]
    permuted = torch.tensor([row["auroc_permuted"] for row in rows.values()])
    assert abs(float(permuted.mean()) - 0.5) < 0.15


def test_a_held_out_label_does_not_tell_its_own_probability(known, model, data, monkeypatch):
    monkeypatch.setattr(detection, "choose_l2", lambda *_: 1e-2)
    examples = data.train_examples
    label = examples.given_label.clone()
    label[0] = (label[0] + 1) % 5
    changed = type(examples)(examples.image, label, examples.true_label, examples.index)
    before, after = (
        cross_validated(model, data, part, 5, generator())["cross_validated"] for part in (examples, changed)
    )
    fold = torch.randperm(40, generator=generator()) % 5
    same = (fold == fold[0]) & (torch.arange(40) != 0)
    torch.testing.assert_close(before[same], after[same])
    assert not torch.allclose(before[fold != fold[0]], after[fold != fold[0]])


@pytest.mark.slow
def test_which_labels_are_wrong_is_not_used_by_the_scores(known, model, data):
    """Tell every label as right: all scores stay, and nothing can be measured."""
    settings = Detection(directions=1, resamples=5)
    before = settings.apply(model, known, generator())
    told = data.train_examples
    hidden = type(told)(told.image, told.given_label, told.given_label, told.index)
    data.__dict__["_hidden"] = hidden
    original = type(data).train_examples
    try:
        type(data).train_examples = property(lambda self: hidden)
        after = settings.apply(model, known, generator())
    finally:
        type(data).train_examples = original
    assert after.rows == []
    assert before.scores.keys() == after.scores.keys()
    for name, score in before.scores.items():
        torch.testing.assert_close(score, after.scores[name], equal_nan=True)


@pytest.mark.parametrize("options", [{"folds": 1}, {"directions": -1}, {"step": 0.0}, {"images": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Detection(**options)


def test_confident_learning_ranks_planted_labels_first():
    pytest.importorskip("cleanlab", reason="cleanlab is not installed: pip install 'vitmem[detect]'")
    true = torch.arange(200) % 5
    p_NK = torch.full((200, 5), 0.1, dtype=torch.float64)
    p_NK[torch.arange(200), true] = 0.6
    given = torch.where(torch.arange(200) < 20, (true + 1) % 5, true)
    (score,) = detection.confident_learning(p_NK, given).values()
    assert auroc(score, torch.arange(200) < 20) == 1
