import math

import pytest
import torch
from attacked import generator

from vitmem.attacks.scoring import scored
from vitmem.attacks.views import Views
from vitmem.evaluation.predict import TRAIN, predict


def test_the_identity_view_is_the_ordinary_table(data, model, known):
    rows = {row["view"]: row for row in Views().apply(model, known, generator()).rows}
    examples = data.train_examples
    table = predict(model, {TRAIN: data.loader(examples.subset(examples.is_noisy))})
    assert rows["identity"] == {"view": "identity", **scored(table)}
    single = [row["memorized_accuracy"] for name, row in rows.items() if name not in ("identity", "any", "mean")]
    assert len(single) == 1 + 8 + 2 + 4 + 3 + 2 + 2
    assert rows["any"]["memorized_accuracy"] >= max(single)
    assert rows["mean"]["memorized_accuracy"] == pytest.approx(sum(single) / len(single))


def test_a_model_without_finite_logits_has_no_memory_that_could_be_told(data, model, known):
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    rows = Views().apply(model, known, generator()).rows
    assert all(math.isnan(row["memorized_accuracy"]) for row in rows)


def test_views_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4) / 15
    views = Views(shift=0.25, brightness=(0.5,), noise=(0.0,), jpeg=(100,)).views((1, 4, 4))
    right = views["shifted +1 +0"](x, None)
    assert torch.equal(right[..., 1:], x[..., :-1])
    assert torch.equal(right[..., 0], x[..., 1])  # reflected, without repeating the edge
    up = views["shifted +0 -1"](x, None)
    assert torch.equal(up[..., :-1, :], x[..., 1:, :])
    assert torch.equal(views["mirrored"](x, None), x.flip(-1))
    assert torch.equal(views["brightness -0.5"](x, None), x * 0.5)
    assert torch.equal(views["noise 0"](x, generator()), x)
    assert float((views["jpeg 100"](x, None) - x).abs().max()) < 0.02
    assert all(view(x, generator()).shape == x.shape for view in views.values())
    assert not any(name.startswith("jpeg") for name in Views().views((2, 4, 4)))
