"""Fixtures: a finished experiment with hostile names, its report, and a browser."""

import shutil

import pytest
import reported
from report_browser import LACKS, Page

from vitmem.cli import main


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """The folder of the experiment, two seeds with analyses; do not change it."""
    return reported.hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def report(hostile):
    """The report of the experiment."""
    assert main(["report", str(hostile), f"--out={hostile.parent / 'report.html'}"]) == 0
    return hostile.parent / "report.html"


@pytest.fixture
def copied(hostile, tmp_path):
    """A copy of the experiment that a test may damage."""
    return shutil.copytree(hostile, tmp_path / "hostile")


@pytest.fixture(scope="session")
def browser():
    """Chromium; what needs it is skipped where it is not there."""
    if LACKS:
        pytest.skip(f"no browser: there is no {', no '.join(LACKS)}")
    page = Page()
    yield page
    page.close()


@pytest.fixture
def page(browser, report):
    """The report, opened anew; at the end it has complained of nothing, and asked nothing of a network."""
    browser.resize(1280)
    browser.open(report)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.run("return window.hacked") is None
