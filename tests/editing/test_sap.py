import numpy as np
import torch
from cases import loader
from closed_form import DATA, MODEL, apply, before

from vitmem.datamodules.batch import keyed_generator
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

    def test_the_layer_answers_to_projected_inputs(self):
        name = "blocks.0.mlp.fc1"
        edit = SAP(layers=name, alpha=30.0, examples=10**6)
        found = apply(edit).state_dict[f"{name}.weight"].double()
        seen = []
        module = MODEL.get_submodule(name)
        handle = module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach().flatten(0, 1)))
        with torch.no_grad():
            for batch in EditData(DATA, edit.sees).retain(64):
                MODEL(batch.image)
        handle.remove()
        u, s, _ = np.linalg.svd(torch.cat(seen).double().numpy().T, full_matrices=False)
        share = s**2 / (s**2).sum()
        w = before(f"{name}.weight").double().numpy()
        expected = w @ u @ np.diag(30 * share / (29 * share + 1)) @ u.T
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)

    def test_no_more_examples_are_trusted_than_asked_for(self):
        assert [len(b.index) for b in first(loader(11, 4), 6)] == [4, 2]
        assert [len(b.index) for b in first(loader(11, 4), 4)] == [4]
        assert sum(len(b.index) for b in first(loader(11, 4), 99)) == 11
