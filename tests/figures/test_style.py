import math
import re

import numpy as np
import pytest

from vitmem.figures import style


def test_save_writes_plain_numbers_and_empty_cells(tmp_path):
    row = [np.float64(0.1), np.float32(0.5), 3, np.int64(4), math.nan, None, "a,b"]
    style.save(style.new_figure(1, 1), tmp_path, "empty", list("abcdefg"), [row])
    assert (tmp_path / "empty.csv").read_text() == 'a,b,c,d,e,f,g\n0.1,0.5,3,4,,,"a,b"\n'


def test_the_formats_and_the_width_that_are_set(tmp_path):
    with style.written_as(style.Settings(width=3.3, formats=("svg",))), style.look():
        figure, panels = style.panels(2, 2.0)
        assert panels[1].get_gridspec().ncols == 1  # no room for two
        assert style.save(figure, tmp_path, "a", ["x"], []).name == "a.svg"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.svg"]
    text = (tmp_path / "a.svg").read_text()
    assert f'width="{3.3 * 72:g}pt"' in text
    assert not re.search("<dc:date>", text)
    assert style.panels(2, 2.0)[1][0].get_gridspec().ncols == 2


def test_a_talk_has_larger_letters_and_lines_and_a_width_leaves_them():
    import matplotlib

    def sizes(**settings):
        with style.written_as(style.Settings(**settings)), style.look():
            return [matplotlib.rcParams[name] for name in ("font.size", "legend.fontsize", "lines.linewidth")]

    paper, talk = sizes(), sizes(style="talk")
    assert sizes(width=2.0) == paper
    assert all(large == pytest.approx(1.8 * small) for large, small in zip(talk, paper, strict=True))
    assert style.width_of(7.0) == 7.0
    assert style.settings() == style.Settings()


@pytest.mark.parametrize("width", [2.0, 3.3, 7.0])
def test_a_legend_has_as_many_columns_as_fit(width):
    with style.written_as(style.Settings(width=width)), style.look():
        figure = style.new_figure(7, 2)
        lines = figure.subplots().plot([[0] * 6, [1] * 6])
        style.legend(figure, lines, ["retrained without wrong labels"] * 6, "bars: ± sd over 5 seeds; " * 4)
        renderer = figure.canvas.get_renderer()
        assert len(figure.legends) == 1
        extent = figure.legends[0].get_window_extent(renderer)
        assert extent.width <= figure.bbox.width
        assert figure.legends[0]._ncols == {2.0: 1, 3.3: 1, 7.0: 3}[width]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "poster"}, "style is 'poster'; give paper or talk"),
        ({"width": 0.5}, "width is 0.5 inches; give 1.5 to 40"),
        ({"formats": ("pdf", "gif")}, "format is 'gif'; give some of pdf, png, svg"),
        ({"formats": ()}, "format is empty"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        style.Settings(**settings)
