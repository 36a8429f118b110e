import pytest
import torch

from vitmem.analysis.bands import BANDS, NORM, Bands, band_filters, band_masks, layer_strengths


@pytest.fixture
def layer(known, model):
    curvature = known.curvature(model, Bands(labels="exact"))
    return curvature.layers["blocks.0.mlp.fc1"]


def test_bands_take_each_component_once_and_have_their_shares():
    masks = band_masks(torch.randperm(200))
    assert torch.stack([*masks.values()]).sum(0).eq(1).all()
    assert [int(mask.sum()) for mask in masks.values()] == [20, 30, 50, 100]


def test_strengths_are_the_sums_over_pairs_that_they_stand_for(layer):
    """Pair by pair, in loops: sum over the band of (v_j a)^2, and the norm of sum C_ij u_i (v_j a)."""
    draws = torch.Generator().manual_seed(1)
    w_OI = layer.map.matrix()
    a_BTI = torch.randn(3, 2, w_OI.shape[1], generator=draws)
    found = layer_strengths(a_BTI, w_OI, band_filters(layer, draws))
    u, v, mass = layer.basis.u_g_OO.float(), layer.basis.u_a_II.float(), layer.mass.dense()
    masks = band_masks(mass.flatten().sort(descending=True, stable=True).indices)
    for band in BANDS:
        pairs = masks[band].view(mass.shape).nonzero().tolist()
        along = torch.einsum("bti,ij->btj", a_BTI, v)
        expected_input = sum(along[..., j].square() for _, j in pairs).mean(1)
        part = sum(layer.coordinates_OI[i, j] * along[..., j, None] * u[:, i] for i, j in pairs)
        torch.testing.assert_close(found["curvature", "input", band], expected_input, rtol=1e-4, atol=1e-5)
        expected_output = part.square().sum(2).mean(1)
        torch.testing.assert_close(found["curvature", "output", band], expected_output, rtol=1e-3, atol=1e-5)


def test_the_bands_of_singular_vectors_make_up_the_layer(layer):
    draws = torch.Generator().manual_seed(1)
    w_OI = layer.map.matrix()
    a_BTI = torch.randn(3, 2, w_OI.shape[1], generator=draws)
    found = layer_strengths(a_BTI, w_OI, band_filters(layer, draws))
    whole = sum(found["svd", "output", band] for band in BANDS)  # singular vectors are orthogonal on both sides
    torch.testing.assert_close(whole, found["svd", "output", NORM], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["svd", "output", NORM], (a_BTI @ w_OI.T).square().sum(2).mean(1))


def test_groups_that_are_dealt_at_random_do_not_differ(known, model, data, monkeypatch):
    """The null control comes out null: of 4 x 3 x 5 ratios about one in twenty has p below 0.05."""
    everyone = data.train_examples.subset(torch.randperm(40, generator=torch.Generator().manual_seed(2)))
    halves = everyone.subset(torch.arange(20)), everyone.subset(torch.arange(20, 40))
    monkeypatch.setattr(type(known), "groups", lambda self, most, generator: halves)
    rows = Bands(permutations=99).apply(model, known, torch.Generator().manual_seed(0)).rows
    rows = [row for row in rows if row["layer"] != "all"]
    assert sum(row["p"] < 0.05 for row in rows) / len(rows) < 0.2
    assert all(0.97 < row["null"] < 1.03 for row in rows)


def test_the_norm_over_the_norm_is_one(known, model):
    rows = Bands(images=10, resamples=20, permutations=5).apply(model, known, torch.Generator().manual_seed(0)).rows
    norms = [row for row in rows if row["band"] == NORM]
    assert norms
    assert all(row[f"ratio_over_norm{end}"] == pytest.approx(1) for row in norms for end in ("", "_low", "_high"))
