"""Tables as text: an independent reader gets back what was put in, whatever characters it has."""

import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitmem.evaluation.typeset import Number, Table, decimals, escaped, number

COMMANDS = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"\_": "_", r"\%": "%", r"\&": "&", r"\#": "#", r"\$": "$", r"\{": "{",
    r"\}": "}", "{[}": "[", "{*}": "*",
}  # fmt: skip
TOKENS = re.compile("|".join(map(re.escape, sorted(COMMANDS, key=len, reverse=True))) + "|.")
WORDS = st.text(alphabet="ab _%&#${}~^\\<>|[]*-", max_size=12)


def read(latex):
    """Return what LaTeX shows; a special character that is no part of a known command fails."""
    shown = ""
    for token in TOKENS.findall(latex):
        assert token in COMMANDS or token not in "_%&#${}~^\\<>|", latex
        shown += COMMANDS.get(token, token)
    return shown


@given(WORDS)
def test_latex_shows_every_character(text):
    found = escaped(text, "latex")
    assert read(found) == " ".join(text.split())
    assert not found.startswith(("[", "*"))  # behind \\ they would be its options


@given(WORDS)
def test_markdown_has_no_markup_of_ours(text):
    found = escaped(text, "markdown")
    assert re.sub(r"\\([\\`*_<>|\[\]$])", r"\1", found) == " ".join(text.split())
    assert not re.search(r"(?<!\\)(?:\\\\)*[|<_*$]", found)


TABLE = Table(
    ["id", "accuracy", "passes"],
    ["", "accuracy (n=5)", "passes"],
    [
        ["a_b | 100 %", Number(0.5, 0.25, seeds=3), Number(10.0)],
        ["c", Number(0.123456, 0.001, seeds=2), Number(math.nan)],
        ["d", Number(1.0, seeds=1), Number(2.5)],
    ],
    ["mean ± sd over 3 seeds", "100 %\nof it"],
    3,
)
LATEX = r"""
% vitmem table 'a b'
% needs \usepackage{booktabs}
% mean ± sd over 3 seeds
% 100 % of it
\begin{tabular}{lrr}
  \toprule
                            &          accuracy (n=5) &  passes \\
  \midrule
  a\_b \textbar{} 100 \%    &       $0.500 \pm 0.250$ & $10.00$ \\
  c                         & $0.123 \pm 0.001$ (2)   &      -- \\
  d                         &             $1.000$ (1) &  $2.50$ \\
  \bottomrule
\end{tabular}
"""
MARKDOWN = r"""
<!-- vitmem table 'a b' -->

|                | accuracy (n=5)    | passes |
| ------------- | ----------------: | -----: |
| a\_b \| 100 %  | 0.500 ± 0.250     | 10.00  |
| c              | 0.123 ± 0.001 (2) | -      |
| d              | 1.000 (1)         | 2.50   |

mean ± sd over 3 seeds
100 % of it
"""


def parts(text):
    """Return the words of each line."""
    return [line.split() for line in text.strip().splitlines()]


def test_latex_and_markdown_of_a_table():
    command = "vitmem table\n 'a b'"
    assert parts(TABLE.typeset("latex", command)) == parts(LATEX)
    found = TABLE.typeset("markdown", command)
    assert parts(found) == parts(MARKDOWN)
    body = [line for line in found.splitlines() if line.startswith("|")]
    assert len({len(line) for line in body}) == 1
    assert len({line.rindex("|", 0, -1) for line in body}) == 1  # columns stand below each other
    assert body[2].split("|")[-2].endswith("10.00 ")


def test_csv_of_a_table_has_numbers_as_they_are():
    rows = list(csv.reader(io.StringIO(TABLE.typeset("csv", "x"))))
    assert rows[0] == ["id", "accuracy", "accuracy_sd", "accuracy_seeds", "passes"]
    assert rows[1:3] == [["a_b | 100 %", "0.5", "0.25", "3", "10.0"], ["c", "0.123456", "0.001", "2", ""]]


def test_a_comment_ends_where_it_should():
    assert "-->" not in TABLE.typeset("markdown", "x --> y").splitlines()[0][:-3]
    assert TABLE.typeset("latex", "x\n\\input{y}").splitlines()[0] == r"% x \input{y}"


@pytest.mark.parametrize(
    ("values", "places"),
    [([0.5, 0.25], 3), ([0.0], 3), ([3.0, 1000.0], 0), ([12.5, 1.0], 2), ([1234.5], 0), ([0.0003, 0.5], 3),
     ([0.0003], 6), ([], 0), ([math.nan, 0.02], 3), ([1.04], 3)],
)  # fmt: skip
def test_all_numbers_of_a_column_have_as_many_decimals(values, places):
    assert decimals(map(Number, values)) == places


def test_a_number_of_one_seed_has_its_interval():
    found = Number(0.5, low=0.25, high=0.75)
    assert number(found, 2, "csv") == "0.50 [0.25, 0.75]"
    assert number(found, 2, "markdown") == "0.50 [0.25, 0.75]"
    assert number(found, 2, "latex") == r"$0.50\ [0.25,\,0.75]$"
    assert number(Number(math.nan), 2, "latex") == "--"
