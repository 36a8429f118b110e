"""Every edit and every attack on every family of models, as the table in experiments/README.md says."""

import re
from pathlib import Path

import pytest
from compatibility import WORKS, table, tried
from families import FAMILIES

README = (Path(__file__).parents[2] / "experiments" / "README.md").read_text()


def said(name: str) -> dict[str, str]:
    """Return for each method what the table says of a family."""
    head, *rows = re.search(r"(?m)^\| \| timm vit \|.*\n(?:\|.*\n)+", README)[0].strip().splitlines()
    column = [cell.strip() for cell in head.split("|")].index(name)
    reasons = dict(re.findall(r"(?m)^(\d+)\. (.*)\.$", README[README.index(rows[-1]) :]))
    found = {}
    for row in rows[1:]:
        cells = [cell.strip() for cell in row.split("|")]
        number = re.fullmatch(r"no \[(\d+)\]", cells[column])
        found |= dict.fromkeys(cells[1].split(", "), reasons[number[1]] if number else cells[column])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_table_says_what_works(name):
    assert tried(name) == said(name)


def test_the_table_is_read_as_it_is_written():
    outcomes = {"a": {"`x`": WORKS, "`y`": "it needs more"}, "b": {"`x`": WORKS, "`y`": WORKS}}
    assert table(outcomes).splitlines() == [
        "| | a | b |", "|---|---|---|", "| `x` | yes | yes |", "| `y` | no [1] | yes |", "", "1. it needs more.",
    ]  # fmt: skip
