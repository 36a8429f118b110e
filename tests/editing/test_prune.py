import math

import pytest
import torch
from closed_form import DATA, MODEL, apply, before

from vitmem.editing.prune import Magnitude, Wanda, largest
from vitmem.models.layers import select_layers


class TestPruning:
    def test_the_largest_by_hand(self):
        score = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
        assert largest(score, 0.5).tolist() == [[True, False, True], [False, True, True]]
        assert largest(torch.zeros(5), 0.4).sum() == 2  # ties do not change the number

    @pytest.mark.parametrize("scope", ["layer", "global"])
    def test_magnitude_keeps_the_largest(self, scope):
        state = apply(Magnitude(keep=0.3, scope=scope)).state_dict
        names = [f"{name}.weight" for name in select_layers(MODEL, "blocks.*")]
        for group in [[name] for name in names] if scope == "layer" else [names]:
            old = torch.cat([before(n).flatten() for n in group])
            new = torch.cat([state[n].flatten() for n in group])
            assert int((new != 0).sum()) == math.ceil(0.3 * old.numel())
            assert torch.equal(new[new != 0], old[new != 0])
            assert old[new == 0].abs().max() <= old[new != 0].abs().min()

    def wanda_scores(self, name, examples):
        """Weight times length of the input, by plain means."""
        seen = []
        handle = MODEL.get_submodule(name).register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
        with torch.no_grad():
            for batch in DATA.loader(examples):
                MODEL(batch.image)
        handle.remove()
        return before(f"{name}.weight").double().abs() * torch.cat(seen).flatten(0, 1).double().norm(dim=0)

    def test_wanda_ranks_each_output_by_weight_times_input(self):
        name = "blocks.1.attn.proj"
        found = apply(Wanda(layers=name, keep=0.25, examples=10**6)).state_dict[f"{name}.weight"]
        for row, (score, kept) in enumerate(zip(self.wanda_scores(name, DATA.train_examples), found, strict=True)):
            assert set(kept.nonzero().flatten().tolist()) == set(score.argsort()[-4:].tolist()), row  # 16 inputs

    def test_what_right_examples_need_is_not_removed_for_wrong_ones(self):
        name = "blocks.0.mlp.fc2.weight"
        state = {
            o: apply(Wanda(layers="blocks.0.mlp.fc2", forget=0.2, keep=o)).state_dict[name] for o in (0.01, 0.3, 1.0)
        }
        assert torch.equal(state[1.0], before(name))
        removed = (state[0.01] == 0).float().mean(1)
        assert ((removed > 0.1) & (removed <= 0.2 + 1 / 64)).all()
        noisy = DATA.train_examples.is_noisy
        parts = (DATA.train_examples.subset(mask) for mask in (noisy, ~noisy))
        wrong, right = (self.wanda_scores("blocks.0.mlp.fc2", part) for part in parts)
        k = math.ceil(0.2 * wrong.shape[1])
        gone = state[0.3] == 0
        for o in range(len(gone)):  # the largest for wrong examples, but for the largest for right ones
            best = set(right[o].topk(math.ceil(0.3 * right.shape[1])).indices.tolist())
            assert set(gone[o].nonzero()[:, 0].tolist()) == set(wrong[o].topk(k).indices.tolist()) - best
        assert Wanda(forget=0.2).sees == {"forget", "retain"}
