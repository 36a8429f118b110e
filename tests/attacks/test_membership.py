import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from attacked import CONFIG
from cases import TINY
from scipy import stats

from vitmem.attacks import attacks
from vitmem.attacks import scores as s
from vitmem.attacks.contract import AttackData
from vitmem.attacks.membership import Membership, audit
from vitmem.attacks.shadows import Shadow, ShadowCache, confidences, make_pairs, wrong_validation
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import PairFlip, Symmetric
from vitmem.models.build import create
from vitmem.runs.fresh import recipe_of

RNG = np.random.RandomState(0)
VARIANCES = ("pair", "pooled", "within")


def test_priv_leak():
    assert s.priv_leak(0.53, 0.53) == 0.0
    assert s.priv_leak(1.0, 0.4) == pytest.approx(-100)
    muse = [1 - area for area in (0.7, 0.52)]  # MUSE counts the other way round
    assert s.priv_leak(0.7, 0.52) == pytest.approx((muse[0] - muse[1]) / muse[1] * 100)
    assert s.priv_leak(0.2, 0.5) > 0
    assert math.isnan(s.priv_leak(0.7, 1.0))


def shadows(number=6, pairs=4, population=5):
    """Return confidences of a target and of shadow models, and who was trained on what."""
    kept = np.array([[(i + p) % 2 == 0 for p in range(pairs)] for i in range(number)])
    shadow = RNG.randn(number, pairs) * 2 + 3 * kept
    return RNG.randn(pairs), shadow, kept, RNG.randn(population), RNG.randn(number, population)


@pytest.mark.parametrize(("online", "variance"), list(itertools.product([True, False], VARIANCES)))
def test_lira_against_its_formula(online, variance):
    phi, shadow, kept, _, _ = shadows()
    found = s.lira(phi, shadow, kept, online=online, variance=variance)

    def samples(p, chosen):
        return [shadow[i, p] for i in range(len(shadow)) if kept[i, p] == chosen]

    def sd(p, chosen):
        if variance == "pooled":  # the authors' code: of all in-values, for in and out; offline of all out-values
            return np.std([value for q in range(len(phi)) for value in samples(q, online)])
        chosen_pairs = range(len(phi)) if variance == "within" else [p]
        return math.sqrt(np.mean([np.var(samples(q, chosen), ddof=1) for q in chosen_pairs]))

    for p in range(len(phi)):
        out = stats.norm(np.median(samples(p, False)), sd(p, False))
        if online:
            expected = stats.norm(np.median(samples(p, True)), sd(p, True)).logpdf(phi[p]) - out.logpdf(phi[p])
            assert found[p] == pytest.approx(expected, rel=1e-12)
        else:
            assert stats.norm.cdf(found[p]) == pytest.approx(out.cdf(phi[p]), rel=1e-9)  # the paper's one-sided test


@pytest.mark.parametrize(("a", "gamma"), [(0.0, 1.0), (0.3, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize("population", ["upper", "all"])
def test_rmia_against_its_formula(a, gamma, population):
    phi, shadow, kept, phi_z, shadow_z = shadows(population=40)
    averaged = {"upper": 3, "all": 6}[population]  # of six shadow models

    def p(confidence):
        return 1 / (1 + math.exp(-confidence))

    def ratio(target, outside):
        return p(target) / (0.5 * ((1 + a) * np.mean([p(value) for value in outside]) + (1 - a)))

    of_z = [ratio(phi_z[z], sorted(shadow_z[:, z], reverse=True)[:averaged]) for z in range(len(phi_z))]
    expected = []
    for x in range(len(phi)):
        of_x = ratio(phi[x], [shadow[i, x] for i in range(len(shadow)) if not kept[i, x]])
        expected.append(np.mean([of_x / other > gamma for other in of_z]))
    found = s.rmia(phi, shadow, kept, phi_z, shadow_z, a=a, gamma=gamma, population=population)
    assert found == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_two_shadow_models_have_a_pooled_variance_and_no_other():
    phi, shadow, kept, _, _ = shadows(number=2)
    known = {variance: np.isfinite(s.lira(phi, shadow, kept, variance=variance)) for variance in VARIANCES}
    assert {variance: found.all() for variance, found in known.items()} == {
        "pair": False, "pooled": True, "within": False,
    }  # fmt: skip


def test_scores_are_unknown_without_a_shadow_model_on_the_side_they_need():
    phi, shadow, kept, phi_z, shadow_z = shadows()
    kept[:, 0], kept[:, 1] = True, False
    for variance in VARIANCES:
        for online in (True, False):
            found = s.lira(phi, shadow, kept, online=online, variance=variance)
            assert np.isnan(found).tolist() == [True, online, False, False]
    assert np.isnan(s.rmia(phi, shadow, kept, phi_z, shadow_z)).tolist() == [True, False, False, False]
    assert np.isnan(s.lira(phi, shadow, np.zeros_like(kept), variance="pooled")).all()  # nothing to pool


def test_memorization_by_hand():
    kept = np.array([[1, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [0, 1, 1, 0]], bool)
    correct = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0]], bool)
    found = s.memorization(correct, kept)
    assert found[[0, 1, 3]].tolist() == [1.0, 0.5, 0.0]
    assert math.isnan(found[2])  # no model without it


@pytest.fixture(scope="module")
def data():
    return MemorisationData(Digits(), Symmetric(seed=3))


def test_labels_from_elsewhere_are_drawn_as_the_noisy_examples_have_them():
    data = MemorisationData(Digits(), PairFlip(rate=0.3))
    data.manifest = dataclasses.replace(data.manifest, kind="file")
    wrong = wrong_validation(data)
    assert torch.equal(wrong.given_label, (wrong.true_label + 1) % 10)
    assert len(wrong) == len(data.validation_examples)


def test_confidence_is_the_log_odds_of_the_given_label(data):
    model = create(TINY.timm_arguments((1, 8, 8), 10), seed=0).eval()
    pairs = make_pairs(data)
    phi, correct = confidences(model, data, pairs.candidates)
    batch = next(iter(data.loader(pairs.candidates, 200)))
    with torch.no_grad():
        p = model(batch.image).double().softmax(1).gather(1, batch.given_label[:, None])[:, 0].numpy()
        said = model(batch.image).argmax(1)
    assert phi == pytest.approx(np.log(p / (1 - p)), abs=1e-5)
    assert correct.tolist() == (said == batch.given_label).tolist()


def attacked(data, folder, subject="base", options=None, recipe=True):
    """Return the result of the attack on a model of the references 0 (base) and 1 (retrain)."""
    made = {
        name: create(TINY.timm_arguments((1, 8, 8), 10), seed=k).eval() for k, name in enumerate(("base", "retrain"))
    }
    before = {name: value.clone() for name, value in made[subject].state_dict().items()}
    found = Membership(**(options or {})).apply(
        made[subject],
        AttackData(data, subject, made.get, folder, recipe=recipe_of(CONFIG, data) if recipe else None),
        keyed_generator(0),
    )
    assert all(torch.equal(value, before[name]) for name, value in made[subject].state_dict().items())
    return found


@pytest.mark.slow
def test_shadow_models_are_trained_once_and_shared(data, folder, monkeypatch):
    alone = attacked(data, folder)
    assert [row["score"] for row in alone.rows] == ["loss"]
    first = attacked(data, folder, options={"shadows": 2})
    names = ["loss", "lira", "lira_offline", "lira_fixed", "lira_offline_fixed", "rmia"]
    assert [row["score"] for row in first.rows] == names
    (cache,) = folder.glob("shadows-*")
    assert sorted(p.name for p in cache.iterdir()) == ["memorization.npz", "shadow0000.npz", "shadow0001.npz"]
    # one model with and one without each pair: no variance for each
    assert "0 members" in first.report["undefined"]["lira.auc"]
    assert not any(math.isnan(row["auc"]) for row in first.rows[3:])
    within = attacked(data, folder, options={"shadows": 2, "fixed": "within", "rmia_population": "all"})
    assert "0 members" in within.report["undefined"]["lira_fixed.auc"]
    assert within.rows[-1]["auc"] != first.rows[-1]["auc"]
    monkeypatch.setattr("vitmem.training.fit.fit", lambda *a, **k: pytest.fail("trained again"))
    assert attacked(data, folder).rows == alone.rows  # whatever is there
    again = attacked(data, folder, subject="retrain", options={"shadows": 2})
    assert [row["score"] for row in again.rows] == names
    assert again.report["num_shadows"] == 2
    assert [row["priv_leak"] for row in again.rows if row["score"] in ("loss", "rmia")] == [0.0, 0.0]
    shadow = Shadow.load(cache / "shadow0000.npz")
    pairs = make_pairs(data)
    assert shadow.kept.shape == (pairs.pool_size,)
    assert shadow.phi.shape == shadow.correct.shape == (pairs.pool_size + len(pairs.population),)
    with np.load(cache / "memorization.npz") as kept:
        assert len(kept["memorization"]) == pairs.pool_size
    with np.load(folder / "membership" / "base.npz") as kept:
        members = kept["loss"][kept["split"] == 0]
        assert s.auc(members, kept["loss"][kept["split"] == 1]) == pytest.approx(alone.rows[0]["auc"], abs=1e-4)


def test_scores_of_shadow_models_belong_to_the_right_pairs(data, tmp_path):
    """Shadow models are 4 surer of pairs that they saw; the model is so of some pairs, and LiRA must tell which."""
    pairs = make_pairs(data)
    model = create(TINY.timm_arguments((1, 8, 8), 10), seed=0).eval()
    phi_Q = np.concatenate([confidences(model, data, p)[0] for p in (pairs.train, pairs.candidates, pairs.population)])
    seen_Q = np.random.RandomState(3).rand(len(phi_Q)) < 0.5
    cache = ShadowCache(data, pairs, recipe_of(CONFIG, data), tmp_path, seed=0)
    cache.folder.mkdir()
    for number in range(6):
        kept = cache.kept(number).numpy()
        noise = np.random.RandomState(number).normal(size=len(phi_Q))
        phi = phi_Q - 4.0 * seen_Q + 0.1 * noise
        phi[: len(kept)] += 4.0 * kept
        Shadow(kept, phi.astype(np.float32), phi > 0).save(cache.path(number))
    attack = AttackData(data, "base", lambda name: None, tmp_path)
    found = Membership(shadows=6).scores(model, attack, pairs, cache.get(6))
    members, nonmembers = found["lira_fixed"]
    assert ((members > 0) == seen_Q[: len(pairs.train)][pairs.train.is_noisy.numpy()]).all()
    assert ((nonmembers > 0) == seen_Q[len(pairs.train) : pairs.pool_size]).all()


def test_planted_memory_is_found():
    row = audit(np.arange(200.0) + 1000, np.arange(200.0), 0.5)
    assert (row["auc"], row["tpr_at_fpr_0.01"], row["balanced_accuracy"], row["priv_leak"]) == (1.0, 1.0, 1.0, -100)
    assert math.isnan(row["tpr_at_fpr_0.001"])


def test_undefined_values_come_with_a_reason(folder):
    found = attacked(MemorisationData(Digits(), Symmetric(rate=0.0)), folder / "none")
    assert math.isnan(found.rows[0]["auc"])
    assert "0 members" in found.report["undefined"]["loss.auc"]
    few = attacked(MemorisationData(Digits(), Symmetric(rate=0.01)), folder / "few")
    assert few.report["undefined"]["loss.tpr_at_fpr_0.01"] == "needs at least 100 non-members; there are 13"
    assert not math.isnan(few.rows[0]["auc"])


def test_options_and_registry(data, tmp_path):
    assert attacks()["membership"] is Membership
    for options, message in (
        ({"shadows": 1}, "shadows is 1"),
        ({"rmia_a": 2.0}, "rmia_a is 2.0"),
        ({"fixed": "global"}, "fixed is 'global'; choose pooled or within"),
        ({"rmia_population": "half"}, "rmia_population is 'half'; choose upper or all"),
    ):
        with pytest.raises(ValueError, match=message):
            Membership(**options)
    with pytest.raises(ValueError, match="it is not known how this model was trained.*; set shadows to 0"):
        attacked(data, tmp_path, options={"shadows": 2}, recipe=False)
