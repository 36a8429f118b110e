"""Analyses of an experiment file: planned, made once, in tables and figures."""

import csv

import pytest

pytestmark = pytest.mark.slow

EXPERIMENT = """
name: asked
model: {width: 8, depth: 1, heads: 2, patch: 8}
train: {epochs: 3, batch_size: 100, lr: 3e-3, warmup_epochs: 0}
references: [retrain]
edits:
  - {name: scale, factor: [0.5, 0.9]}
analyses:
  - {name: bands, resamples: 5, permutations: 3, images: 50, examples: 100}
  - {name: ownership, resamples: 5, images: 50, examples: 100}
  - {name: detection, resamples: 3, directions: 0, images: 100, examples: 100, folds: 2}
  - {name: localise, permutations: 1, images: 50, examples: 100, modes: "scale,ekfac"}
"""


def test_an_experiment_asks_its_models_once_and_draws_what_it_found(cli, tmp_path):
    file = tmp_path / "asked.yaml"
    file.write_text(EXPERIMENT)
    code, printed, errors = cli("run", file, f"--out={tmp_path}", "--dry_run")
    assert code == 0, errors
    assert "analysis bands: 0 of 2 done" in printed
    code, printed, errors = cli("run", file, f"--out={tmp_path}")
    assert code == 0, errors
    folder = tmp_path / "asked"
    for name in ("bands", "ownership", "detection", "localise"):
        rows = list(csv.DictReader((folder / "analyses" / f"{name}.csv").open()))
        assert {row["id"] for row in rows} == {"base", "retrain"}
        for suffix in ("png", "pdf", "csv"):
            assert (folder / "figures" / f"analysis_{name}.{suffix}").stat().st_size > 500
    before = {path: path.read_bytes() for path in (folder / "figures").glob("analysis_*.csv")}
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("analyses/*.json")}
    code, printed, _ = cli("run", file, f"--out={tmp_path}", "--dry_run")
    assert "analysis bands: 2 of 2 done" in printed
    assert cli("run", file, f"--out={tmp_path}")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("analyses/*.json")} == stamps
    assert {path: path.read_bytes() for path in (folder / "figures").glob("analysis_*.csv")} == before
