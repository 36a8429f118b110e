import math

from drawn import write_csv

from vitmem.figures.tables import read_csv, seed_folders


def test_read_csv_parses_numbers_except_in_text_columns(tmp_path):
    write_csv(tmp_path / "t.csv", ["id", "x", "y"], [["1", "2", ""], ["b", "c", "nan"]])
    first, second = read_csv(tmp_path / "t.csv", text=("id",))
    assert (first["id"], first["x"], second["x"]) == ("1", 2.0, "c")
    assert math.isnan(first["y"])
    assert math.isnan(second["y"])


def test_seed_folders_are_in_numeric_order_without_references(tmp_path):
    for name in ("seed10", "seed2", "seed0-clean", "seeds"):
        (tmp_path / name).mkdir()
    assert list(seed_folders(tmp_path)) == [2, 10]
