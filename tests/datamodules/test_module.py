import numpy as np
import torch

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric


def test_noise_does_not_depend_on_the_models_seed():
    labels = [MemorisationData(Digits(), Symmetric(), seed=seed).manifest.given_label for seed in (0, 1)]
    assert (labels[0] == labels[1]).all()


def test_noisy_examples_are_repeated_in_training_alone():
    noise = Symmetric(rate=0.1, repeats=4)
    sets = {kind: MemorisationData(Digits(), noise, train_on=kind) for kind in ("noisy", "clean", "retrain")}
    noisy, clean, retrain = (data.fit_examples() for data in sets.values())
    wrong = sets["noisy"].manifest.is_noisy
    assert np.bincount(noisy.index).tolist() == np.where(wrong, 4, 1).tolist()
    assert torch.equal(clean.index, noisy.index)
    assert torch.equal(clean.given_label, clean.true_label)
    assert len(retrain) == 1297 - 130
    base = sets["noisy"].train_examples
    assert torch.equal(noisy.image, base.image[noisy.index])
    assert torch.equal(noisy.given_label, base.given_label[noisy.index])
    assert sum(len(batch.index) for batch in sets["noisy"].val_dataloader()[0]) == 1297
    assert sets["noisy"].manifest.header()["repeats"] == 4
