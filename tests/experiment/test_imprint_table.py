"""The table of readability by weight decay."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

SCRIPT = Path(__file__).parents[2] / "experiments" / "imprint.py"
FOUND = {  # by model and decay, of three seeds
    ("base", 0): (0.9, 0.8, 0.85), ("base", 100): (0.2, 0.5, 0.1), ("base", 300): (0.1, 0.11, 0.09),
    ("base", 1000): (0.1, 0.1, 0.1), ("retrain", 0): (0.1, 0.05, 0.1), ("retrain", 100): (0.1, 0.1, 0.05),
    ("retrain", 300): (0.1, 0.1, 0.1), ("retrain", 1000): (0.1, 0.1, 0.1),
}  # fmt: skip


def rows():
    for (name, decay), values in FOUND.items():
        for seed, value in enumerate(values):
            place = {
                "experiment": "x",
                "seed": seed,
                "id": name,
                "attack": "i",
                "name": "imprint",
                "weight_decay": decay,
            }
            measured = (
                ("given", "head", "accuracy", value), ("given", "blocks.0", "accuracy", 0.7),
                ("head", "head", "validation_accuracy", 0.8 if decay == 1000 else 0.9),
                ("head", "head", "memorized_accuracy", 0.3), ("task", "head", "accuracy", 0.5),
            )  # fmt: skip
            for probe, where, metric, number in measured:
                yield place | {"probe": probe, "place": where, "metric": metric, "value": number}


def test_the_table_of_readability_is_the_one_by_hand(monkeypatch, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("imprint", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = list(rows())
    with (tmp_path / "attacks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, made[0])
        writer.writeheader()
        writer.writerows(made)
    monkeypatch.setattr("sys.argv", ["imprint.py", str(tmp_path)])
    script.main()
    lines = list(csv.DictReader((tmp_path / "imprint.csv").read_text().splitlines()))
    assert [(line["id"], int(float(line["weight_decay"]))) for line in lines] == list(FOUND)
    for line, (key, values) in zip(lines, FOUND.items(), strict=True):
        excess = np.array(values) - np.array(FOUND["retrain", key[1]])
        assert float(line["found"]) == pytest.approx(np.mean(values), abs=1e-4)
        assert float(line["excess"]) == pytest.approx(excess.mean(), abs=1e-4)
        if key[0] == "base" and key[1] < 1000:
            low, high = stats.t.interval(0.95, 2, excess.mean(), excess.std(ddof=1) / 3**0.5)
            assert (float(line["low"]), float(line["high"])) == pytest.approx((low, high), abs=1e-4)
    assert [line["verdict"] for line in lines] == [
        "readable", "open", "not readable", "network gone", "control", "control", "control", "network gone",
    ]  # fmt: skip
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(FOUND)
    assert printed[2].startswith("| base | 0 | 0.850 | +0.767 [+0.")
