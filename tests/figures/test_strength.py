import csv

import pytest

from vitmem.figures import strength


def tried(*trials):
    return [{"options": {"factor": kept}, "memorized": m, "ground_truth": g} for kept, m, g in trials]


@pytest.mark.slow
def test_strengths_that_every_seed_tried_are_drawn(tmp_path):
    scale = [
        tried((0.9, 0.8, 0.1), (0.5, 0.4, 0.3), (0.7, 0.6, 0.2)),
        tried((0.9, 0.6, 0.2), (0.5, 0.2, 0.5), (0.6, 0.1, 0.1)),
    ]
    path = strength.draw({"scale": scale, "rewind": [tried((0.9, 0.5, None))]}, tmp_path / "out", "where")
    assert path.stat().st_size > 1000
    with path.with_suffix(".csv").open(newline="") as file:
        rows = {(r["method"], float(r["kept"]), r["metric"]): r for r in csv.DictReader(file)}
    assert {kept for method, kept, _ in rows if method == "scale"} == {0.9, 0.5}
    assert float(rows["scale", 0.9, "memorized"]["mean"]) == pytest.approx(0.7)
    assert float(rows["scale", 0.5, "ground_truth"]["sd"]) == pytest.approx(0.1 * 2**0.5)
    assert ("rewind", 0.9, "ground_truth") not in rows
    assert (rows["rewind", 0.9, "memorized"]["sd"], rows["rewind", 0.9, "memorized"]["seeds"]) == ("", "1")
    with pytest.raises(ValueError, match="there are no trials of svd"):
        strength.draw({"svd": []}, tmp_path / "out", "where")
