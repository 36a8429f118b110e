import math

import pytest
import torch
from closed_form import DATA, MODEL, apply, before

from vitmem.curvature.layers import linear_maps
from vitmem.editing import edits
from vitmem.editing import parameters as shared
from vitmem.editing.contract import EditDiverged
from vitmem.editing.dampening import SSD, Potion
from vitmem.editing.prune import Magnitude, Wanda
from vitmem.editing.sap import SAP
from vitmem.editing.task_vector import TaskVector
from vitmem.editing.weight_space import Midpoint, WeightDistance, WeightDistortion
from vitmem.models.layers import select_layers

NEW = (
    "features", "magnitude", "midpoint", "norms_off", "potion", "probe_head", "sap", "ssd", "task_vector", "wanda",
    "weight_dist_reg", "weight_distortion",
)  # fmt: skip


def test_what_is_not_finite_is_an_edit_that_diverged():
    with pytest.raises(EditDiverged, match=r"the loss is .* in epoch 0"):
        apply(WeightDistortion(std=1e30, epochs=1))
    with pytest.raises(EditDiverged, match="head.weight is not finite"):
        shared.result(MODEL, {"head.weight": torch.full_like(before("head.weight"), math.nan)}, 0.0, 0)


def test_one_number_that_is_not_finite_is_enough():
    broken = before("head.weight").clone()
    broken[0, 0] = math.inf
    with pytest.raises(EditDiverged, match="head.weight is not finite after the edit"):
        shared.result(MODEL, {"head.bias": before("head.bias"), "head.weight": broken}, 0.0, 0)


def test_the_report_has_a_row_for_each_module():
    changed = {"head.weight": 2 * before("head.weight"), "head.bias": before("head.bias")}
    changed["pos_embed"] = 0 * before("pos_embed")
    found = shared.result(MODEL, changed, 0.0, 7, share=0.5)
    both = math.hypot(float(before("head.weight").norm()), float(before("head.bias").norm()))
    assert [row["layer"] for row in found.report["layers"]] == ["head", "pos_embed"]
    assert found.report["layers"][0]["relative_change"] == pytest.approx(float(before("head.weight").norm()) / both)
    assert found.report["layers"][1]["relative_change"] == pytest.approx(1.0)
    assert (found.report["extra_parameters"], found.report["share"]) == (7, 0.5)
    assert torch.equal(found.state_dict["head.weight"], changed["head.weight"])
    assert list(found.state_dict) == list(MODEL.state_dict())


def test_descending_goes_through_the_epochs_in_new_orders():
    parameter, seen, ended = torch.nn.Parameter(torch.tensor([1.0])), [], []
    loader = DATA.loader(DATA.train_examples.subset(slice(0, 6)), 4, shuffle=True, seed=3)

    def loss(batch):
        seen.append(batch.index.tolist())
        return (parameter**2).sum()

    shared.descend(loader, loss, torch.optim.SGD([parameter], lr=0.25), 3, ended.append)
    assert ended == [0, 1, 2]
    assert [len(part) for part in seen] == [4, 2] * 3
    assert seen[0] != seen[2]
    assert parameter.item() == 0.5**6  # each step halves it, and starts from no gradient
    loader.set_epoch(0)
    assert [batch.index.tolist() for batch in loader] == seen[:2]


def test_accuracy_is_on_the_given_labels():
    examples = DATA.train_examples.subset(DATA.train_examples.is_noisy)
    with torch.no_grad():
        said = torch.cat([MODEL(batch.image).argmax(1) for batch in DATA.loader(examples, 50)])
    expected = float((said == examples.given_label).double().mean())
    assert shared.accuracy(MODEL, DATA.loader(examples, 50)) == expected


def test_a_working_copy_asks_for_the_named_gradients_alone():
    twin = shared.working_copy(MODEL, ["head.weight"])
    assert [name for name, p in twin.named_parameters() if p.requires_grad] == ["head.weight"]
    assert not twin.training
    assert twin.head.weight is not MODEL.head.weight
    assert shared.draw_seed(torch.Generator().manual_seed(0)) == int(
        torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0))
    )


def test_all_parameters_or_those_of_layers():
    assert shared.chosen_parameters(MODEL, "*") == [name for name, _ in MODEL.named_parameters()]
    assert shared.chosen_parameters(MODEL, "head blocks.0.mlp.fc1") == [
        "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias", "head.weight", "head.bias",
    ]  # fmt: skip


def test_inputs_are_those_of_every_position():
    seen = []
    maps = linear_maps(select_layers(MODEL, "patch_embed.proj"))
    batch = next(iter(DATA.val_dataloader()[1]))
    shared.watch_inputs(MODEL, maps, [batch], lambda name, rows: seen.append(rows))
    patches = batch.image.double().view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 16)
    torch.testing.assert_close(seen[0], patches)


@pytest.mark.parametrize("name", sorted(edits()))
def test_search_spaces_hold_for_options_that_exist(name):
    edit = edits()[name]
    assert edit.search or name not in NEW
    for option, (kind, *values) in edit.search.items():
        assert kind in ("log", "uniform", "int", "choice")
        assert kind == "choice" or (len(values) == 2 and values[0] < values[1])
        for value in values:
            edit(**{option: value})


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        (SSD, {"alpha": 0.0}, "alpha is 0.0"),
        (SSD, {"lam": -1.0}, "lam is -1.0"),
        (Potion, {"stop": 1.0}, "stop is 1.0"),
        (Potion, {"tries": 0}, "tries is 0"),
        (SAP, {"alpha": 0.5}, "alpha is 0.5; it must be at least 1"),
        (SAP, {"examples": 0}, "examples is 0"),
        (SAP, {"exponent": 0.0}, "exponent is 0.0; it must be positive and finite"),
        (Magnitude, {"keep": 0.0}, "keep is 0.0"),
        (Wanda, {"forget": 2.0}, "forget is 2.0"),
        (TaskVector, {"scale": 0.0}, "scale is 0.0"),
        (TaskVector, {"draws": 0}, "draws is 0"),
        (WeightDistortion, {"std": math.nan}, "std is nan"),
        (WeightDistance, {"epochs": 0}, "epochs is 0"),
        (Midpoint, {"alpha": 0.0}, "alpha is 0.0"),
    ],
)
def test_options_out_of_range(edit, options, message):
    with pytest.raises(ValueError, match=message):
        edit(**options)
