import pytest
import torch
from cases import TINY
from edited import apply

from vitmem.editing.finetune import FineTune
from vitmem.editing.kfac import EKFAC
from vitmem.editing.polish import PolishedEKFAC
from vitmem.models.build import create


@pytest.mark.slow
def test_polishing_is_the_edit_and_then_fine_tuning_on_what_is_right():
    polished = PolishedEKFAC(rho=0.6, steps=5, lr=1e-3)
    assert polished.sees == {"retain"}
    model = create(TINY.timm_arguments((1, 8, 8), 10)).eval()
    model.load_state_dict(apply(EKFAC(rho=0.6, noisy="excluded")).state_dict)
    healing = FineTune(lr=1e-3, steps=5, batch_size=64, optimiser="adamw", weight_decay=0.0)
    expected, found = apply(healing, model).state_dict, apply(polished).state_dict
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("options", [{"noisy": "included"}, {"labels": "given"}, {"split": "validation"}])
def test_polishing_may_not_tell_unknown_wrong_labels_by_elimination(options):
    with pytest.raises(ValueError, match="noisy: "):
        PolishedEKFAC(**options)


@pytest.mark.parametrize("options", [{"steps": 0}, {"lr": 0.0}, {"step_size": 0}])
def test_options_of_polishing_out_of_range(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is 0"):
        PolishedEKFAC(**options)
