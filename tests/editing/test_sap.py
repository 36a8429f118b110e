import numpy as np
import pytest
import torch
from cases import loader
from closed_form import DATA, MODEL, apply, before, inputs_of

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.contract import TRACKS, identity
from vitmem.editing.data import EditData
from vitmem.editing.sap import SAP, first, projection


class TestProjection:
    MOMENT = torch.diag(torch.tensor([8.0, 2.0, 0.0], dtype=torch.float64))

    def test_by_hand(self):
        turn = torch.linalg.qr(torch.arange(9.0, dtype=torch.float64).view(3, 3) ** 2 + torch.eye(3))[0]
        found = turn.T @ projection(turn @ self.MOMENT @ turn.T, 4.0) @ turn
        expected = torch.diag(torch.tensor([3.2 / 3.4, 0.8 / 1.6, 0.0], dtype=torch.float64))
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)

    def test_a_large_alpha_projects_on_the_span_of_the_inputs(self):
        inputs = torch.randn(2, 5, generator=keyed_generator(0), dtype=torch.float64)
        found = projection(inputs.T @ inputs, 1e10)
        torch.testing.assert_close(found, torch.linalg.pinv(inputs) @ inputs, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("exponent", [0.5, 2.0])
    def test_an_exponent_by_hand(self, exponent):
        turn = torch.linalg.qr(torch.arange(9.0, dtype=torch.float64).view(3, 3) ** 2 + torch.eye(3))[0]
        found = turn.T @ projection(turn @ self.MOMENT @ turn.T, 4.0, exponent) @ turn
        kept = [4 * s**exponent / (3 * s**exponent + 1) for s in (0.8, 0.2, 0.0)]
        torch.testing.assert_close(found, torch.diag(torch.tensor(kept, dtype=torch.float64)), atol=1e-7, rtol=0)

    def test_an_exponent_of_one_is_what_it_was(self):
        inputs = torch.randn(9, 5, generator=keyed_generator(0), dtype=torch.float64)
        values, u_II = torch.linalg.eigh(inputs.T @ inputs)
        s = values.clamp(min=0) / values.clamp(min=0).sum()
        expected = (u_II * (30.0 * s / ((30.0 - 1) * s + 1))) @ u_II.T
        assert torch.equal(projection(inputs.T @ inputs, 30.0, 1.0), expected)

    @pytest.mark.parametrize("options", [{}, {"exponent": 0.7}, {"images": "unlabeled"}])
    def test_the_layer_answers_to_projected_inputs(self, options):
        name = "blocks.0.mlp.fc1"
        edit = SAP(layers=name, alpha=30.0, examples=10**6, **options)
        found = apply(edit).state_dict[f"{name}.weight"].double()
        examples = DATA.train_examples
        images = examples if options.get("images") else examples.subset(~examples.is_noisy)
        u, s, _ = np.linalg.svd(inputs_of(name, images).T, full_matrices=False)
        share = (s**2 / (s**2).sum()) ** options.get("exponent", 1)
        w = before(f"{name}.weight").double().numpy()
        expected = w @ u @ np.diag(30 * share / (29 * share + 1)) @ u.T
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        assert np.abs(w - expected).max() > 1e-3

    def test_what_it_sees_and_results_made_before_still_count(self):
        assert (SAP().track, SAP(images="unlabeled").track) == (TRACKS[2], TRACKS[0])
        assert {"exponent", "images"} & set(identity(SAP())) == set()
        data = EditData(DATA, SAP(images="unlabeled").sees)
        SAP(images="unlabeled", examples=30).apply(MODEL, data, keyed_generator(0))
        assert data.served == 30

    def test_no_more_examples_are_trusted_than_asked_for(self):
        assert [len(b.index) for b in first(loader(11, 4), 6)] == [4, 2]
        assert [len(b.index) for b in first(loader(11, 4), 4)] == [4]
        assert sum(len(b.index) for b in first(loader(11, 4), 99)) == 11
