import math

import pytest
import torch
from closed_form import DATA, MODEL, apply, before
from torch.nn import functional as F

from vitmem.editing import parameters as shared
from vitmem.editing.data import EditData
from vitmem.editing.weight_space import Midpoint, WeightDistance, WeightDistortion, midpoint, rms_distance


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

    def test_a_stronger_push_goes_further(self):
        distances = [apply(WeightDistance(alpha=a, epochs=2, lr=1e-3)).report["distance"] for a in (1e-6, 100.0)]
        assert distances[1] > 1.3 * distances[0]

    def test_only_the_chosen_layers_are_trained(self):
        state = apply(WeightDistance(layers="head", epochs=1)).state_dict
        changed = {name for name, value in state.items() if not torch.equal(value, before(name))}
        assert changed == {"head.weight", "head.bias"}
