"""Fixtures of the tests in this folder."""

import pytest
import torch
from attacked import Random, halved
from cases import vit

from vitmem.attacks.contract import AttackData
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric


@pytest.fixture(scope="module")
def data():
    return MemorisationData(Random(), Symmetric(rate=0.5))


@pytest.fixture
def model():
    return vit(dtype=torch.float32).eval()


@pytest.fixture
def known(data, model, tmp_path):
    """What an attack may use: the attacked model is its own base, and there is no retrain."""
    return AttackData(data, "edit", lambda name: model if name == "base" else None, tmp_path, again=halved)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("attacks")
