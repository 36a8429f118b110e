import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitmem.figures.words import family, literal, read_labels, row_of, words


def row(name, edit, option="", value="", **more):
    return {"id": name, "edit": edit, "option": option, "value": value, **more}


@pytest.mark.parametrize(
    ("found", "name", "shown"),
    [
        (row("kfac-rho0.81", "kfac", "rho", 0.81), "kfac", "K-FAC, rho 0.81"),
        (row("kfac-rho0.75-draws4", "kfac", "rho", 0.75, options="draws=4"), "kfac-draws4", "K-FAC, draws 4, rho 0.75"),
        (row("kfac-rho0.8-tokensmean", "kfac", "rho", 0.8, options="rho=0.8 tokens=mean"), "kfac-tokensmean",
         "K-FAC, tokens mean, rho 0.8"),
        (row("svd-keep1e-05", "svd", "keep", 1e-05), "svd", "SVD, keep 1e-05"),
        (row("rewind_blocks-keep0.5", "rewind", "keep", 0.5, options="layers=blocks.*"), "rewind_blocks",
         "rewind blocks, keep 0.5"),
        (row("ssd-best", "ssd", "alpha", 14.476, point="best"), "ssd", "SSD, best"),
        (row("ssd-at0.2", "ssd", "alpha", 5.0, point="at0.2"), "ssd", "SSD at 0.2"),
        (row("npo-lr1", "npo", "lr", 1.0, point="default"), "npo", "NPO, lr 1"),
        (row("salun", "salun"), "salun", "SalUn"),
        (row("task_vector", "task_vector", value=math.nan), "task_vector", "task vector"),
        (row("mine", "kfac", "rho", 0.9), "mine", "mine, rho 0.9"),
        (row("base", ""), "base", "before the edit"),
    ],
)  # fmt: skip
def test_names_that_a_person_reads(found, name, shown):
    assert family(found) == name
    assert words(found) == shown


def test_labels_replace_an_id_or_a_family():
    found = row("kfac-rho0.81", "kfac", "rho", 0.81)
    assert words(found, {"kfac": "Published"}) == "Published, rho 0.81"
    assert words(found, {"kfac": "Published", "kfac-rho0.81": "Theirs"}) == "Theirs"
    assert words(row("base", ""), {"base": "Ours"}) == "Ours"


def test_what_an_id_alone_tells():
    assert words(row_of("svd-keep0.07")) == "SVD, keep 0.07"
    assert words(row_of("ekfac_polish-rho0.75")) == "EK-FAC polished, rho 0.75"
    assert words(row_of("mystery-1.2.3")) == "mystery-1.2.3"
    assert row_of("retrain")["edit"] == ""


@given(st.text(alphabet="$ab\\_{}^", max_size=8))
def test_no_text_is_taken_for_a_formula(text):
    from matplotlib.cbook import is_math_text

    assert not is_math_text(literal(text))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", "kfac: K-FAC (theirs)\nbase: 1\n"),
        ("a.csv", "id,words\nkfac,K-FAC (theirs)\nbase,1\n"),
        ("b.csv", "kfac,K-FAC  (theirs)\nbase, 1\n"),
    ],
)
def test_labels_from_a_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_labels(tmp_path / name, ["kfac", "base"]) == {"kfac": "K-FAC (theirs)", "base": "1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "kfax: x", "names 'kfax', which is none of: kfac, base"),
        ("a.yaml", "kfac: [x]", "gives .* for kfac; give words"),
        ("a.yaml", "kfac: ' '", "give words"),
        ("a.yaml", "- kfac", "holds a list"),
        ("a.csv", "kfac,x\nkfac,y", "names 'kfac' twice"),
        ("a.csv", "kfac,x,y", "a line of 3 cells, 'kfac,x,y'; give two: id,words"),
        ("b.csv", None, "there is no file"),
    ],
)
def test_labels_that_are_refused(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / name, ["kfac", "base"])
