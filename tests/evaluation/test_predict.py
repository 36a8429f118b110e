import numpy as np
import pytest
import torch
from cases import loader, vit
from predicted import by_hand

from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable, predict


def test_prediction_is_the_models_whatever_the_batch_size():
    model = vit("token", 5, torch.float64).train()
    small, large = (predict(model, {TRAIN: loader(11, size), VALIDATION: loader(7, size)}) for size in (3, 11))
    assert model.training
    for name in ExampleTable.__dataclass_fields__:
        assert np.allclose(getattr(small, name), getattr(large, name), atol=1e-6)
    assert small.index.tolist() == [*range(11), *range(7)]
    with torch.no_grad():
        logits = model.eval()(next(iter(loader(11, 11))).image)
    assert small.prediction[:11].tolist() == logits.argmax(1).tolist()
    assert np.allclose(
        small.log_prob_given[:11],
        -torch.nn.functional.cross_entropy(logits, torch.from_numpy(small.given[:11]), reduction="none"),
        atol=1e-5,
    )


def test_table_round_trip_and_no_pickles(tmp_path):
    by_hand().save(tmp_path / "examples.npz")
    again = ExampleTable.load(tmp_path / "examples.npz")
    assert all(np.array_equal(getattr(again, n), getattr(by_hand(), n)) for n in ExampleTable.__dataclass_fields__)
    np.savez(tmp_path / "bad.npz", **{n: np.array([{}], object) for n in ExampleTable.__dataclass_fields__})
    with pytest.raises(ValueError, match="pickle"):
        ExampleTable.load(tmp_path / "bad.npz")
