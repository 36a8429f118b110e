import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from vitmem.analysis.similarity import Similarity, alignment, centred, overlap, random_overlaps


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def gram(number, size, seed):
    x = torch.randn(number, size, generator=draws(seed), dtype=torch.float64)
    return x @ x.T


def test_the_unbiased_estimate_is_the_mean_over_quadruples_of_different_images():
    k, ell = gram(7, 3, 1), gram(7, 4, 2)
    terms = [
        k[i, j] * ell[i, j] + k[i, j] * ell[q, r] - 2 * k[i, j] * ell[i, q]
        for i, j, q, r in itertools.permutations(range(7), 4)
    ]
    found = (centred(k, True) * centred(ell, True)).sum() / (7 * 4)
    assert float(found) == pytest.approx(float(sum(terms) / len(terms)))


def test_the_biased_estimate_is_that_of_kornblith_et_al():
    x, y = (torch.randn(12, size, generator=draws(size), dtype=torch.float64) for size in (3, 5))
    x0, y0 = x - x.mean(0), y - y.mean(0)
    expected = (y0.T @ x0).square().sum() / ((x0.T @ x0).norm() * (y0.T @ y0).norm())
    assert alignment(centred(x @ x.T, False), centred(y @ y.T, False)) == pytest.approx(float(expected))


def test_features_that_differ_by_a_rotation_and_a_factor_are_alike():
    x = torch.randn(30, 6, generator=draws(), dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(6, 6, generator=draws(1), dtype=torch.float64)).Q
    for estimator in ("unbiased", "biased"):
        found = Similarity(estimator=estimator, permutations=50).cka(x, 3 * x @ q, draws())
        assert found["value"] == pytest.approx(1)
        assert found["p"] == pytest.approx(1 / 51)
        assert found["null_high"] < 0.5


def test_features_that_have_nothing_in_common_come_out_null():
    """Few images and many features: the unbiased estimate is about 0, the biased one is not."""
    values, p = [], []
    for seed in range(40):
        x, y = (torch.randn(20, 60, generator=draws(2 * seed + k), dtype=torch.float64) for k in (0, 1))
        found = Similarity(permutations=39).cka(x, y, draws(seed))
        values.append(found["value"])
        p.append(found["p"])
        assert found["value_low"] < found["value"] < found["value_high"]
    assert abs(np.mean(values)) < 4 * np.std(values) / 40**0.5
    assert np.mean(np.array(p) < 0.1) < 0.3  # of 40 at a rate of 0.1: above with probability 0.0003
    biased = Similarity(estimator="biased", permutations=2).cka(x, y, draws())
    assert biased["value"] > 0.5


def test_overlap_is_the_mean_squared_cosine_of_the_principal_angles():
    u, v = (torch.linalg.qr(torch.randn(9, 3, generator=draws(seed), dtype=torch.float64)).Q for seed in (1, 2))
    expected = np.mean(np.cos(subspace_angles(u.numpy(), v.numpy())) ** 2)
    assert overlap(u, v) == pytest.approx(expected)
    assert overlap(u, u) == pytest.approx(1)


def test_random_subspaces_have_the_overlap_that_theory_says():
    d, k, count = 12, 4, 3000
    found = random_overlaps(d, k, count, draws())
    variance = 2 * (d - k) ** 2 / (d**2 * (d - 1) * (d + 2))  # of the trace of the projections' product, over k^2
    assert float(found.mean()) == pytest.approx(k / d, abs=4 * (variance / count) ** 0.5)
    assert float(found.var()) == pytest.approx(variance, rel=0.15)


def test_a_model_is_like_itself_and_less_like_its_start(known, model):
    twin = dataclasses.replace(known, reference={"base": model, "retrain": model}.get)
    analysis = Similarity(against="retrain,initial,initial,seeds,epochs", images=20, permutations=20)
    result = analysis.apply(model, twin, draws())
    itself = [row for row in result.rows if row["against"] == "retrain"]
    start = [row for row in result.rows if row["against"] == "initial"]
    assert len(itself) == len(start) == 3 * 3 + 2 * (8 + 1)  # kinds x (blocks, head), factors x (layers, all)
    assert all(row["value"] == pytest.approx(1, abs=1e-4) for row in itself)
    assert np.mean([row["value"] for row in start]) < 0.9
    angles = [row for row in result.rows if row["measure"] == "angles"]
    assert all(row["null"] == pytest.approx(row["expected"], abs=0.15) for row in angles)
    assert all(row["ceiling"] > 0.999 for row in angles if row["kind"] == "inputs")  # all images are in either sample
    assert [line.partition(":")[0] for line in result.report["skipped"]] == ["seeds", "epochs"]
    layer = [row["value"] for row in angles if row["place"] != "all" and row["against"] == "initial"]
    whole = [row["value"] for row in angles if row["place"] == "all" and row["against"] == "initial"]
    assert np.mean(layer) == pytest.approx(np.mean(whole))


def test_images_and_models_that_are_not_there_are_told(known, model):
    with pytest.raises(ValueError, match="against chooses no other model that is there .*retrain: there is no such"):
        Similarity(against="retrain,seeds").apply(model, known, draws())
    with pytest.raises(ValueError, match="there is no other model 'retrian'; choose from base, retrain"):
        Similarity(against="retrian").apply(model, known, draws())
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        Similarity(share=1.0)
    found = Similarity(against="scale*", images=8, permutations=2).apply(model, known, draws())
    assert {row["against"] for row in found.rows} == {"scale-factor0.5"}
    assert found.report["skipped"] == ["scale-factor1: its weights are not at hand"]
