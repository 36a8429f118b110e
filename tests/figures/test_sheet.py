import numpy as np
import pytest
from drawn import SHEET

from vitmem.figures import sheet
from vitmem.figures.tables import read_csv


@pytest.mark.slow
def test_sheet_lists_the_labels_shown(tmp_path):
    sheet.draw(tmp_path, **SHEET)
    rows = (tmp_path / "sheet.csv").read_text().splitlines()
    assert rows[:2] == ["number,given,true,before,after", "1,cat,dog,cat,dog"]
    assert rows[3] == "3,flying_squirrel,cat,flying_squirrel,dog"


@pytest.mark.slow
def test_sheet_holds_at_most_48_colour_images(tmp_path):
    labels = {name: np.zeros(50, dtype=int) for name in ("given", "true", "before", "after")}
    sheet.draw(tmp_path, **{**SHEET, **labels, "image": np.zeros((50, 2, 2, 3))})
    assert len(read_csv(tmp_path / "sheet.csv")) == 48
    assert sheet.draw(tmp_path, **{**SHEET, "image": np.zeros((0, 2, 2))}) == []


def test_sheet_colours_tell_the_outcomes_apart():
    colors = [sheet.outcome_color("cat", "dog", after) for after in ("dog", "cat", "bird")]
    assert colors == list(sheet.OUTCOMES.values())
