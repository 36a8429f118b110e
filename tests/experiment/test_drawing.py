from vitmem.experiment.drawing import best_edit


def test_a_model_at_chance_is_never_the_best():
    base = {"id": "base", "seed": 0, "edit": "", "memorized_accuracy": 1.0}
    chance = {"id": "a", "seed": 0, "edit": "a", "memorized_accuracy": 0.1, "ground_truth_accuracy": 0.9}
    good = chance | {"id": "b", "ground_truth_accuracy": 0.5, "status": "ok"}
    assert best_edit([base, chance | {"status": "at chance"}, good], 0)["id"] == "b"
    assert best_edit([base, chance | {"status": "ok"}, good], 0)["id"] == "a"
