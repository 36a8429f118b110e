import os
import subprocess
import sys

import pytest
from drawn import SHEET, write_history, write_results, write_spectra

from vitmem.figures import draw_all

pytestmark = pytest.mark.slow


def write_experiment(folder):
    write_history(folder / "seed0")
    write_results(folder / "results.csv")
    write_spectra(folder / "seed0/factors/0123456789abcdef.spectra.npz")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_draw_all_writes_three_files_for_each_figure(tmp_path):
    paths = draw_all(write_experiment(tmp_path), SHEET)
    assert [path.name for path in paths] == [
        f"{name}.png" for name in ("training", "sweep_kfac", "frontier", "spectra", "mass", "staircase", "sheet")
    ]
    names = {f"{path.stem}.{suffix}" for path in paths for suffix in ("pdf", "png", "csv")}
    assert set(contents(tmp_path / "figures")) == names


def test_draw_all_skips_figures_without_inputs(tmp_path):
    assert draw_all(tmp_path) == []
    write_results(tmp_path / "results.csv")
    assert [path.name for path in draw_all(tmp_path)] == ["sweep_kfac.png", "frontier.png"]


def test_same_input_gives_same_bytes_in_another_process_without_torch_or_pyplot(tmp_path):
    for copy in ("a", "b"):
        write_experiment(tmp_path / copy)
    draw_all(tmp_path / "a")
    code = f"""if True:
        import sys
        from vitmem import figures
        figures.draw_all({str(tmp_path / "b")!r})
        assert not {{"torch", "matplotlib.pyplot", "vitmem.datamodules"}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert contents(tmp_path / "a/figures") == contents(tmp_path / "b/figures")
