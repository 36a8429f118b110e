import pytest
import torch
from torch.nn import functional as F

from vitmem.analysis.ownership import ALL, Ownership, owned


@pytest.fixture
def seen(known, model, data):
    ownership = Ownership(rho=0.8)
    layers = known.curvature(model, ownership).layers
    kept = ownership.hard(layers)
    return owned(model, known, data.train_examples, layers, kept, kept, "all"), layers, kept


def gradients(model, data, name):
    """Return the gradients N O I of the examples' losses, one backward pass each."""
    (batch,) = data.loader(data.train_examples, 40)
    weight, found = model.get_submodule(name).weight, []
    for image, label in zip(batch.image, batch.given_label, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        found.append(torch.autograd.grad(loss, weight)[0])
    return torch.stack(found).double()


@pytest.mark.slow
def test_single_curvatures_are_those_of_one_backward_pass_for_each_example(seen, model, data):
    found, layers, kept = seen
    totals, insides = [], []
    for name, layer in layers.items():
        g_NOI = gradients(model, data, name)
        c_NOI = (layer.basis.u_g_OO.T.double() @ g_NOI @ layer.basis.u_a_II.double()).square()
        totals.append(c_NOI.sum((1, 2)))
        insides.append((c_NOI * kept[name]).sum((1, 2)))
        torch.testing.assert_close(found.trace(name), g_NOI.square().sum((1, 2)), rtol=1e-3, atol=1e-12)
        torch.testing.assert_close(found.outside(name), 1 - insides[-1] / totals[-1], rtol=1e-3, atol=1e-4)
        mean = g_NOI.mean(0).square().sum() / g_NOI.square().sum((1, 2)).mean()
        assert found.coherence(name) == pytest.approx(float(mean), rel=1e-3)
        sum_OI = c_NOI.sum(0)
        participation = (sum_OI.square() / (40 * c_NOI.square().sum(0)) * sum_OI).sum() / sum_OI.sum()
        assert found.participation(name) == pytest.approx(float(participation), rel=1e-3)
    whole = 1 - sum(insides) / sum(totals)
    torch.testing.assert_close(found.outside(ALL), whole, rtol=1e-3, atol=1e-4)


def test_one_example_many_times_owns_all_and_is_coherent(known, model, data):
    ownership = Ownership()
    layers = known.curvature(model, ownership).layers
    kept = ownership.hard(layers)
    same = data.train_examples.subset(torch.zeros(7, dtype=torch.int64))
    found = owned(model, known, same, layers, kept, kept, "all")
    assert found.coherence(ALL) == pytest.approx(1, rel=1e-4)
    assert found.participation(ALL) == pytest.approx(1, rel=1e-4)


def test_the_share_does_not_depend_on_how_large_a_gradient_is(known, model, data):
    """Double the head: logits grow and gradients with them, and every share stays in [0, 1]."""
    found = Ownership(resamples=20).apply(model, known, torch.Generator().manual_seed(0))
    outside = found.scores["outside"]
    assert bool(((outside >= -1e-6) & (outside <= 1 + 1e-6))[~outside.isnan()].all())
    layer_rows = [row for row in found.rows if row["measure"] == "layer"]
    assert {row["layer"] for row in layer_rows} >= {ALL, "blocks.0.attn.qkv"}


def test_an_edit_that_removes_what_lies_outside_is_told_by_it(known, model, data, monkeypatch):
    """Plant it: the labels with the largest share outside are those that the edit removes."""
    ownership = Ownership(resamples=50)
    first = ownership.apply(model, known, torch.Generator().manual_seed(0))
    outside = first.scores["outside"].nan_to_num(nan=-1)
    table = known.training_table("base")
    memorised = torch.from_numpy(table.is_noisy & (table.prediction == table.given)) & (outside >= 0)
    largest = outside.masked_fill(~memorised, -1).topk(int(memorised.sum()) // 2).indices
    prediction = table.prediction.copy()
    prediction[largest.numpy()] = (table.given[largest.numpy()] + 1) % 5
    planted = type(table)(**{n: getattr(table, n) for n in table.__dataclass_fields__} | {"prediction": prediction})
    original = known.training_table
    monkeypatch.setattr(type(known), "training_table", lambda self, of: original(of) if of == "base" else planted)
    rows = ownership.apply(model, known, torch.Generator().manual_seed(0)).rows
    areas = {row["score"]: row["auroc"] for row in rows if row["edit"] == "scale-factor1"}
    assert areas["outside"] == 1
    assert areas["outside_random"] < 1
