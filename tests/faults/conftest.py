"""Fixture: a finished experiment, of which every case has a copy."""

import shutil

import pytest
from faults.outcomes import EXPERIMENT, TUNED, outcome

FILE = """
name: tiny
model: {width: 16, depth: 2, heads: 2, patch: 4}
train: {epochs: 2, batch_size: 400, warmup_epochs: 1}
references: [retrain]
figures: false
report: false
"""
EDITS = """
edits:
  - {name: kfac, rho: 0.9, examples: 200}
  - {name: svd, keep: 0.5}
attacks:
  - {name: quantize, bits: [4], groups: [32]}
  - {name: membership, shadows: 2}
attacked: kfac*
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The folder of a finished experiment, with attacks, shadow models, curvature and trials of tuning."""
    folder = tmp_path_factory.mktemp("built")
    (folder / EXPERIMENT).write_text(FILE + EDITS)
    (folder / TUNED).write_text(FILE + "edits: [{name: scale}]\ntune: 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for file in (EXPERIMENT, TUNED):
            code, _, err = outcome(["run", file], limit=600)
            assert code == 0, err
    return folder


@pytest.fixture
def scene(built, tmp_path, monkeypatch):
    """A copy of the finished experiment, in which the command runs."""
    folder = shutil.copytree(built, tmp_path / "scene")
    monkeypatch.chdir(folder)
    return folder
