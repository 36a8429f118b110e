"""What closed-form edits must not depend on: order and number of the data, batches, and the numbers of the classes."""

import copy
import dataclasses

import pytest
import torch
from cases import vit

from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.manifest import NoiseManifest
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.editing import edits
from vitmem.editing.data import EditData
from vitmem.models.build import with_weights

N, CLASSES = 120, 10
LAYERS = {"layers": "blocks.0.*"}
CURVATURE = {"dtype": "float64", "labels": "exact", "examples": 10**6, **LAYERS}
EDITS = {
    "kfac": {"rho": 0.8, **CURVATURE},
    "ekfac": {"rho": 0.8, **CURVATURE},
    "input_filter": {"rho": 0.8, **CURVATURE},
    "random_pairs": {"rho": 0.8, **CURVATURE},
    "top_removed": {"rho": 0.95, **CURVATURE},  # lower, it cuts where masses are 0 and axes are not determined
    "features": {"examples": 10**6, **LAYERS},
    "sap": {"examples": 10**6, "images": "unlabeled", **LAYERS},
    "wanda": {"examples": 10**6, **LAYERS},
    "ssd": {"alpha": 1.0, "layers": "blocks.0.mlp.*"},  # no gradient reaches the keys' biases but by rounding
}
GIVEN = {
    "wanda forget": ("wanda", {"forget": 0.3, "keep": 0.2, **LAYERS}),
    "kfac given": ("kfac", EDITS["kfac"] | {"labels": "given"}),
}
FORMS = {name: (name, options) for name, options in EDITS.items()} | GIVEN
MODEL = vit("token", classes=CLASSES)
MODEL.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))


@dataclasses.dataclass(frozen=True)
class Few(DataSet):
    """The first digits."""

    def load(self):
        whole = Digits().load()
        return ImageData(
            whole.train_image[:N], whole.train_label[:N], whole.validation_image, whole.validation_label,
            whole.class_names,
        )  # fmt: skip


DATA = MemorisationData(Few(), Symmetric(rate=0.3))


def chosen(order, classes=None):
    """Return the data with training examples in another order or number, and other numbers for the classes."""
    found, image, plain = copy.copy(DATA), DATA.data, DATA.manifest
    classes = torch.arange(CLASSES) if classes is None else classes
    found.data = dataclasses.replace(
        image, train_image=image.train_image[order], train_label=classes[image.train_label[order]]
    )
    given = classes.numpy()[plain.given_label[order.numpy()]]
    found.manifest = NoiseManifest(
        found.data.train_label.numpy(), given, CLASSES, "symmetric", 0.3, 0, found.data.fingerprint
    )
    found.data.__dict__["mean_std"] = image.mean_std  # the same images, but for a last digit
    return found


def edited(form, data=DATA, model=MODEL, **options):
    name, given = FORMS[form]
    edit = edits()[name](**given | options)
    served = EditData(data, edit.sees, CurvatureCache())
    return edit.apply(model, served, keyed_generator(0)).state_dict


@pytest.fixture(scope="module")
def plain():
    batches = {"ssd": {"batch_size": 1}}
    return {form: edited(form, **batches.get(form, {})) for form in FORMS}


def same(found, expected):
    assert all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-9) for name in expected)
    changed = [name for name, value in MODEL.state_dict().items() if not torch.equal(value, found[name])]
    assert changed
    assert all(name.startswith("blocks.0.") for name in changed)


ORDERS = {
    "permuted": torch.randperm(N, generator=torch.Generator().manual_seed(1)),
    "doubled": torch.arange(N).repeat(2),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_and_the_number_of_copies_of_the_data_do_not_matter(form, order, plain):
    batches = {"batch_size": 1} if form == "ssd" else {}  # it squares the gradients of batches
    same(edited(form, chosen(ORDERS[order]), **batches), plain[form])


@pytest.mark.parametrize("form", [form for form in FORMS if form != "ssd"])
def test_the_batch_size_does_not_matter(form, plain):
    same(edited(form, batch_size=13), plain[form])


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_of_the_classes_do_not_matter(form, plain):
    classes = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(2))
    state = dict(MODEL.state_dict())
    for part in ("head.weight", "head.bias"):
        state[part] = torch.empty_like(state[part])
        state[part][classes] = MODEL.state_dict()[part]
    batches = {"batch_size": 1} if form == "ssd" else {}
    found = edited(form, chosen(torch.arange(N), classes), with_weights(MODEL, state), **batches)
    same({**found, **{part: MODEL.state_dict()[part] for part in ("head.weight", "head.bias")}}, plain[form])
    assert all(torch.equal(found[part], state[part]) for part in ("head.weight", "head.bias"))
