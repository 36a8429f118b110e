"""The Python interface, on models that nobody of the house has built."""

import copy
import math

import pytest
import torch
from families import CLASSES, FAMILIES, PIXELS, family, images
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vitmem
from vitmem.evaluation.metrics import wilson

OTHERS = images(30, seed=1)[:2]


def subject(name="plain CNN", **options):
    """Return a tiny model of a family with its images."""
    return vitmem.adopt(family(name), images(), OTHERS, **options)


def test_the_face_has_ten_names_and_they_are_documented():
    names = [name for name in vitmem.__all__ if not name.startswith("_")]
    assert len(names) == 10
    for name in names:
        said = getattr(vitmem, name).__doc__
        assert said, name
        if not isinstance(getattr(vitmem, name), type):
            assert ">>> " in said, f"{name} has no example"
    assert set(names) <= set(dir(vitmem))
    with pytest.raises(AttributeError, match="has no attribute 'edits'; there are: .*adopt"):
        vitmem.edits  # noqa: B018


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_measured_is_what_plain_pytorch_measures(name):
    model = family(name)
    image, given, true = images()
    found = vitmem.evaluate(vitmem.adopt(model, (image, given, true), OTHERS))

    def answers(x):
        with torch.no_grad():
            out = model(x)
        return getattr(out, "logits", out).argmax(1)

    said, noisy = answers(image), given != true
    assert found["memorized_accuracy"].value == (said == given)[noisy].double().mean()
    assert found["ground_truth_accuracy"].value == (said == true)[noisy].double().mean()
    assert found["clean_train_accuracy"].value == (said == true)[~noisy].double().mean()
    right = answers(OTHERS[0]) == OTHERS[1]
    assert found["validation_accuracy"].value == right.double().mean()
    assert found["validation_accuracy"].low == wilson(int(right.sum()), 30)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_edit_returns_weights_that_the_model_takes_and_changes_nothing(name):
    model = family(name)
    before = copy.deepcopy(model.state_dict())
    adopted = vitmem.adopt(model, images(), OTHERS)
    edited = vitmem.edit(adopted, "kfac", examples=40, batch_size=20, rho=0.5)
    assert edited.status == "ok"
    assert list(edited.state_dict) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in edited.state_dict.items())
    base = vitmem.evaluate(adopted)
    model.load_state_dict(edited.state_dict)
    assert vitmem.evaluate(adopted) == base  # the subject is a copy
    with torch.no_grad():
        out = model(OTHERS[0])
    accuracy = (getattr(out, "logits", out).argmax(1) == OTHERS[1]).double().mean()
    for weights in (edited, edited.state_dict, model):
        assert vitmem.evaluate(adopted, weights)["validation_accuracy"].value == accuracy


def test_images_come_as_tensors_datasets_and_loaders():
    model, (image, given, true) = family("plain CNN"), images()
    ways = [
        (image, given, true),
        (image.numpy(), given.numpy(), true.numpy()),
        TensorDataset(image, given, true),
        DataLoader(TensorDataset(image, given, true), batch_size=7),
        [(image[:50], given[:50], true[:50]), (image[50:], given[50:], true[50:])],
    ]
    first, *others = (vitmem.evaluate(vitmem.adopt(model, way, OTHERS)) for way in ways)
    assert all(other == first for other in others)
    apart = vitmem.adopt(model, (image, given), TensorDataset(*OTHERS), true=true)
    assert vitmem.evaluate(apart) == first
    assert vitmem.evaluate(model, None, (image, given, true), OTHERS) == first
    one = vitmem.edit(model, "svd", (image, given, true), keep=0.5)
    two = vitmem.edit(apart, "svd", keep=0.5)
    assert all(torch.equal(one.state_dict[name], value) for name, value in two.state_dict.items())


def test_bytes_are_normalised_by_the_models_own_mean_and_std():
    model, (_, given, true) = family("plain CNN"), images()
    image = torch.randint(0, 256, (60, 3, PIXELS, PIXELS), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    plain = (image.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    found = vitmem.evaluate(vitmem.adopt(model, (image, given, true), mean=mean, std=std))
    assert found == vitmem.evaluate(vitmem.adopt(model, (plain, given, true)))
    with pytest.raises(ValueError, match=r"uint8, and the mean and std .* are not given"):
        vitmem.adopt(model, (image, given, true))


def test_logits_head_and_blocks_may_be_given():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = family("plain CNN")

        def forward(self, x):
            return {"scores": self.inner(x)}

    model = Wrapped()
    with pytest.raises(ValueError, match="returns a dict, in which no logits are found; give logits="):
        vitmem.adopt(model, images())
    adopted = vitmem.adopt(model, images(), logits=lambda output: output["scores"], blocks=["inner.3"])
    assert adopted.model.anatomy.head == "inner.7"
    assert [row["layer"] for row in vitmem.edit(adopted, "scale").report["layers"]] == ["inner.3"]
    with pytest.raises(ValueError, match="the model has no part 'nothing'"):
        vitmem.adopt(model, images(), logits=lambda output: output["scores"], head="nothing")


def test_edits_may_need_what_only_the_user_knows():
    adopted = subject()
    with pytest.raises(ValueError, match="the weights that training started from are not known"):
        vitmem.edit(adopted, "rewind")
    start = {name: torch.zeros_like(value) for name, value in adopted.model.state_dict().items()}
    edited = vitmem.edit(subject(initial=start), "rewind", keep=0.25)
    assert torch.allclose(edited.state_dict["7.weight"], 0.25 * adopted.model.state_dict()["7.weight"])
    with pytest.raises(ValueError, match="not known how"):
        vitmem.attack(adopted, "membership", shadows=2)


def test_attacks_compare_with_references_that_are_given():
    adopted = subject(references={"retrain": family("plain CNN")})
    rows = vitmem.attack(adopted, "connectivity", points=3, relearn_steps=0).rows
    assert {row["path"] for row in rows} == {"retrain"}
    edited = vitmem.edit(adopted, "scale", factor=0.5)
    rows = vitmem.attack(adopted, "connectivity", edited, points=3, relearn_steps=0).rows
    assert {row["path"] for row in rows} == {"base", "retrain"}
    again = vitmem.attack(adopted, "sequential", edited, rounds=2).rows
    assert len(again) >= 2
    with pytest.raises(ValueError, match="'other' is none of"):
        subject(references={"other": family("plain CNN")})


def test_an_edit_may_be_an_object_and_one_of_the_users():
    class Halve(vitmem.Edit):
        """Halve the classifier."""

        def apply(self, model, data, generator):
            from vitmem.editing import EditResult

            state = {name: value / 2 for name, value in model.state_dict().items()}
            return EditResult(state, {"layers": []})

    edited = vitmem.edit(subject(), Halve())
    assert torch.equal(edited.state_dict["7.bias"], family("plain CNN").state_dict()["7.bias"] / 2)


def test_an_edit_that_diverges_says_so_and_has_no_weights():
    edited = vitmem.edit(subject(), "finetune", lr=1e17, epochs=3, batch_size=20)
    assert edited.status.startswith("diverged: ")
    assert edited.state_dict is None
    with pytest.raises(ValueError, match="the edit has no weights: diverged"):
        vitmem.evaluate(subject(), edited)


def test_curvature_has_a_basis_masses_and_coordinates():
    found = vitmem.curvature_of(
        subject("torchvision vit"), layers="blocks.0.*", moments="ekfac", examples=20, batch_size=10
    )
    layer = found.layers["encoder.layers.encoder_layer_0.self_attention.in_proj"]
    assert layer.mass.dense().shape == layer.coordinates_OI.shape == (48, 16)
    weights = layer.basis.u_g_OO.float() @ layer.coordinates_OI.float() @ layer.basis.u_a_II.float().T
    assert torch.allclose(weights, layer.map.matrix(), atol=1e-4)


def test_a_run_folder_is_opened_with_its_data(finished):
    adopted = vitmem.open_run(finished)
    rows = {row["id"]: row for row in vitmem.results(finished)}
    found = vitmem.evaluate(adopted)
    assert found["memorized_accuracy"].value == pytest.approx(rows["base"]["memorized_accuracy"], abs=1e-6)
    edited = vitmem.edit(adopted, "kfac", rho=0.9)
    same = vitmem.evaluate(adopted, edited)["validation_accuracy"].value
    assert same == pytest.approx(rows["kfac-rho0.9"]["validation_accuracy"], abs=1e-6)
    assert [row["method"] for row in vitmem.compare(finished)][:1] == ["base"]
    with pytest.raises(ValueError, match="there is no folder"):
        vitmem.open_run(finished / "nothing")
    with pytest.raises(ValueError, match="there is no table"):
        vitmem.results(finished / "edits")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vitmem.adopt(family("plain CNN"), 3), "train is a int that gives no images and labels"),
        (lambda: vitmem.adopt(family("plain CNN"), images()[:1]), "train has 1 parts"),
        (lambda: vitmem.adopt(family("plain CNN"), (images()[0], OTHERS[1])), r"expected integers of shape \(60,\)"),
        (lambda: vitmem.adopt(family("plain CNN"), (images()[0][0], OTHERS[1])), "expected N C H W"),
        (lambda: vitmem.adopt(family("plain CNN"), (images()[0], images()[1] + 2, images()[2])), "has 5 outputs"),
        (lambda: vitmem.adopt(family("plain CNN"), images(), true=images()[2]), "given twice"),
        (lambda: vitmem.adopt(family("plain CNN"), images(), mean=(0.5,)), "mean and std belong together"),
        (lambda: subject(mean=(0.5,), std=(0.5,)), "a number for each of the 3 channels"),
        (lambda: subject(mean=(0.5, 0.5, math.inf), std=(1, 1, 1)), "mean is"),
        (lambda: subject(known=0), "known is 0"),
        (lambda: vitmem.edit(subject(), "kfacc"), "unknown edit 'kfacc'"),
        (lambda: vitmem.edit(subject(), "kfac", rho=3), "rho is 3"),
        (lambda: vitmem.edit(subject(), "kfac", images()), "the subject has its data"),
        (lambda: vitmem.edit(family("plain CNN"), "kfac"), "a model needs its training images"),
        (lambda: vitmem.edit("model", "kfac"), "subject is a str"),
        (lambda: vitmem.attack(subject(), "relearnn"), "unknown attack"),
        (lambda: vitmem.adopt(nn.Flatten(), images()), "has no parameters"),
        (lambda: vitmem.adopt(nn.Conv2d(3, 4, 3), images()), "expected B K"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_number_of_classes_is_that_of_the_outputs():
    assert subject().data.data.num_classes == CLASSES


def test_without_true_labels_memory_is_agreement_and_what_needs_truth_is_absent():
    image, given, _ = images()
    adopted = vitmem.adopt(family("plain CNN"), (image, given), OTHERS)
    found = vitmem.evaluate(adopted)
    with torch.no_grad():
        said = family("plain CNN")(image).argmax(1)
    assert found["memorized_accuracy"].value == (said == given).double().mean()
    assert found["memorized_accuracy"].n == 60
    assert "ground_truth_accuracy" not in found
    assert vitmem.edit(adopted, "kfac", examples=30).status == "ok"
    with pytest.raises(ValueError, match="unknown"):
        vitmem.edit(adopted, "npo", epochs=1)
