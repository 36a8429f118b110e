"""Digits and a model that the tests of closed-form edits share."""

import numpy as np
import torch
from cases import vit

from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing.data import EditData

DATA = MemorisationData(Digits(), Symmetric())


MODEL = vit("token", classes=10, dtype=torch.float32).eval()


def apply(edit, seed=0):
    return edit.apply(MODEL, EditData(DATA, edit.sees), keyed_generator(seed))


def before(name):
    return MODEL.state_dict()[name]


def inputs_of(name, examples):
    """Return the inputs T I of a layer on images, at all positions, as float64 of NumPy."""
    seen = []
    handle = MODEL.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for batch in DATA.loader(examples, 64):
            MODEL(batch.image)
    handle.remove()
    return np.concatenate([x.reshape(-1, x.shape[-1]).double().numpy() for x in seen])
