import math

import pytest
import torch
from closed_form import DATA, MODEL, apply, before
from torch.nn import functional as F

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing import parameters as shared
from vitmem.editing.data import EditData
from vitmem.editing.weight_space import (
    Midpoint,
    WeightDistance,
    WeightDistortion,
    forever,
    midpoint,
    rms_distance,
)


class TestWeightSpace:
    def test_the_distance_by_hand(self):
        old = {"a": torch.zeros(3), "b": torch.ones(1)}
        new = {"a": torch.tensor([2.0, 0.0, 0.0]), "b": torch.tensor([1.0])}
        assert float(rms_distance(new, old)) == pytest.approx(math.sqrt(4 / 4 + 1e-8))
        assert float(rms_distance(old, old)) == pytest.approx(1e-4)

    def test_the_midpoint_by_hand(self):
        weights = {"a": torch.tensor([3.0], requires_grad=True)}
        found = midpoint({"a": torch.tensor([1.0])}, weights)["a"]
        assert found.item() == 2.0
        assert torch.autograd.grad(found, weights["a"])[0].item() == 0.5

    def test_the_barrier_is_the_loss_of_the_midpoint_on_right_and_wrong_examples(self):
        data = EditData(DATA, Midpoint.sees)
        names = [name for name, _ in MODEL.named_parameters()]
        twin = shared.working_copy(MODEL, names)
        start = {name: twin.get_parameter(name).detach() for name in names}
        weights = {name: (1.5 * value).requires_grad_() for name, value in start.items()}
        edit = Midpoint(alpha=0.3, batch_size=10**6)
        found = edit.penalty(start, twin, data, seed=0)(weights).detach()
        middle = shared.working_copy(MODEL)
        middle.load_state_dict({name: 1.25 * value for name, value in start.items()})
        with torch.no_grad():
            loss = torch.cat(
                [
                    F.cross_entropy(middle(b.image), b.given_label, reduction="none")
                    for loader in (data.retain(500), data.forget(500))
                    for b in loader
                ]
            ).mean()
        assert float(found) == pytest.approx(-0.3 * float(loss), rel=1e-5)
        capped = Midpoint(alpha=0.3, gamma=0.5, batch_size=10**6).penalty(start, twin, data, seed=0)(weights).detach()
        assert float(capped) == pytest.approx(-0.3 * 0.5)

    def test_the_noise_has_the_given_size(self):
        report = apply(WeightDistortion(std=0.1, lr=1e-12, epochs=1)).report
        number = sum(p.numel() for p in MODEL.parameters())
        assert report["distance"] == pytest.approx(0.1 * math.sqrt(number), rel=0.03)

    @pytest.mark.slow
    def test_a_stronger_push_goes_further(self):
        distances = [apply(WeightDistance(alpha=a, epochs=2, lr=1e-3)).report["distance"] for a in (1e-6, 100.0)]
        assert distances[1] > 1.3 * distances[0]

    def test_only_the_chosen_layers_are_trained(self):
        state = apply(WeightDistance(layers="head", epochs=1)).state_dict
        changed = {name for name, value in state.items() if not torch.equal(value, before(name))}
        assert changed == {"head.weight", "head.bias"}

    def test_the_noise_is_that_of_the_generator(self):
        edit = WeightDistortion(std=0.1, lr=1e-300, epochs=1)
        one, two = (apply(edit, seed=3).state_dict for _ in range(2))
        generator = keyed_generator(3)
        for name, value in MODEL.named_parameters():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).float()
            assert torch.equal(one[name], two[name])
            assert torch.allclose(one[name], value + 0.1 * noise, atol=1e-6)

    def test_batches_hold_right_and_wrong_examples_in_their_proportion(self, monkeypatch):
        sizes = []
        plain = EditData.serve
        monkeypatch.setattr(
            EditData, "serve", lambda self, e, size, **o: sizes.append(size) or plain(self, e, size, **o)
        )
        edit = Midpoint(batch_size=100)
        names = [name for name, _ in MODEL.named_parameters()]
        twin = shared.working_copy(MODEL, names)
        edit.penalty({}, twin, EditData(DATA, edit.sees), seed=0)
        wrong = int(DATA.train_examples.is_noisy.sum())
        batches = math.ceil((len(DATA.train_examples) - wrong) / 100)
        assert sizes == [100, 1, math.ceil(wrong / batches)]

    def test_without_wrong_examples_there_is_no_barrier(self):
        edit = Midpoint(epochs=1)
        data = EditData(DATA, edit.sees, known=torch.zeros(len(DATA.train_examples), dtype=torch.bool))
        with pytest.raises(ValueError, match="there is no example of the kind that this edit trains on"):
            edit.apply(MODEL, data, keyed_generator(0))

    def test_batches_come_again_and_again_in_new_orders(self):
        loader = DATA.loader(DATA.train_examples.subset(slice(0, 6)), 3, shuffle=True)
        batches = forever(loader)
        orders = [torch.cat([next(batches).index, next(batches).index]).tolist() for _ in range(3)]
        assert [sorted(order) for order in orders] == [list(range(6))] * 3
        assert len({tuple(order) for order in orders}) == 3

    def test_the_distance_is_that_of_all_weights(self):
        result = apply(WeightDistance(epochs=1, lr=1e-2))
        squares = sum(float((v - before(n)).double().square().sum()) for n, v in result.state_dict.items())
        assert result.report["distance"] == pytest.approx(math.sqrt(squares))
