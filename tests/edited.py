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


MODEL = create(TINY.timm_arguments((1, 8, 8), 10), seed=0).eval()


CACHE = CurvatureCache()


def apply(edit, model=MODEL, seed=0):
    return edit.apply(model, EditData(DATA, edit.sees, CACHE), keyed_generator(seed))
