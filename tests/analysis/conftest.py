"""Fixtures of the tests in this folder: a tiny model that fits the labels of random images."""

import pytest
import torch
from attacked import Random
from cases import vit
from torch.nn import functional as F

from vitmem.analysis.contract import AnalysisData, MadeEdit
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing.data import EditData
from vitmem.evaluation.predict import predict

EVERYTHING = frozenset({"unlabeled", "given", "retain", "forget", "validation", "initial"})


@pytest.fixture(scope="session")
def data():
    return MemorisationData(Random(), Symmetric(rate=0.5))


@pytest.fixture(scope="session")
def model(data):
    """Fit all given labels, so that there are memorised and clean examples."""
    found = vit(dtype=torch.float32)
    (batch,) = data.loader(data.train_examples, 40)
    optimiser = torch.optim.Adam(found.parameters(), 1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        F.cross_entropy(found(batch.image), batch.given_label, label_smoothing=0.1).backward()
        optimiser.step()
    found.zero_grad()
    return found.eval().requires_grad_(True)


@pytest.fixture(scope="session")
def start():
    return vit(dtype=torch.float32).state_dict()


@pytest.fixture
def known(data, model, start):
    """What an analysis may look at: the model is its own base, with two strengths of an edit, and no retrain."""
    table = predict(model, data.evaluation_loaders())
    halved = vit(dtype=torch.float32).eval()
    halved.load_state_dict({name: value / 2 for name, value in model.state_dict().items()})
    tables = {"base": table, "scale-factor0.5": predict(halved, data.evaluation_loaders()), "scale-factor1": table}
    return AnalysisData(
        data=data,
        subject="base",
        seed=3,
        seen=EditData(data, EVERYTHING, initial=lambda: start),
        reference=lambda of: {"base": model, "scale-factor0.5": halved}.get(of),
        table=tables.get,
        edits=lambda: {f"scale-factor{k:g}": MadeEdit("scale", "factor", k) for k in (0.5, 1.0)},
        losses=lambda: torch.arange(200.0).view(5, 40),
        epochs=dict,
        seeds=dict,
    )
