from predicted import by_hand

from vitmem.evaluation.metrics import compute
from vitmem.evaluation.tables import add_recovered, columns, mean_sd, result_row, terminal_table, to_csv


def rows():
    metrics = {name: vars(metric) for name, metric in compute(by_hand()).items()}
    identity = {"experiment": "x", "edit": "", "option": "", "value": ""}
    found = [result_row({**identity, "seed": s, "id": i}, metrics, None) for s in (0, 1) for i in ("base", "retrain")]
    found[2]["memorized_accuracy"] = 2 / 3
    add_recovered(found)
    return found


def test_tables():
    one, two = terminal_table(rows()[:2]), terminal_table(rows())
    assert "0.333 [0.061, 0.792]" in one
    assert "memorized (n=3)" in one
    assert "0.500 ± 0.236" in two
    assert "2 seeds" in two
    assert rows()[0]["ground_truth_recovered"] == 1.0
    header, first, *_ = to_csv(rows()).splitlines()
    assert header.split(",") == columns()
    assert first.startswith("x,0,base,,,,0.333")
    assert mean_sd([0.5]) == "0.500 (1 seed)"
