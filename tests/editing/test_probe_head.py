"""The probe in the classifier's place, against scikit-learn's logistic regression on timm's own features."""

import numpy as np
import pytest
import torch
from cases import vit
from edited import DATA
from torch import nn

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.contract import TRACKS
from vitmem.editing.data import EditData
from vitmem.editing.probe_head import ProbeHead, logistic_head
from vitmem.models.build import with_weights

EXAMPLES = DATA.train_examples
EVERYTHING = 10**6
MODELS = {pool: vit(pool, classes=10, dtype=torch.float32).eval() for pool in ("token", "avg")}


def apply(edit, pool="token", seed=0):
    return edit.apply(MODELS[pool], EditData(DATA, edit.sees), keyed_generator(seed)).state_dict


@torch.no_grad()
def features(model, examples):
    """Return what the head reads, by timm's own call."""
    image = torch.cat([batch.image for batch in DATA.loader(examples)])
    return model.forward_head(model.forward_features(image), pre_logits=True).double().numpy()


@pytest.mark.parametrize("pool", MODELS)
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_the_model_says_what_scikit_learn_says(pool, c):
    from sklearn.linear_model import LogisticRegression

    model = MODELS[pool]
    oracle = LogisticRegression(C=c, tol=1e-10, max_iter=1000, solver="newton-cg")
    oracle.fit(features(model, EXAMPLES), EXAMPLES.given_label.numpy())
    expected = oracle.predict_proba(features(model, DATA.validation_examples))
    edited = with_weights(model, apply(ProbeHead(c=c, examples=EVERYTHING), pool))
    with torch.no_grad():
        logits = torch.cat([edited(batch.image) for batch in DATA.loader(DATA.validation_examples)])
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-3)
    assert np.ptp(expected) > 0.1  # the oracle itself is not flat


def test_only_the_head_is_fitted_and_the_share_that_stays_is_on_the_line():
    before, probe = MODELS["token"].state_dict(), apply(ProbeHead(examples=300))
    assert {n for n, value in before.items() if not torch.equal(probe[n], value)} == {"head.weight", "head.bias"}
    mixed = apply(ProbeHead(examples=300, keep=0.25))
    for name in ("head.weight", "head.bias"):
        assert torch.allclose(mixed[name], 0.25 * before[name] + 0.75 * probe[name], atol=1e-5)
    same = apply(ProbeHead(examples=300, keep=1.0))
    assert all(torch.equal(same[name], value) for name, value in before.items())


def test_batches_do_not_matter_and_the_draw_does():
    one, two = (apply(ProbeHead(examples=300, batch_size=size))["head.weight"] for size in (300, 77))
    assert torch.allclose(one, two, atol=1e-3)
    assert not torch.allclose(one, apply(ProbeHead(examples=300), seed=1)["head.weight"], atol=1e-2)


def test_a_class_without_examples_is_not_said():
    x = torch.randn(40, 3, generator=keyed_generator(0), dtype=torch.float64)
    head = logistic_head(x + 5, (x[:, 0] > 0).long(), 1.0, 4)
    assert all(torch.isfinite(value).all() for value in head.values())
    assert ((x + 5) @ head["weight"].T + head["bias"]).softmax(1)[:, 2:].max() < 1e-3


def test_it_sees_given_labels_and_no_others():
    edit = ProbeHead(examples=30)
    data = EditData(DATA, edit.sees)
    edit.apply(MODELS["token"], data, keyed_generator(0))
    assert (edit.track, data.served) == (TRACKS[0], 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProbeHead(keep=1.5), "keep is 1.5"),
        (lambda: ProbeHead(c=0.0), "c is 0.0; it must be positive"),
        (lambda: ProbeHead(examples=0), "examples is 0"),
        (lambda: ProbeHead().check(nn.Linear(2, 2)), "has no linear layer"),
        (
            lambda: ProbeHead().check(nn.ModuleDict({"head": nn.Linear(2, 2, bias=False)})),
            "head is Linear.*with a bias",
        ),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
