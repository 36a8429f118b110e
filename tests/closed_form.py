"""Digits and a model that the tests of closed-form edits share."""

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
