import csv

import pytest

from vitmem.evaluation.comparison import comparison_csv
from vitmem.figures import comparison
from vitmem.figures.tables import read_csv


@pytest.mark.slow
def test_the_comparison_groups_methods_by_track_and_keeps_what_failed(tmp_path):
    def row(name, track="", point="best", seed=0, status="ok", **values):
        edit = name if track else ""
        return {"id": f"{name}-{point}" if edit else name, "edit": edit, "seed": seed, "point": point if edit else None,
                "track": f"{track} (tuned)" if edit else "", "trials": 3, "status": status, **values}  # fmt: skip

    def at(value):
        return {"ground_truth_unseen_accuracy": value, "memorized_unseen_accuracy": 0.25}

    rows = [row("base", **at(0.0)), row("npo", "known noisy examples", **at(0.5)),
            row("ekfac", "label-free", **at(0.6)), row("scrub", "known noisy examples", status="diverged: nan"),
            row("npo", "known noisy examples", seed=1, **at(0.7)),
            row("salun", "known noisy examples", **at(0.65)), row("sap", "right labels", **at(0.1)),
            row("oracle", "known noisy examples, and their true labels (a bound)", **at(0.9))]  # fmt: skip
    (tmp_path / "comparison.csv").write_text(comparison_csv(rows))
    (path,) = comparison.draw(tmp_path / "comparison.csv", tmp_path / "figures")
    assert path.stat().st_size > 1000
    lines = read_csv(tmp_path / "comparison.csv", comparison.TEXT)
    assert [comparison.named(lines, n, n) for n in ("base", "npo", "scrub")] == ["base", "npo", "scrub (0 of 1)"]
    assert comparison.note(lines) == "bars: ± sd over 2 seeds, without those that failed"
    others = [{"seeds": 1, "point": point} for point in ("best", "at0.2", "at0.05")]
    assert comparison.note(others) == "1 seed; memorized nearest 0.05: in comparison.csv"
    with open(path.with_suffix(".csv"), newline="") as file:
        found = [r for r in csv.DictReader(file) if r["metric"] == "ground_truth_unseen_accuracy"]
    best = {r["method"]: r for r in found if r["point"] == "best"}
    assert list(best) == ["base", "ekfac", "sap", "salun", "npo", "scrub", "oracle"]
    assert (float(best["npo"]["mean"]), best["npo"]["usable_seeds"]) == (pytest.approx(0.6), "2.0")
    assert (best["scrub"]["mean"], best["scrub"]["status"]) == ("", "diverged: nan")
    assert [r["method"] for r in found if r["point"] == "at0.2"] == ["base"]
