"""Stored results of attacks that the tests of recovery and scorecards share."""


def result(name, attack, settings, rows, seed=0):
    return {"experiment": "e", "seed": seed, "id": name, "attack": attack, "settings": settings, "rows": rows}


def curve(name, memorized, validation=(0.9, 0.9, 0.9)):
    rows = [
        {"arm": "retain", "step": s, "memorized_accuracy": m, "memorized_accuracy_n": 50, "validation_accuracy": v}
        for s, m, v in zip((0, 1, 10), memorized, validation, strict=True)
    ]
    return result(name, "relearn", ["arm", "step"], rows)


RELEARNT = [curve("base", (1.0, 0.9, 0.5)), curve("retrain", (0.0, 0.0, 0.1)), curve("edit", (0.2, 0.4, 0.55))]


def pick(rows, name, metric):
    return [row for row in rows if (row["id"], row["metric"]) == (name, metric)]
