"""An experiment file of a few seconds."""

import pytest

FILE = """
name: small
model: {width: 16, depth: 2, heads: 2, patch: 4}
train: {epochs: 1, batch_size: 400, warmup_epochs: 0}
edits:
  - {name: kfac, rho: [0.5, 0.9]}
  - {name: svd, keep: 0.5}
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path
