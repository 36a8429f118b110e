"""The notebook: its cells run, one after the other, and say what it promises."""

import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOK = json.loads((Path(__file__).parents[2] / "experiments" / "quickstart.ipynb").read_text())


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    matplotlib.use("Agg")
    names: dict = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    base = names["vitmem"].evaluate(names["subject"])
    assert base["memorized_accuracy"].value > 0.9
    left, right = zip(*names["found"]["rewind"], strict=True)
    assert min(left) < 0.3
    assert max(right) > 0.5


def test_it_was_run_and_holds_no_errors():
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"]) == 2
