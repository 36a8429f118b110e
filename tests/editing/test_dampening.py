import math

import numpy as np
import pytest
import torch
from cases import loader, vit
from closed_form import DATA, MODEL, apply, before
from torch.nn import functional as F

from vitmem.editing import parameters as shared
from vitmem.editing.dampening import SSD, Potion, cross_entropy, dampening, importances, logit_length, top_threshold
from vitmem.editing.data import EditData


class TestDampening:
    def test_by_hand(self):
        forget = torch.tensor([1.0, 6.0, 20.0, 20.0, 0.0, 3.0])
        reference = torch.tensor([1.0, 1.0, 1.0, 4.0, 0.0, 0.0])
        found = dampening(forget, reference, alpha=5.0, lam=2.0)
        assert found.tolist() == pytest.approx([1.0, 2 / 6, 2 / 20, 1.0, 1.0, 0.0])  # 20 is not above 5 * 4
        assert dampening(forget, reference, 0.5, 30.0).max() == 1.0  # never more than it was

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_importances_square_the_gradient_of_each_batch(self, batch_size):
        model = vit("one_block")
        names, batches = ["head.weight", "cls_token"], list(loader(11, batch_size))
        found = importances(model, names, batches, cross_entropy, torch.square)
        for name in names:
            squares = []
            for batch in batches:
                loss = F.cross_entropy(model(batch.image), batch.given_label)
                squares.append(torch.autograd.grad(loss, model.get_parameter(name))[0] ** 2)
            counts = torch.tensor([float(len(batch.index)) for batch in batches], dtype=torch.float64)
            expected = torch.tensordot(counts / counts.sum(), torch.stack(squares), 1)
            torch.testing.assert_close(found[name], expected)

    def test_label_free_importances_read_no_label(self):
        model = vit("one_block")
        batches = list(loader(8, 4))
        found = importances(model, ["head.bias"], batches, logit_length, torch.abs)["head.bias"]
        expected = torch.zeros(5, dtype=torch.float64)
        for batch in batches:  # d |f| / d bias = f / |f|
            logits = model(batch.image).detach()
            expected += (logits / logits.norm(dim=1, keepdim=True)).mean(0).abs() / len(batches)
        torch.testing.assert_close(found, expected)

    def test_ssd_follows_its_formula(self):
        edit = SSD(layers="blocks.1.mlp.fc1", alpha=1.5, lam=0.5)
        found = apply(edit).state_dict["blocks.1.mlp.fc1.weight"]
        twin = shared.working_copy(MODEL, ["blocks.1.mlp.fc1.weight"])
        data = EditData(DATA, edit.sees)
        forget, reference = (
            importances(twin, ["blocks.1.mlp.fc1.weight"], batches, cross_entropy, torch.square)
            for batches in (data.forget(64), data.given(10**6, 64))
        )
        f, d = (v["blocks.1.mlp.fc1.weight"].numpy() for v in (forget, reference))
        w = before("blocks.1.mlp.fc1.weight").numpy()
        expected = np.where(f > 1.5 * d, w * np.minimum(0.5 * d / np.maximum(f, 1e-30), 1), w)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
        assert 0 < (f > 1.5 * d).mean() < 1

    @pytest.mark.parametrize("options", [{"alpha": 1e30}, {"lam": 1e30}])
    def test_ssd_without_bite_changes_nothing(self, options):
        state = apply(SSD(**options)).state_dict
        assert all(torch.equal(value, before(name)) for name, value in state.items())

    def test_what_ssd_compares_with_is_declared(self):
        assert SSD().sees == {"forget", "given"}
        assert SSD(reference="retain").sees == {"forget", "retain"}
        assert not torch.equal(
            apply(SSD(alpha=1.2)).state_dict["head.weight"],
            apply(SSD(alpha=1.2, reference="retain")).state_dict["head.weight"],
        )

    def test_the_share_that_is_dampened_grows_slowly(self):
        ordered = torch.arange(100000.0)
        for fraction in (0.001, 0.1, 5.0):
            above = int((ordered > top_threshold(ordered, fraction)).sum())
            assert above == pytest.approx(1000 * math.log(1 + 100 * fraction), abs=1)

    def test_potion_stops_as_soon_as_it_is_enough(self, monkeypatch):
        accuracies = iter([0.8, 0.7, 0.5, 0.39, 0.1])
        monkeypatch.setattr("vitmem.editing.dampening.accuracy", lambda model, batches: next(accuracies))
        report = apply(Potion(stop=0.5)).report
        assert (report["tries"], report["reached"], report["forget_accuracy"]) == (3, True, 0.39)

    def test_a_try_of_potion_dampens_the_unedited_weights_a_little_further(self, monkeypatch):
        monkeypatch.setattr("vitmem.editing.dampening.accuracy", lambda model, batches: 0.8)
        name = "blocks.1.mlp.fc1.weight"
        edit = Potion(layers="blocks.1.mlp.fc1", tries=2)
        found = apply(edit).state_dict[name]
        data, twin = EditData(DATA, edit.sees), shared.working_copy(MODEL, [name])
        loaders = data.forget(64), data.retain(64)
        forget, reference = (importances(twin, [name], b, logit_length, torch.abs)[name] for b in loaders)
        wrong, right = (len(b.examples) for b in loaders)
        fraction = 1.1 * wrong / (wrong + right) / 25  # of the second try
        above = math.log1p(100 * fraction) / 100 * forget.numel()
        ratio = (forget / reference).flatten()
        chosen = ratio >= ratio.sort(descending=True).values[math.floor(above) - 1]
        expected = torch.where(chosen.view_as(forget), before(name) / ratio.view_as(forget), before(name))
        torch.testing.assert_close(found, expected)

    def test_potion_gives_up(self, monkeypatch):
        monkeypatch.setattr("vitmem.editing.dampening.accuracy", lambda model, batches: 0.8)
        report = apply(Potion(tries=2)).report
        assert (report["tries"], report["reached"]) == (2, False)
