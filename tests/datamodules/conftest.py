"""Fixtures of the tests in this folder."""

import urllib.error

import pytest
from photographs import make_folder

from vitmem.datamodules import (
    images,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An image folder, and how many splits were decoded."""
    make_folder(tmp_path / "data")
    count = []
    decode = images.decode
    monkeypatch.setattr("vitmem.datamodules.folder.decode", lambda *args: count.append(1) or decode(*args))
    return tmp_path / "data", count


@pytest.fixture
def offline_world(monkeypatch):
    """No test reaches the network."""

    def unreachable(*args, **options):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
