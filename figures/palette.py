"""One colour, marker, line and name for each edit in all figures of an experiment."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vitmem.figures import style, words
from vitmem.figures.tables import read_csv, read_results

COLORS = (  # Okabe and Ito's, then darker ones of Paul Tol's; grey is left for what lies behind
    style.BLUE, style.VERMILLION, style.GREEN, "#E69F00", "#AA4499", "#56B4E9", "#882255", "#999933", "#332288",
    style.PURPLE, "#117733", "#7A4B1F", "#546E7A",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # 13 colours and 8 markers: 104 pairs differ
LINES = ("-", "--", "-.", ":")
REFERENCES = {"base": "*", "retrain": "H", "clean": "P", "early_stop": "X"}


class Edit(NamedTuple):
    """The rows of one edit: they differ in the value of its option, or in the operating point.

    Attributes:
        key: what tells it from the other edits of the experiment.
        name: what its ids have in common.
        option: the main one; empty if it has none.
        rows: of the results, a row for each seed and setting.
    """

    key: str
    name: str
    option: str
    rows: list[dict]


class Palette:
    """Looks and names, in the order of ``results.csv``.

    Args:
        rows: of the table, or of another with ids alone.
    """

    def __init__(self, rows: Iterable[Mapping]):
        self.labels = style.settings().labels
        groups: dict[tuple[str, str], list[dict]] = {}
        self._row: dict[str, Mapping] = {}
        for row in rows:
            row = row if "edit" in row else words.row_of(row["id"])
            self._row.setdefault(row["id"], row)
            if row["edit"]:
                groups.setdefault((words.family(row), row.get("option") or ""), []).append(row)
        names = [name for name, _ in groups]
        self.edits = [
            Edit(name if names.count(name) == 1 else f"{name}_{option}", name, option, found)
            for (name, option), found in groups.items()
        ]
        self._number = {edit.key: number for number, edit in enumerate(self.edits)}
        self._key = {row["id"]: edit.key for edit in self.edits for row in edit.rows}

    @classmethod
    def beside(cls, table: Path, column: str = "id") -> "Palette":
        """Return the palette of the ``results.csv`` beside a table; where there is none, that of the table's own ids.

        Args:
            table: a CSV file.
            column: of its ids, or names of edits.
        """
        results = Path(table).with_name("results.csv")
        if results.is_file():
            return cls(read_results(results))
        return cls({"id": row[column]} for row in read_csv(table, (column,)))

    def look(self, name: str) -> dict:
        """Return colour, marker and line of an id or an edit's key, as arguments of matplotlib."""
        if name in REFERENCES:
            return {"color": "black", "marker": REFERENCES[name], "linestyle": ":"}
        number = self._number.get(self._key.get(name, name), len(self.edits))
        looks = (("color", COLORS), ("marker", MARKERS))
        turn = number // len(COLORS) % len(LINES)
        return {what: known[number % len(known)] for what, known in looks} | {"linestyle": LINES[turn]}

    def words(self, name: str) -> str:
        """Return the words for an id, for figures."""
        return words.literal(words.words(self._row.get(name) or words.row_of(name), self.labels))

    def title(self, name: str) -> str:
        """Return the words for an edit's key, or for its name, for figures."""
        edit = next((edit for edit in self.edits if name in (edit.key, edit.name)), None)
        if edit is None:
            return self.words(name)
        clash = f" ({edit.option})" if edit.key != edit.name else ""
        return words.literal(words.title(edit.rows[0], self.labels) + clash)

    def ordered(self, ids: Iterable[str]) -> list[str]:
        """Return ids in the order of the table, references behind the edits; unknown ones come last."""
        order = [*(name for name in self._row if name not in REFERENCES), *REFERENCES]
        return sorted(dict.fromkeys(ids), key=lambda name: order.index(name) if name in order else len(order))


def looks(names: Sequence[str]) -> dict[str, dict]:
    """Return the look of each of some edits that no table orders."""
    palette = Palette({"id": name, "edit": name} for name in names)
    return {name: palette.look(name) for name in names}
