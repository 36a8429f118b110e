import pytest
import torch
from edited import DATA, MODEL, apply

from vitmem.editing.auto import AutoEKFAC, choose, predictions
from vitmem.editing.data import EditData
from vitmem.editing.kfac import EKFAC


@pytest.mark.slow
def test_the_choice_of_rho_sees_validation_but_no_label_of_a_training_example():
    auto = AutoEKFAC(rhos="0.9 0.5", exponents="0.5 1")
    result = apply(auto)
    assert auto.sees == {"unlabeled", "validation"}
    rows = result.report["candidates"]
    assert [(row["rho"], row["exponent"]) for row in rows[1:]] == [(0.9, 0.5), (0.5, 0.5), (0.9, 1.0), (0.5, 1.0)]
    tuning = EditData(DATA, auto.sees).validation(auto.batch_size)
    label = torch.cat([batch.true_label for batch in tuning])
    for row in rows:  # the first is the model as it was
        edited = apply(EKFAC(rho=row["rho"], exponent=row["exponent"])).state_dict
        right = (predictions(MODEL, edited, tuning) == label).double().mean()
        assert row["tuning_accuracy"] == pytest.approx(float(right))
    assert (rows[0]["rho"], rows[0]["changed"]) == (1.0, 0.0)
    best = max(row["tuning_accuracy"] for row in rows)
    assert result.report["tolerance"] == pytest.approx((best * (1 - best) / len(label)) ** 0.5)
    choice = result.report["choice"]
    assert choice["tuning_accuracy"] >= max(row["tuning_accuracy"] for row in rows) - result.report["tolerance"]
    chosen = apply(EKFAC(rho=choice["rho"], exponent=choice["exponent"])).state_dict
    assert all(torch.equal(value, chosen[key]) for key, value in result.state_dict.items())
    hidden = next(iter(EditData(DATA, auto.sees).images(auto)))
    assert (hidden.given_label == -1).all()
    for options in ({"rhos": "a"}, {"rhos": ""}, {"exponents": "-1"}, {"rhos": "2"}):
        with pytest.raises(ValueError, match=r"rhos and exponents|exponent is -1|rho is 2"):
            AutoEKFAC(**options)


def test_the_strongest_edit_that_validation_cannot_tell_from_the_best():
    rows = [{"tuning_accuracy": a, "changed": c} for a, c in ((0.90, 0.0), (0.92, 0.1), (0.91, 0.2), (0.80, 0.9))]
    assert choose(rows, 0.015) == rows[2]
    assert choose(rows, 0.005) == rows[1]
    assert choose(rows, 0.5) == rows[3]
    assert choose([{"tuning_accuracy": a, "changed": c} for a, c in ((0.5, 0.0), (0.25, 1.0))], 0.25)["changed"] == 1.0
