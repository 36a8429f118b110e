from types import SimpleNamespace

import pytest

from vitmem import registry
from vitmem.registry import lookup, registered


@pytest.fixture
def installed(monkeypatch):
    """Install entry points for the test."""

    def broken():
        raise ImportError("no module named 'gone'")

    package = SimpleNamespace(name="their-package")
    points = {
        "works": SimpleNamespace(name="works", value="theirs:Works", dist=package, load=lambda: int),
        "broken": SimpleNamespace(name="broken", value="theirs:Broken", dist=package, load=broken),
    }

    def install(*names):
        registry._plugins.cache_clear()
        monkeypatch.setattr(registry, "entry_points", lambda group: [points[name] for name in names])

    yield install
    registry._plugins.cache_clear()


def test_installed_entries_join(installed):
    installed("works")
    assert registered("group", {"ours": str}) == {"ours": str, "works": int}


def test_a_broken_entry_is_named_once_left_out_and_an_error_where_it_is_asked_for(installed, capsys):
    installed("works", "broken")
    for _ in range(2):
        entries = registered("group", {"ours": str})
        assert set(entries) == {"ours", "works"}
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "broken = theirs:Broken of their-package cannot be loaded (ImportError: no module named 'gone')" in told
    with pytest.raises(ValueError, match=r"the edit 'broken' cannot be used: .*their-package.*no module named 'gone'"):
        lookup("edit", "broken", entries)


def test_names_that_are_taken_or_unknown(installed):
    installed("works")
    with pytest.raises(ValueError, match="already registered"):
        registered("group", {"works": str})
    with pytest.raises(ValueError, match="unknown edit 'nothing'; registered are: ours, works"):
        lookup("edit", "nothing", registered("group", {"ours": str}))
