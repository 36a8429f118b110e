import pytest
import torch
from torch.nn import functional as F
from unlearning import MODEL, Known, apply, full_batch_gradient, random_examples

from vitmem.editing.finetune import (
    RandomLabels,
)
from vitmem.editing.salun import SalUn, saliency_masks


def test_saliency_keeps_the_largest_gradients_of_all_parameters_together():
    masks = saliency_masks({"a": torch.tensor([[3.0, -5.0], [0.5, 0.1]]), "b": torch.tensor([4.0, -0.2, 0.5])}, 0.5)
    assert masks["a"].tolist() == [[True, True], [False, False]]
    assert masks["b"].tolist() == [True, False, False]
    equal = saliency_masks({"a": torch.ones(10), "b": torch.ones(7)}, 0.7)
    assert sum(int(mask.sum()) for mask in equal.values()) == int(0.7 * 17)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_salun_moves_only_the_salient_weights(optimiser):
    result = apply(SalUn(fraction=0.2, lr=1e-2, steps=5, weight_decay=0.1, optimiser=optimiser, forget_batch_size=2))
    batch = next(iter(Known(random_examples()).forget(100)))
    loss = F.cross_entropy(MODEL(batch.image), batch.given_label)
    gradient = full_batch_gradient(MODEL, loss)
    sizes = torch.cat([g.abs().flatten() for g in gradient.values()])
    threshold = sizes.sort(descending=True).values[int(0.2 * len(sizes)) - 1]
    for name, g in gradient.items():
        moved = result.state_dict[name] != MODEL.state_dict()[name]
        assert torch.equal(moved, g.abs() >= threshold * (1 - 1e-9)), name


def test_salun_of_everything_is_relabelling():
    salun, plain = (apply(cls(lr=0.01, steps=5, **o)) for cls, o in ((SalUn, {"fraction": 1.0}), (RandomLabels, {})))
    assert all(torch.equal(value, plain.state_dict[key]) for key, value in salun.state_dict.items())
