import numpy as np
import pytest
import torch
from cases import loader, vit
from predicted import COLUMNS, by_hand

from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable, predict


def test_prediction_is_the_models_whatever_the_batch_size():
    model = vit("token", 5, torch.float64).train()
    small, large = (predict(model, {TRAIN: loader(11, size), VALIDATION: loader(7, size)}) for size in (3, 11))
    assert model.training
    for name in COLUMNS:
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


def test_logits_that_are_not_finite_are_never_class_0():
    model = vit("token", 5)
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    table = predict(model, {TRAIN: loader(11, 4), VALIDATION: loader(7, 4)})
    assert set(table.prediction) == {-1}


def test_table_round_trip_and_no_pickles(tmp_path):
    by_hand().save(tmp_path / "examples.npz")
    again = ExampleTable.load(tmp_path / "examples.npz")
    assert all(np.array_equal(getattr(again, n), getattr(by_hand(), n)) for n in COLUMNS)
    np.savez(tmp_path / "bad.npz", **{n: np.array([{}], object) for n in COLUMNS})
    with pytest.raises(ValueError, match="pickle"):
        ExampleTable.load(tmp_path / "bad.npz")


def test_known_wrong_labels_are_those_of_training_examples():
    known = torch.arange(11) < 5
    found = predict(vit(), {VALIDATION: loader(11, 4), TRAIN: loader(11, 4)}, known=known)
    assert found.split.tolist() == [VALIDATION] * 11 + [TRAIN] * 11
    assert found.is_known.tolist() == [False] * 11 + known.tolist()
    assert not predict(vit(), {TRAIN: loader(11, 4)}).is_known.any()
    assert found.is_noisy.tolist() == 2 * [k % 3 == 0 for k in range(11)]


def test_a_model_in_eval_mode_stays_so():
    model = vit().eval()
    predict(model, {TRAIN: loader(4, 4)})
    assert not model.training
