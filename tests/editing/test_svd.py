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


def test_the_report_says_what_was_kept_and_changed():
    result = apply(SVD(keep=0.3))
    for row, (name, layer) in zip(result.report["layers"], select_layers(MODEL, "blocks.*").items(), strict=True):
        before, after = layer.weight.detach(), result.state_dict[f"{name}.weight"]
        squares = torch.linalg.svdvals(before.double()).square()
        assert (row["layer"], row["full_rank"]) == (name, len(squares))
        assert row["rank"] == math.ceil(0.3 * len(squares))
        assert row["energy_kept"] == pytest.approx(float(squares[: row["rank"]].sum() / squares.sum()))
        assert row["relative_change"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)
        assert row["relative_change"] == pytest.approx(math.sqrt(1 - row["energy_kept"]), rel=1e-4)
    graded = apply(SVD(keep=0.3, filter="graded")).report["layers"]
    assert all(row["rank"] == row["full_rank"] for row in graded)  # shrunk, and none cut away
    assert all(0 < row["energy_kept"] < 1 for row in graded)


def test_of_equal_singular_values_exactly_so_many_stay():
    equal = torch.ones(4, dtype=torch.float64)
    assert SVD(keep=0.5).multipliers({"a": equal})["a"].tolist() == [1, 1, 0, 0]
    both = SVD(keep=0.25, scope="global").multipliers({"a": equal * 3, "b": equal * 2})
    assert (both["a"].tolist(), both["b"].tolist()) == ([0] * 4, [0] * 4)  # none is above the largest that is cut
    assert SVD(keep=1.0, scope="global").multipliers({"a": equal})["a"].tolist() == [1] * 4
    assert SVD(keep=0.3, share="energy").rank(torch.zeros(3)) == 3
