"""The smallest and the largest value that an option may have, and the next one that is refused."""

import dataclasses
import math

import pytest
from unlearning import MODEL

from vitmem.editing import edits

INF, NAN = math.inf, math.nan
COUNT, SHARE, KEPT = ((1,), (0, -1)), ((0, 1), (-1e-9, 1 + 1e-9, NAN)), ((1e-9, 1), (0, 1 + 1e-9, NAN))
POSITIVE, NOT_NEGATIVE = ((1e-9, 1e9), (0, -1e-9, INF, NAN)), ((0, 1e9), (-1e-9, INF, NAN))
CURVATURE = {
    "examples": COUNT, "batch_size": COUNT, "draws": COUNT, "top": COUNT, "layers_per_pass": ((0, 1), (-1,)),
    "temperature": ((1e-9, 1e9), (0, -1, NAN)), "rho": KEPT, "fraction": KEPT, "pairs": COUNT, "tau": POSITIVE,
    "exponent": POSITIVE,
}  # fmt: skip
TRAINING = {
    "lr": POSITIVE, "epochs": COUNT, "steps": COUNT, "batch_size": COUNT, "momentum": ((0, 1 - 1e-9), (-1e-9, 1)),
    "weight_decay": NOT_NEGATIVE, "clip": NOT_NEGATIVE,
}  # fmt: skip
BOTH = TRAINING | {"forget_batch_size": COUNT}
LAST = TRAINING | {"k": ((1, 2, -1), (0, -2))}
FAR = {"epochs": COUNT, "batch_size": COUNT, "lr": POSITIVE}
IMAGES = {"examples": COUNT, "batch_size": COUNT}
BOUNDS = {
    "kfac": CURVATURE,
    "ekfac": CURVATURE,
    "input_filter": CURVATURE,
    "random_pairs": CURVATURE,
    "top_removed": CURVATURE,
    "ekfac_auto": {o: b for o, b in CURVATURE.items() if o not in ("rho", "fraction", "pairs", "tau", "exponent")},
    "ekfac_polish": CURVATURE | {"steps": COUNT, "lr": POSITIVE, "step_size": COUNT},
    "svd": {"keep": KEPT, "exponent": POSITIVE},
    "magnitude": {"keep": KEPT, "exponent": POSITIVE},
    "wanda": {"keep": KEPT, "forget": KEPT, **IMAGES},
    "scale": {"factor": SHARE, "temperature": ((1, 1e9), (1 - 1e-9, INF, NAN))},
    "norms_off": {"keep": SHARE},
    "rewind": {"keep": SHARE},
    "rewind_filtered": CURVATURE | {"keep": SHARE, "mix": SHARE},
    "rewind_by_block": {
        "keep": SHARE,
        "rounds": COUNT,
        "step": ((1e-9, 1), (0, 1 + 1e-9, NAN)),
        "batch_size": COUNT,
    },
    "features": {"keep": KEPT, **IMAGES},
    "sap": {"alpha": ((1, 1e9), (1 - 1e-9, NAN)), "exponent": POSITIVE, **IMAGES},
    "probe_head": {"keep": SHARE, "c": POSITIVE, **IMAGES},
    "ssd": {"alpha": ((1e-9, 1e9), (0, -1, NAN)), "lam": ((1e-9, 1e9), (0, -1, NAN)), "batch_size": COUNT},
    "potion": {"stop": ((0, 1 - 1e-9), (-1e-9, 1, NAN)), "tries": COUNT, "batch_size": COUNT},
    "task_vector": {
        "scale": ((1e-9, 1e9), (0, NAN)),
        "lr": ((1e-9, 1e9), (0, NAN)),
        "draws": COUNT,
        "epochs": COUNT,
        "batch_size": COUNT,
    },
    "weight_distortion": FAR | {"std": POSITIVE},
    "weight_dist_reg": FAR | {"alpha": POSITIVE},
    "midpoint": FAR | {"alpha": POSITIVE, "gamma": NOT_NEGATIVE},
    "finetune": TRAINING,
    "gradient_ascent": TRAINING,
    "l1_sparse": TRAINING | {"alpha": NOT_NEGATIVE},
    "cfk": LAST,
    "euk": LAST,
    "neggrad": BOTH | {"alpha": SHARE},
    "npo": BOTH | {"alpha": NOT_NEGATIVE, "beta": POSITIVE},
    "random_labels": BOTH,
    "oracle_labels": BOTH,
    "salun": BOTH | {"fraction": KEPT},
    "scrub": BOTH
    | {"max_epochs": ((0, 1), (-1,)), "alpha": NOT_NEGATIVE, "gamma": NOT_NEGATIVE, "temperature": POSITIVE},
    "bad_teacher": BOTH,
    "subnet": TRAINING | {"ratio": ((1e-9, 1 - 1e-9), (0, 1, NAN))},
    "balanced_subnet": BOTH | {"ratio": ((1e-9, 1 - 1e-9), (0, 1, NAN)), "w": SHARE},
}
CASES = [(name, option) for name, options in BOUNDS.items() for option in options]


def test_every_edit_has_its_bounds():
    assert sorted(BOUNDS) == sorted(edits())


@pytest.mark.parametrize(("name", "option"), CASES)
def test_values_at_the_bounds_are_allowed_and_those_beyond_are_refused(name, option):
    allowed, refused = BOUNDS[name][option]
    for value in allowed:
        assert getattr(edits()[name](**{option: value}), option) == value
    for value in refused:
        shown = option if option != "step_size" else "(step_size|batch_size)"
        with pytest.raises(ValueError, match=rf"^{shown} is {value}"):
            edits()[name](**{option: value})


IDLE = [
    ("kfac", {}, {"exponent"}),
    ("kfac", {"filter": "graded"}, set()),
    ("kfac", {"pairs": 3}, {"rho", "exponent"}),
    ("ekfac", {"tau": 1.0}, {"rho"}),
    ("svd", {}, {"exponent"}),
    ("svd", {"filter": "graded"}, set()),
    ("magnitude", {}, {"exponent"}),
    ("probe_head", {}, set()),
    ("probe_head", {"keep": 1.0}, {"c"}),
    ("finetune", {}, set()),
    ("cfk", {}, {"epochs"}),
    ("neggrad", {"steps": 3}, {"epochs"}),
    ("balanced_subnet", {}, {"forget_batch_size"}),
    ("balanced_subnet", {"preset": "digits"}, set()),
]


@pytest.mark.parametrize(("name", "options", "idle"), IDLE)
def test_options_without_effect_are_told(name, options, idle):
    assert edits()[name](**options).idle == idle


NEEDS = {
    frozenset(): ("svd", "magnitude", "scale", "norms_off"),
    frozenset({"initial"}): ("rewind",),
    frozenset({"unlabeled"}): ("kfac", "ekfac", "input_filter", "random_pairs", "top_removed", "features", "wanda"),
    frozenset({"unlabeled", "validation"}): ("ekfac_auto",),
    frozenset({"unlabeled", "initial"}): ("rewind_filtered",),
    frozenset({"initial", "validation"}): ("rewind_by_block",),
    frozenset({"given"}): ("probe_head",),
    frozenset({"validation"}): ("task_vector",),
    frozenset({"retain"}): (
        "ekfac_polish", "sap", "finetune", "l1_sparse", "cfk", "euk", "weight_distortion", "weight_dist_reg",
    ),
    frozenset({"forget"}): ("gradient_ascent", "subnet"),
    frozenset({"forget", "given"}): ("ssd",),
    frozenset({"forget", "retain"}): (
        "potion", "midpoint", "neggrad", "npo", "random_labels", "oracle_labels", "salun", "scrub", "bad_teacher",
        "balanced_subnet",
    ),
}  # fmt: skip
OTHERWISE = [
    ("kfac", {"of": "update"}, {"unlabeled", "initial"}),
    ("kfac", {"of": "update", "basis": "svd", "masses": "size"}, {"initial"}),
    ("kfac", {"basis": "svd", "masses": "size"}, set()),
    ("kfac", {"basis": "svd"}, {"unlabeled"}),
    ("kfac", {"split": "validation", "labels": "given"}, {"validation", "given"}),
    ("svd", {"of": "update"}, {"initial"}),
    ("wanda", {"forget": 0.1}, {"forget", "retain"}),
    ("ssd", {"reference": "retain"}, {"forget", "retain"}),
    ("sap", {"images": "unlabeled"}, {"unlabeled"}),
    ("task_vector", {"proxy": "forget"}, {"forget"}),
    ("npo", {"alpha": 0.0}, {"forget"}),
]


def test_what_every_edit_sees():
    found = {name: frozenset(edits()[name]().sees) for name in edits()}
    assert found == {name: sees for sees, names in NEEDS.items() for name in names}
    for name, options, sees in OTHERWISE:
        assert edits()[name](**options).sees == sees, (name, options)


MAIN = {
    "rho": ("kfac", "ekfac", "ekfac_polish", "input_filter", "random_pairs", "top_removed"),
    "keep": (
        "svd", "magnitude", "wanda", "norms_off", "rewind", "features", "probe_head", "rewind_filtered",
        "rewind_by_block",
    ),
    "alpha": ("ssd", "sap", "weight_dist_reg", "midpoint"),
    "lr": (
        "finetune", "gradient_ascent", "l1_sparse", "neggrad", "npo", "random_labels", "oracle_labels", "salun",
        "scrub", "bad_teacher",
    ),
    "ratio": ("subnet", "balanced_subnet"),
    "k": ("cfk", "euk"),
    "factor": ("scale",), "stop": ("potion",), "scale": ("task_vector",), "std": ("weight_distortion",),
    None: ("ekfac_auto",),
}  # fmt: skip


def test_the_option_that_a_result_is_named_by():
    found = {name: edits()[name]().main_option for name in edits()}
    assert found == {name: option for option, names in MAIN.items() for name in names}
    assert edits()["kfac"](pairs=3).main_option == "pairs"
    assert dataclasses.replace(edits()["kfac"](), tau=1.0).main_option == "tau"


def test_more_layers_than_there_are_and_a_share_of_none():
    for k in (1, 4, -1):
        edits()["cfk"](k=k).check(MODEL)
    edits()["subnet"](ratio=1.5 / 1024).check(MODEL)  # one weight of the largest matrix
    with pytest.raises(ValueError, match="ratio is 0.0009; the largest matrix has 1024 weights, so none is removed"):
        edits()["subnet"](ratio=0.0009).check(MODEL)
