"""Which images are shown, their thumbnails, and the orders that they are in."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vitmem.files import Damaged
from vitmem.report import analyses, pictures
from vitmem.report.answers import Answers
from vitmem.report.families import families
from vitmem.report.packed import codes
from vitmem.report.scores import found_at_budget, order, ranks


def answers(asked, seed=0):
    zeros = np.zeros(len(asked))
    return Answers(seed, None, zeros.astype(int), zeros.astype(int), asked, zeros, zeros)


def test_everything_is_shown_where_it_fits():
    asked = np.arange(1000) % 10 == 0
    shown, drawn = pictures.choose([answers(asked)], [])
    assert (shown[:drawn] == np.flatnonzero(asked)).all()
    assert (np.sort(shown) == np.arange(1000)).all()


def test_a_sample_has_asked_ones_first_and_the_first_of_every_order():
    random = np.random.default_rng(1)
    asked = random.random(50_000) < 0.1
    other = random.permutation(asked)
    orders = [random.permutation(50_000) for _ in range(3)]
    shown, drawn = pictures.choose([answers(asked), answers(asked), answers(other)], orders)
    assert len(shown) == len(set(shown)) == pictures.MOST
    assert drawn <= pictures.MOST_ASKED
    assert (asked | other)[shown[:drawn]].all()
    assert min(asked[shown[:drawn]].sum(), other[shown[:drawn]].sum()) >= 0.45 * pictures.MOST_ASKED
    assert all(set(one[: pictures.FROM_EACH]) <= set(shown) for one in orders)
    assert (pictures.choose([answers(asked), answers(asked), answers(other)], orders)[0] == shown).all()
    assert pictures.choose([answers(asked)], [], most_asked=100)[1] == 100


def cut(found, number):
    page, place = divmod(number, found["per_page"])
    sheet = Image.open(io.BytesIO(base64.b64decode(found["pages"][page].split(",")[1])))
    x, y = place % found["columns"] * found["cell_width"], place // found["columns"] * found["cell_height"]
    return np.asarray(sheet)[y : y + found["height"], x : x + found["width"]]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 11)])
def test_small_images_are_kept_as_they_are(shape):
    image = np.random.default_rng(0).integers(0, 256, (620, *shape), np.uint8)
    found = pictures.thumbnails(image)
    assert len(found["pages"]) == 2
    for number in (0, 26, 499, 500, 619):
        assert (cut(found, number) == image[number].transpose(1, 2, 0).squeeze()).all()


def test_thumbnails_of_many_large_images_stay_small_and_apart():
    image = np.random.default_rng(0).integers(0, 256, (600, 3, 70, 35), np.uint8) // 16
    image += (np.arange(600) % 2 * 200).astype(np.uint8)[:, None, None, None]  # dark beside bright
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "LARGEST", 600_000)
        found = pictures.thumbnails(image)
    assert (found["width"], found["height"]) == (24, 48)
    assert found["pages"][0].startswith("data:image/jpeg")
    assert sum(map(len, found["pages"])) <= 600_000
    assert all((cut(found, number).mean() > 128) == number % 2 for number in (0, 1, 24, 25, 599))


def test_orders_have_the_most_suspect_first_and_the_unknown_last():
    score = np.array([0.5, np.nan, 3.0, -np.inf, 0.5])
    assert order(score).tolist() == [2, 0, 4, 3, 1]
    assert ranks(score).tolist() == [1, 4, 0, 3, 2]
    assert found_at_budget(score, np.array([True, False, True, True, False])) == 2


def test_labels_take_as_few_bytes_as_their_classes_need():
    for classes, kind in ((10, np.uint8), (254, np.uint8), (255, np.uint16), (21_841, np.uint16)):
        found = np.frombuffer(base64.b64decode(codes(np.array([classes - 1, -1]), classes)), kind)
        assert found.tolist() == [classes - 1, np.iinfo(kind).max]


def test_families_go_from_mild_to_strong():
    def row(name, edit, option, value, memorized, point=""):
        return {
            "id": name,
            "edit": edit,
            "option": option,
            "value": value,
            "memorized_accuracy": memorized,
            "point": point,
        }

    rows = [
        row("base", "", "", None, 1.0),
        row("lost-rho0.3", "lost", "rho", 0.3, None),  # diverged
        *(row(f"kfac-rho{v}", "kfac", "rho", v, v) for v in (0.5, 0.7, 0.9)),
        *(row(f"prune-share{v}", "prune", "share", v, 1 - v) for v in (0.2, 0.1)),
        *(row(f"npo-at{v}", "npo", "lr", 0.1, v, f"at{v}") for v in (0.2, 0.4)),
        row("oracle", "oracle", "", None, 0.0),
    ]
    assert {found["label"]: found["ids"] for found in families(rows)} == {
        "kfac": ["kfac-rho0.9", "kfac-rho0.7", "kfac-rho0.5"],
        "prune": ["prune-share0.1", "prune-share0.2"],
        "npo": ["npo-at0.4", "npo-at0.2"],
        "oracle": ["oracle"],
    }


def test_scores_of_analyses_are_read_as_they_are(hostile, tmp_path):
    found = analyses.scores(hostile / "seed0")
    assert found.keys() == {"detection: input_curvature", "some: score"}
    index, score = found["some: score"]
    assert (index.tolist(), len(score)) == (list(range(60, 100)), 40)
    assert found["detection: input_curvature"][0].tolist() == list(range(120))
    folder = tmp_path / "evals" / "base" / "analyses"
    folder.mkdir(parents=True)
    np.savez(folder / "some.npz", index=np.arange(3), score=np.zeros(4))
    with pytest.raises(Damaged, match="some.npz: score and the training indices do not fit"):
        analyses.scores(tmp_path)
