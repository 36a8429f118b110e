"""What edits keep against what they forget: one line for each edit, or one small panel where there are many."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from matplotlib.lines import Line2D

from vitmem.figures import multiples, style, words
from vitmem.figures.palette import REFERENCES, Edit, Palette
from vitmem.figures.tables import Mean, mean_of, read_results, usable

X = "memorized_accuracy"
YS = {"validation_accuracy": "validation", "ground_truth_accuracy": "ground truth"}
LOOKS = {"validation_accuracy": ("o", "-"), "ground_truth_accuracy": ("s", "--")}  # where both share a panel
HEADER = ["id", "option", "value"]
HEADER += [column for metric in (X, *YS) for column in (metric, f"{metric}_sd", f"{metric}_seeds")]
HEADER += ["seeds_at_chance", "seeds_failed"]
X_LABEL = "memorized (fraction; ← more forgotten)"
CHANCE, LEFT_OUT = "at chance", 12  # points that a note names before it counts the rest
BEHIND = "#D4D4D4"  # of the other edits


class Point(NamedTuple):
    """One setting of an edit, or a reference.

    Attributes:
        setting: value of the option, or operating point; NaN where there is none.
        at: mean of each accuracy, over the seeds in which the edit can be used; over all of them if there is none.
        at_chance: in how many seeds it left the model at chance.
        failed: in how many it diverged, or answers are not finite.
        seeds: how many there are.
    """

    setting: float | str
    at: dict[str, Mean]
    at_chance: int
    failed: int
    seeds: int

    @property
    def lost(self) -> bool:
        """No seed can be used."""
        return self.at_chance + self.failed == self.seeds

    @property
    def is_drawn(self) -> bool:
        """It has a place."""
        return not math.isnan(self.at[X].mean)

    @property
    def on_line(self) -> bool:
        """It belongs to the line of its edit: a value of the option, or a memorised accuracy that was asked for."""
        swept = self.setting.startswith("at") if isinstance(self.setting, str) else not math.isnan(self.setting)
        return swept and self.is_drawn and not self.lost


Lines = list[tuple[Edit, list[Point]]]  # in the order of the table


@style.look()
def draw(results_csv: Path, out: Path) -> list[Path]:
    """Draw validation and ground truth accuracy against memorized accuracy, as means over seeds with their sd.

    A setting that left the model at chance in every seed is hollow; one that did so in some, or diverged, is the mean
    of the other seeds, and a note says so. What has one setting is a point.

    Args:
        results_csv: table of the experiment.
        out: folder of the figure ``frontier``.

    Returns:
        The PNG, or nothing where no edit was measured.
    """
    rows = read_results(results_csv)
    palette = Palette(rows)
    lines = [(edit, points(edit.rows)) for edit in palette.edits]
    if not any(point.is_drawn for _, found in lines for point in found):
        return []
    references = {name: points(own)[0] for name in REFERENCES if (own := [row for row in rows if row["id"] == name])}
    draw_them = _draw_apart if len(lines) > multiples.MOST else _draw_together
    figure = draw_them(palette, lines, references, note(palette, lines, len({row["seed"] for row in rows})))
    table = [(edit.name, edit.option, *_cells(point)) for edit, found in lines for point in found]
    table += [(name, None, *_cells(point)) for name, point in references.items()]
    return [style.save(figure, out, "frontier", HEADER, table)]


def points(rows: list[dict]) -> list[Point]:
    """Return the settings of an edit: values in their order, then operating points, the gentlest first."""
    groups: dict[float | str, list[dict]] = {}
    for row in rows:
        value = words.value_of(row)
        setting = words.tuned_point(row) or (value if math.isfinite(value) else "")
        groups.setdefault(setting, []).append(row)

    def order(setting: float | str) -> tuple:
        try:
            return (1, -float(setting.removeprefix("at")), setting) if isinstance(setting, str) else (0, setting, "")
        except ValueError:
            return 1, math.inf, setting  # best

    return [_point(math.nan if setting == "" else setting, groups[setting]) for setting in sorted(groups, key=order)]


def _point(setting: float | str, rows: list[dict]) -> Point:
    at_chance = sum(row.get("status") == CHANCE for row in rows)
    good = [row for row in rows if usable(row)]
    at = {metric: mean_of(row.get(metric, math.nan) for row in good or rows) for metric in (X, *YS)}
    return Point(setting, at, at_chance, len(rows) - len(good) - at_chance, len(rows))


def note(palette: Palette, lines: Lines, seeds: int) -> str:
    """Return what stands under the figure: what the bars are, and what was left out, or is hollow."""
    parts = [f"bars: ± sd over {seeds} seeds"] if seeds > 1 else ["1 seed"]
    every = [(edit, point) for edit, found in lines for point in found]
    if any(point.lost and point.is_drawn for _, point in every):
        parts.append("hollow: at chance" + (" in every seed" if seeds > 1 else ""))
    some = [(edit, point) for edit, point in every if point.at_chance + point.failed and not point.lost]
    none = [(edit, point) for edit, point in every if not point.is_drawn]
    told = [
        f"without seeds that were at chance or diverged: {_named(palette, some)}" if some else "",
        f"not drawn, since not measured or diverged in every seed: {_named(palette, none)}" if none else "",
    ]
    return "\n".join(["; ".join(parts), *filter(None, told)])


def _named(palette: Palette, found: list[tuple[Edit, Point]]) -> str:
    names = []
    for edit, point in found[:LEFT_OUT]:
        lost = "" if not point.is_drawn else f" ({point.at_chance + point.failed} of {point.seeds} left out)"
        names.append(words.with_setting(palette.title(edit.key), edit.option, point.setting) + lost)
    more = f"; and {len(found) - LEFT_OUT} more, in the CSV" if len(found) > LEFT_OUT else ""
    return "; ".join(names) + more


def _cells(point: Point) -> list:
    return [point.setting, *(cell for mean in point.at.values() for cell in mean), point.at_chance, point.failed]


def _draw_together(palette: Palette, lines: Lines, references: dict, told: str):
    figure, found = style.panels(len(YS), 2.5, 0.5)
    for (metric, label), axes in zip(YS.items(), found, strict=True):
        for edit, settings in lines:
            _draw_line(axes, metric, settings, palette.look(edit.key))
        _draw_references(axes, metric, palette, references, 8)
        axes.set(xlabel=X_LABEL, ylabel=f"{label} (fraction)")
    handles = [Line2D([], [], **palette.look(edit.key)) for edit, _ in lines]
    labels = [palette.title(edit.key) for edit, _ in lines]
    _explain(figure, palette, references, handles, labels, told)
    return figure


def _draw_apart(palette: Palette, lines: Lines, references: dict, told: str):
    figure, found = multiples.grid(len(lines), 1.0)
    behind = {metric: _all_lines(metric, lines) for metric in YS}
    for axes, (edit, settings) in zip(found, lines, strict=True):
        color = palette.look(edit.key)["color"]
        for metric, (marker, dash) in LOOKS.items():
            axes.plot(*behind[metric], color=BEHIND, linewidth=style.points(0.5), zorder=1)
            _draw_line(axes, metric, settings, {"color": color, "marker": marker, "linestyle": dash}, 2.6)
            _draw_references(axes, metric, palette, references, 5)
        if not any(point.is_drawn for point in settings):
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", fontsize=style.points(6))
        multiples.name(axes, palette.title(edit.key), color)
    multiples.axis_names(figure, X_LABEL, "accuracy (fraction)")
    handles = [Line2D([], [], color=style.GREY, marker=m, linestyle=dash) for m, dash in LOOKS.values()]
    handles.append(Line2D([], [], color=BEHIND))
    _explain(figure, palette, references, handles, [*YS.values(), "the other edits"], told, "upper")
    return figure


def _places(metric: str, found: Iterable[Point]) -> tuple[list[float], list[float]]:
    found = list(found)
    return [point.at[X].mean for point in found], [point.at[metric].mean for point in found]


def _all_lines(metric: str, lines: Lines) -> tuple[list[float], list[float]]:
    """Return the lines of all edits as one, with gaps between them."""
    xs, ys = [], []
    for _, settings in lines:
        x, y = _places(metric, (point for point in settings if point.on_line))
        xs += [*x, math.nan]
        ys += [*y, math.nan]
    return xs, ys


def _draw_line(axes, metric: str, settings: list[Point], look: dict, size: float = 3.0) -> None:
    color, marker = look["color"], look["marker"]
    drawn = [point for point in settings if point.is_drawn]
    axes.plot(*_places(metric, (p for p in drawn if p.on_line)), color=color, linestyle=look["linestyle"])
    for hollow in (False, True):
        own = [point for point in drawn if point.lost == hollow]
        if not own:
            continue
        bars = {"xerr": [p.at[X].sd for p in own], "yerr": [p.at[metric].sd for p in own]}
        marks = {"color": color, "marker": marker, "markersize": style.points(size), "linestyle": ""}
        marks |= {"markerfacecolor": "white" if hollow else color, "elinewidth": style.points(0.5)}
        axes.errorbar(*_places(metric, own), **bars, **marks, zorder=2.5)


def _draw_references(axes, metric: str, palette: Palette, references: dict[str, Point], size: float) -> None:
    for name, point in references.items():
        look = {"color": "black", "marker": palette.look(name)["marker"], "markersize": style.points(size)}
        edge = {"markeredgecolor": "white", "markeredgewidth": style.points(0.5)}
        at = point.at
        bars = {"xerr": [at[X].sd], "yerr": [at[metric].sd], "elinewidth": style.points(0.5)}
        axes.errorbar([at[X].mean], [at[metric].mean], linestyle="", zorder=3, **look, **edge, **bars)
        if name == "base" and metric == "validation_accuracy":
            axes.axhline(at[metric].mean, color="black", linestyle=":", linewidth=style.points(0.7), zorder=1.5)


def _explain(figure, palette, references, handles, labels, told, loc="lower") -> None:
    for name in references:
        look = palette.look(name) | {"linestyle": ":" if name == "base" else ""}
        handles.append(Line2D([], [], **look, markersize=style.points(6)))
        labels.append(palette.words(name))
    style.legend(figure, handles, labels, told, loc)
