"""Figures of similarity, dynamics and directions hold the numbers of the tables."""

import csv

import numpy as np
import pytest
from drawn import write_csv

from vitmem.figures import analyses, style
from vitmem.figures.analysis_directions import FRAME, SIDE, framed
from vitmem.figures.analysis_dynamics import labels

pytestmark = pytest.mark.slow

ACCURACIES = {name: 0.5 for metric in style.ACCURACIES for name in (metric, f"{metric}_low", f"{metric}_high")}
NULL = {"null": 0.0, "null_low": -0.1, "null_high": 0.1, "p": 0.01}


def drawn(path):
    with open(path.with_suffix(".csv"), newline="") as file:
        return list(csv.DictReader(file))


def write(folder, name, rows):
    common = {"experiment": "e", "seed": 0, "id": "base", "analysis": name, "name": name}
    rows = [common | row for row in rows]
    header = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(folder / f"{name}.csv", header, [[row.get(key, "") for key in header] for row in rows])


def similarity():
    for seed in (0, 1):
        for number, other in enumerate(["retrain", f"seed{1 - seed}", "seed2"]):
            for kind in ("memorised", "clean", "validation"):
                where = {"seed": seed, "measure": "cka", "against": other, "place": "blocks.0", "kind": kind}
                value = {"value": 0.2 * number + 0.1 * seed, "value_low": 0.0, "value_high": 0.9}
                yield where | value | NULL
            for place in ("blocks.0.attn.qkv", "all"):
                for kind in ("inputs", "gradients"):
                    more = {"value": 0.7, "expected": 0.1, "ceiling": 0.9} | NULL
                    yield {"seed": seed, "measure": "angles", "against": other, "place": place, "kind": kind} | more


def dynamics():
    for epoch in (0, 5, 10):
        yield {"measure": "accuracy", "epoch": epoch, "tuning_accuracy": 0.1 * epoch} | ACCURACIES
        yield {"measure": "bands", "epoch": epoch, "layer": "all", "order": "curvature", "definition": "output",
               "band": "top 10 %", "ratio": 1.1, "ratio_over_norm": 1.0} | NULL  # fmt: skip
    for against in ("early", "late"):
        for layer in ("blocks.0.attn.qkv", "all"):
            yield {"measure": "overlap", "edit": "kfac-rho0.5", "against": against, "layer": layer, "best_epoch": 5,
                   "value": 0.3 if against == "early" else 0.2} | NULL  # fmt: skip


def directions():
    for kind in ("top", "bottom", "differs", "random"):
        for layer in ("blocks.0.attn.qkv", "blocks.0.mlp.fc2", "all"):
            where = {"measure": "component", "layer": layer, "kind": kind, "component": "" if layer == "all" else "7"}
            images = {} if layer == "all" else {"image_1": 3, "image_2": 11, "curvature": 0.5}
            yield where | images | {"share": 0.25} | NULL
    for kind in ("flipped", "unflipped"):
        numbers = dict.fromkeys(("overlap", "overlap_null", "entropy_before", "entropy_after", "count"), 0.75)
        where = {"measure": "attention", "layer": "last block", "kind": kind, "edit": "kfac-rho0.5"}
        yield where | numbers | {"p_overlap": 0.02, "p_entropy": 0.4}


@pytest.fixture
def folder(tmp_path):
    for rows in (similarity, dynamics, directions):
        write(tmp_path, rows.__name__, rows())
    image = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    arrays = {"index": [3, 11], "image": image, "memorised": [True, False]}
    maps = np.linspace(0.1, 1, 8).reshape(2, 2, 2)
    arrays |= {"attention_index": [3, 11], "attention_flipped": [True, False]}
    np.savez(tmp_path / "directions.npz", **arrays, attention_before=maps, attention_after=maps[::-1])
    return tmp_path


def test_tables_are_drawn_and_their_numbers_stand_beside(folder):
    out = folder / "figures"
    names = ["analysis_directions", "analysis_directions_attention", "analysis_dynamics", "analysis_similarity"]
    assert [path.stem for path in analyses.draw(folder, out)] == names
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    analyses.draw(folder, out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    rows = {(r["measure"], r["against"], r["place"], r["kind"], r["number"]): r for r in drawn(out / names[3])}
    assert len(rows) == len(drawn(out / names[3]))
    seeds = rows["cka", "other seeds", "blocks.0", "clean", "value"]  # of seed 0 (0.2, 0.4), of seed 1 (0.3, 0.5)
    assert (float(seeds["mean"]), seeds["seeds"]) == (pytest.approx(0.35), "2")
    rows = [r for r in drawn(out / names[2]) if (r["measure"], r["layer"], r["number"]) == ("overlap", "all", "value")]
    assert {r["against"]: float(r["mean"]) for r in rows} == {"early": 0.3, "late": 0.2}
    rows = [r for r in drawn(out / names[0]) if r["number"] == "p_overlap"]
    assert [float(r["mean"]) for r in rows] == [0.02, 0.02]
    assert [(r["index"], r["flipped"]) for r in drawn(out / names[1])] == [("3", "1"), ("11", "0")]


def test_directions_without_images_are_still_drawn_and_damaged_ones_are_told(folder):
    (folder / "directions.npz").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"directions\.npz cannot be read"):
        analyses.draw(folder, folder / "figures")
    (folder / "directions.npz").unlink()
    assert "analysis_directions" in [path.stem for path in analyses.draw(folder, folder / "figures")]


def test_a_framed_image_is_the_image_in_a_frame():
    image = np.array([[[0], [255]], [[255], [0]]], dtype=np.uint8)
    found = framed(image, "#FF0000")
    assert found.shape == (SIDE, SIDE, 3)
    assert found[0, 0].tolist() == [1, 1, 1]  # the gap between neighbours
    assert found[FRAME - 1, SIDE // 2].tolist() == [1, 0, 0]
    assert found[FRAME, FRAME].tolist() == [0, 0, 0]
    assert found[FRAME, -FRAME - 1].tolist() == [1, 1, 1]


def test_edits_of_other_strengths_are_one_where_each_seed_has_one_of_the_kind():
    rows = [{"seed": 0, "edit": "kfac-rho0.5"}, {"seed": 1, "edit": "kfac-rho0.7"}, {"seed": 0, "edit": "svd-keep0.1"}]
    assert labels(rows) == {"kfac-rho0.5": "K-FAC", "kfac-rho0.7": "K-FAC", "svd-keep0.1": "SVD, keep 0.1"}
    rows.append({"seed": 1, "edit": "kfac-rho0.5"})
    assert labels(rows)["kfac-rho0.7"] == "K-FAC, rho 0.7"
