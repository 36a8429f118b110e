"""The page in Chromium: the explorers, the keyboard, colours and widths. Skipped where there is no browser."""

import importlib.metadata

import numpy as np
import pytest
from reported import CLASSES, counts

from vitmem.evaluation.proportions import mcnemar
from vitmem.report import tables
from vitmem.runs.evaluate import examples

pytestmark = pytest.mark.browser
TAB = "\ue004"  # WebDriver's codes of keys
LEFT, RIGHT, ENTER, ESCAPE = "\ue012", "\ue014", "\ue007", "\ue00c"
SHOWN = "return document.querySelectorAll('#flips-tiles .tile.' + arguments[0]).length"


@pytest.fixture(scope="module")
def rows(hostile):
    """Rows of the table of results by seed and id."""
    return {(row["seed"], row["id"]): row for row in tables.read_rows(hostile / "results.csv")}


def said_of(row):
    n = row["memorized_accuracy_n"]
    found = {
        name: round(row[f"{metric}_accuracy"] * n)
        for name, metric in {"memorized": "memorized", "ground truth": "ground_truth", "other": "other"}.items()
    }
    return found | {"n": n, "validation": float(f"{row['validation_accuracy']:.3f}")}


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_at_every_strength_are_those_of_the_table(page, rows, seed):
    page.choose("flips-seed", seed)
    for number, family in enumerate(page.run("return data.families")):
        page.choose("flips-family", number)
        for strength, name in enumerate(["base", *family["ids"]]):
            page.choose("flips-strength", strength)
            told = said_of(rows[seed, name])
            assert counts(page.text("flips-counts")) == told
            tiles = [page.run(SHOWN, kind) for kind in ("memorized", "truth", "other")]  # all noisy images are shown
            assert tiles == [told["memorized"], told["ground truth"], told["other"]]
            pressed = page.run(
                "return document.querySelector('#flips-plot [aria-pressed=true]').getAttribute('aria-label')"
            )
            assert pressed.startswith(f"{name}: memorized {told['memorized'] / told['n']:.3f}, validation ")
    assert page.run("return document.getElementById('flips-counts').getAttribute('aria-live')") == "polite"


def test_tiles_are_the_answers_that_were_measured(page, hostile):
    page.choose("flips-strength", 3)
    name = page.run("return data.families[0].ids[2]")
    table = examples(hostile / "seed0", name)
    names = sorted(CLASSES)
    wanted = [
        f"given {names[g]}|true {names[t]}|says {names[p]}"
        for g, t, p in zip(
            *(column[table.is_noisy] for column in (table.given, table.true, table.prediction)), strict=True
        )
    ]
    lines = "[...tile.children].slice(1).map(line => line.textContent).join('|')"
    tiles = page.run(f"return [...document.querySelectorAll('#flips-tiles .tile')].map(tile => {lines})")
    assert sorted(tiles) == sorted(wanted)
    assert page.run("return document.querySelector('#flips-tiles .tile').title").endswith(".png")


def test_filters_count_the_images_that_are_shown(page):
    page.choose("flips-strength", 2)
    everything = page.run("return document.querySelectorAll('#flips-tiles .tile').length")
    kind = "memorized" if page.run(SHOWN, "memorized") else "truth"
    given = page.run("return data.seeds[0].given[data.seeds[0].asked[arguments[0]]]", 0)
    page.choose("flips-given", given)
    assert 0 < page.run("return document.querySelectorAll('#flips-tiles .tile').length") < everything
    page.choose("flips-outcome", kind)
    left = page.run("return document.querySelectorAll('#flips-tiles .tile').length")
    assert left == page.run(SHOWN, kind) < everything
    assert page.text("flips-shown").startswith(f"{left} of the {everything} images shown here match the filters")
    assert "the counts above are of all" in page.text("flips-shown")
    page.choose("flips-outcome", "changed")
    page.choose("flips-strength", 0)
    assert page.run("return document.querySelectorAll('#flips-tiles .tile').length") == 0


def test_a_point_of_the_frontier_moves_the_slider(page):
    page.run(
        "document.querySelectorAll('#flips-plot .point')[2].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    at = "return Number(document.getElementById('flips-strength').value)"
    moved = page.run(at)
    assert moved > 0
    page.run("document.querySelector('#flips-plot [aria-pressed=true]').focus()")
    page.press(LEFT)
    assert page.run(at) == moved - 1
    page.press(RIGHT, RIGHT)
    assert page.run(at) == min(moved + 1, 3)
    page.choose("flips-metric", "truth")
    assert "ground truth" in page.run("return document.querySelector('#flips-plot [aria-pressed=true]').textContent")
    assert page.run(at) == min(moved + 1, 3)


def test_a_comparison_is_an_exact_paired_test(page, hostile):
    pytest.importorskip("scipy")
    for seed, first, second in ((0, "base", "scale-factor0.4"), (1, "rewind-keep0.5", "retrain")):
        page.choose("compare-seed", seed)
        page.choose("compare-first", first)
        page.choose("compare-second", second)
        path = hostile / f"seed{seed}"
        one, other = (
            examples(*((path.with_name(f"seed{seed}-retrain"), "base") if name == "retrain" else (path, name)))
            for name in (first, second)
        )
        noisy = one.is_noisy
        for measure, change in {
            "truth": lambda t: t.prediction == t.true,
            "gone": lambda t: t.prediction != t.given,
        }.items():
            page.choose("compare-measure", measure)
            a, b = change(one)[noisy], change(other)[noisy]
            cells = page.run("return [...document.querySelectorAll('#compare-table td')].map(c => c.textContent)")[1:]
            assert [int(cell) for cell in cells] == [
                *((a & b).sum(), (a & ~b).sum(), a.sum()), *((~a & b).sum(), (~a & ~b).sum(), (~a).sum())
            ]  # fmt: skip
            assert float(page.text("compare-result").rpartition("p = ")[2]) == pytest.approx(mcnemar(a, b), abs=6e-5)
            for group, chosen in {"first": a & ~b, "second": b & ~a, "both": a & b, "neither": ~a & ~b}.items():
                page.choose("compare-group", group)
                assert page.run("return document.querySelectorAll('#compare-tiles .tile').length") == chosen.sum()


def test_the_paired_test_is_that_of_python(page):
    for only_first, only_second in ((0, 0), (0, 1), (3, 3), (1, 9), (17, 40), (400, 523), (2500, 2600), (0, 3000)):
        pairs = np.zeros((2, 6000), bool)
        pairs[0, :only_first] = pairs[1, only_first : only_first + only_second] = True
        found = page.run("return mcnemar(arguments[0], arguments[1])", only_first, only_second)
        assert found == pytest.approx(mcnemar(*pairs), rel=1e-9, abs=1e-300)


def test_the_training_set_is_browsed_in_the_order_of_a_score(page, hostile):
    page.choose("browse-score", "detection: input_curvature")
    tiles = "return [...document.querySelectorAll('#browse-tiles .thumb')].map(t => t.getAttribute('aria-label'))"
    assert page.run(tiles)[:2] == ["training image 119", "training image 118"]
    page.choose("browse-order", "-1")
    assert page.run(tiles)[0] == "training image 0"
    page.choose("browse-score", "loss")
    page.choose("browse-order", "1")
    table = examples(hostile / "seed0")
    loss = {int(i): -p for i, p, s in zip(table.index, table.log_prob_given, table.split, strict=True) if s == 0}
    assert page.run(tiles)[0] == f"training image {max(loss, key=loss.get)}"
    page.choose("browse-which", "noisy")
    assert len(page.run(tiles)) == table.is_noisy.sum()


def test_the_keyboard_reaches_and_moves_everything(page):
    wanted = page.run(
        "return [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex=\"0\"]')]"
        ".filter(e => !e.disabled && e.checkVisibility()).length"
    )
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen = page.run("window.seen = new Set(); return 0")
    for _ in range(wanted + 5):
        page.press(TAB)
        seen = page.run(
            "const at = document.activeElement; if (at !== document.body) window.seen.add(at);"
            "window.plain ||= at !== document.body && !at.matches(':focus-visible'); return window.seen.size"
        )
    assert seen == wanted
    assert page.run("return window.plain") is False  # the focus is always to be seen
    page.run("document.getElementById('flips-strength').focus()")
    page.press(RIGHT, RIGHT)
    assert page.run("return document.getElementById('flips-strength').getAttribute('aria-valuetext')").startswith(
        "factor "
    )


def test_terms_are_explained_on_focus_and_on_hover(page):
    hidden = "return document.getElementById('tooltip').hidden"
    page.run("document.querySelector('#results .term').focus()")
    assert page.run(hidden) is False
    assert page.text("tooltip") == "share of the noisy examples for which the model's answer is the given, wrong label"
    page.press(ESCAPE)
    assert page.run(hidden) is True
    page.run("document.querySelectorAll('.term')[1].dispatchEvent(new MouseEvent('mouseenter'))")
    assert page.run(hidden) is False


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_no_width_scrolls_sideways_and_an_audit_finds_nothing_serious(page, width, dark):
    page.resize(width, dark)
    assert page.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 27)" if dark else "rgb(253, 253, 252)"
    )
    if width != 320:
        found = page.driver.execute_async_script(
            audit() + ";axe.run({exclude: ['.tile:nth-child(n+9)', '.glossary > :nth-child(n+5)']},"
            "{resultTypes: ['violations']}).then(arguments[arguments.length - 1])"
        )
        told = [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found["violations"]]
        assert [one for one in told if one[1] in ("serious", "critical")] == []
    page.resize(1280)


def audit():
    """Return the script of axe-core."""
    try:
        found = importlib.metadata.files("axe-core-python") or []
    except importlib.metadata.PackageNotFoundError:
        found = []
    for file in found:
        if file.name == "axe.min.js":
            return file.read_text()
    pytest.skip("axe-core is not there (pip install -e '.[test]')")
