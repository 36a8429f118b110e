import math

import pytest
import torch
from edited import MODEL, apply

from vitmem.editing.svd import SVD
from vitmem.models.layers import select_layers


def test_svd_keeps_the_best_approximation_of_its_rank():
    result = apply(SVD(keep=0.3))
    for name, layer in select_layers(MODEL, "blocks.*").items():
        after = result.state_dict[f"{name}.weight"].double()
        singular = torch.linalg.svdvals(layer.weight.detach().double())
        rank = math.ceil(0.3 * len(singular))
        assert torch.linalg.matrix_rank(after, rtol=1e-5) == rank
        error = torch.linalg.norm(after - layer.weight.detach().double())
        assert error == pytest.approx(float(singular[rank:].square().sum().sqrt()), rel=1e-4)  # Eckart-Young


class TestSVD:
    SINGULAR = torch.tensor([4.0, 2.0, 2.0, 1.0, 0.0], dtype=torch.float64)  # squares 16 4 4 1 0 of 25

    @pytest.mark.parametrize(
        ("share", "keep", "rank"),
        [
            ("rank", 0.3, 2), ("rank", 1.0, 5), ("pruned", 0.3, 4), ("pruned", 0.4, 3), ("pruned", 0.05, 5),
            ("energy", 0.64, 1), ("energy", 0.65, 2), ("energy", 0.9, 3), ("energy", 1.0, 4),
        ],
    )  # fmt: skip
    def test_three_conventions_by_hand(self, share, keep, rank):
        assert SVD(keep=keep, share=share).rank(self.SINGULAR) == rank

    def test_a_rank_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="would cut everything away"):
            SVD(keep=1.0, share="pruned")
