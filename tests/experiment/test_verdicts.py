"""The page of all verdicts is what its command makes, and what pages name is there."""

import importlib
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2] / "experiments"
PAGES = sorted(HERE.glob("replicate_*.md"))


@pytest.fixture
def verdicts(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("verdicts")


def test_the_committed_page_is_what_the_command_makes(verdicts):
    assert (HERE / "verdicts.md").read_text() == verdicts.page(HERE)


@pytest.mark.parametrize("page", [*PAGES, HERE / "leaderboard.md", HERE / "verdicts.md"], ids=lambda page: page.name)
def test_links_lead_to_committed_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert links
    assert [link for link in links if "://" not in link and not (HERE / link).exists()] == []


def test_every_number_says_where_it_is_from(verdicts):
    for page in PAGES:
        _, *body = verdicts.last_table(page.read_text())
        lacking = [line[0] for line in body if "](" not in line[-2] and "as above" not in line[-2]]
        assert lacking == [line[0] for line in body if line[-1].startswith("not testable here") and not line[-2]]


def test_all_21_questions_are_there(verdicts):
    _, *body = verdicts.last_table((HERE / "replicate_questions.md").read_text())
    assert [int(line[0].split(".")[0]) for line in body] == list(range(1, 22))
    assert all(re.search(r"\d", line[1]) for line in body)


def test_a_page_has_to_end_in_verdicts(verdicts, tmp_path):
    good = "# A\n\n| claim | measured | from | verdict |\n|---|---|---|---|\n| c | 1 | f | mixed: yes |\n"
    (tmp_path / "replicate_a.md").write_text(good)
    made = verdicts.page(tmp_path)
    assert (
        "## [A](replicate_a.md)\n\n| claim | measured | verdict |\n| --- | --- | --- |\n| c | 1 | mixed: yes |" in made
    )
    assert "mixed 1" in made
    (tmp_path / "replicate_b.md").write_text(good.replace("mixed", "perhaps"))
    with pytest.raises(ValueError, match="is no verdict"):
        verdicts.page(tmp_path)
    (tmp_path / "replicate_b.md").write_text(good + "\nAnd so on.\n")
    with pytest.raises(ValueError, match="does not end in a table"):
        verdicts.page(tmp_path)
