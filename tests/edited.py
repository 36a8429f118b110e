"""Digits, a model and its curvature that the tests of edits share."""

from cases import TINY

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing.data import EditData
from vitmem.models.build import create

DATA = MemorisationData(Digits(), Symmetric())
NOISY = DATA.train_examples.is_noisy


MODEL = create(TINY.timm_arguments((1, 8, 8), 10), seed=0).eval()
INITIAL = create(TINY.timm_arguments((1, 8, 8), 10), seed=1).state_dict()  # as if MODEL's training had started there


CACHE = CurvatureCache()


def apply(edit, model=MODEL, seed=0):
    return edit.apply(model, EditData(DATA, edit.sees, CACHE, initial=lambda: INITIAL), keyed_generator(seed))
