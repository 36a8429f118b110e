"""What edits do unless told otherwise: the settings of the papers and repositories that their help names."""

import dataclasses

import pytest
import torch
from cases import vit
from edited import DATA, apply
from nulls import NULLS

from vitmem.editing import edits
from vitmem.editing.contract import added, completed, identifying, identity
from vitmem.editing.subnet import PRESETS

CURVATURE = {
    "layers": "blocks.*", "bias": False, "moments": "kfac", "tokens": "all", "labels": "sampled", "draws": 1, "top": 10,
    "temperature": 1.0, "examples": 10_000, "split": "train", "noisy": "included", "seed": 0, "dtype": "float32",
    "batch_size": 64, "layers_per_pass": 0, "factor_device": "model", "basis": "kfac", "rho": 0.75, "fraction": None,
    "pairs": None, "tau": None, "scope": "layer", "filter": "hard", "exponent": 1.0, "of": "weights", "masses": "ag",
    "permuted": False, "at": "end",
}  # fmt: skip
GRADED = {"scope": "global", "filter": "graded", "exponent": 0.5}
EKFAC = CURVATURE | GRADED | {"moments": "ekfac", "labels": "exact"}
TRAINING = {
    "lr": 0.01, "epochs": 10, "steps": None, "batch_size": 256, "optimiser": "sgd", "momentum": 0.9,
    "weight_decay": 5e-4, "clip": 0.0,
}  # fmt: skip
BOTH = TRAINING | {"forget_batch_size": 64}
RELABELLED = BOTH | {"lr": 0.013, "forget_batch_size": 256}
LAST_LAYERS = TRAINING | {"lr": 0.025, "steps": 1000, "batch_size": 512, "k": 2}
SUBNET = TRAINING | {"lr": 0.1, "epochs": 5, "batch_size": 64, "layers": "blocks.*.mlp.*", "ratio": 0.01}
FILTERED = {"filter": "hard", "exponent": 1.0, "of": "weights"}
FAR = {"layers": "*", "epochs": 100, "lr": 1e-5, "batch_size": 64}

SETTINGS = {
    "kfac": CURVATURE,
    "ekfac": EKFAC,
    "ekfac_auto": EKFAC
    | {
        "rhos": "0.97 0.95 0.92 0.9 0.87 0.85 0.82 0.8 0.77 0.75 0.7 0.65 0.6 0.5 0.4",
        "exponents": "0.5 0.7 1",
        "layer_choices": "",
    },
    "ekfac_polish": EKFAC | {"noisy": "excluded", "steps": 50, "lr": 1e-4, "step_size": 64},
    "input_filter": CURVATURE | GRADED | {"moments": "inputs"},
    "random_pairs": CURVATURE | {"permuted": True},
    "top_removed": CURVATURE,
    "svd": FILTERED | {"layers": "blocks.*", "keep": 0.1, "share": "rank", "scope": "layer"},
    "scale": {"layers": "blocks.*", "factor": 0.6, "part": "all", "temperature": 1.0},
    "norms_off": {"layers": "*", "keep": 0.0},
    "rewind": {"layers": "all", "keep": 0.5, "slope": 0.0, "to": "initial"},
    "rewind_filtered": EKFAC | {"keep": 0.5, "mix": 0.5},
    "rewind_by_block": {"keep": 0.5, "rounds": 4, "step": 0.5, "batch_size": 250},
    "magnitude": FILTERED | {"layers": "blocks.*", "keep": 0.5, "scope": "layer", "exponent": 2.0},
    "wanda": {"layers": "blocks.*", "keep": 0.5, "forget": None, "examples": 128, "batch_size": 100},
    "features": {"layers": "blocks.*", "keep": 0.3, "examples": 1000, "batch_size": 100},
    "sap": {
        "layers": "patch_embed.proj blocks.*", "alpha": 1e5, "examples": 1000, "batch_size": 100, "exponent": 1.0,
        "images": "right",
    },
    "probe_head": {"keep": 0.0, "c": 1.0, "examples": 10_000, "batch_size": 100},
    "ssd": {"layers": "*", "alpha": 5.0, "lam": 1.0, "reference": "all", "batch_size": 64},
    "potion": {"layers": "*", "stop": 0.2, "tries": 500, "batch_size": 64},
    "task_vector": {
        "layers": "*", "scale": 1.0, "proxy": "validation", "draws": 2, "epochs": 60, "lr": 1e-4, "batch_size": 64,
    },
    "weight_distortion": FAR | {"std": 0.02},
    "weight_dist_reg": FAR | {"alpha": 1.0},
    "midpoint": FAR | {"alpha": 1e-3, "gamma": 50.0},
    "finetune": TRAINING,
    "l1_sparse": TRAINING | {"alpha": 1e-4},
    "cfk": LAST_LAYERS,
    "euk": LAST_LAYERS,
    "gradient_ascent": TRAINING | {"lr": 1e-4, "epochs": 5},
    "neggrad": BOTH | {"batch_size": 32, "weight_decay": 0.0, "alpha": 0.95},
    "npo": BOTH
    | {
        "lr": 1e-5, "batch_size": 32, "forget_batch_size": 32, "optimiser": "adamw", "weight_decay": 0.01, "clip": 1.0,
        "beta": 0.1, "alpha": 1.0,
    },
    "random_labels": RELABELLED,
    "oracle_labels": RELABELLED,
    "salun": RELABELLED | {"fraction": 0.5},
    "scrub": BOTH
    | {
        "lr": 5e-4, "batch_size": 32, "optimiser": "adam", "weight_decay": 0.1, "max_epochs": 3, "alpha": 0.5,
        "gamma": 1.0, "temperature": 2.0, "drops": "5 8 9", "decayed": "all",
    },
    "bad_teacher": BOTH | {"lr": 0.025, "steps": 1000, "batch_size": 512},
    "subnet": SUBNET,
    "balanced_subnet": SUBNET | {"preset": "authors", "w": 0.05, "forget_batch_size": 64, "batches": "mixed"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(edits()))
def test_the_settings_are_those_of_the_sources(name):
    assert dataclasses.asdict(edits()[name]()) == SETTINGS[name]


def test_the_presets_of_balanced_subnet():
    for preset, options in PRESETS.items():
        found = dataclasses.asdict(edits()["balanced_subnet"](preset=preset))
        assert found == SETTINGS["balanced_subnet"] | options | {"preset": preset}
    given = edits()["balanced_subnet"](preset="digits", w=0.0, ratio=0.5)
    assert (given.w, given.ratio, given.epochs) == (0.0, 0.5, 30)
    with pytest.raises(ValueError, match="preset is 'theirs'; choose from authors, merullo, digits"):
        edits()["balanced_subnet"](preset="theirs")


def test_options_that_joined_later_do_not_tell_old_results_apart():
    kfac = edits()["kfac"]
    assert not {"of", "masses", "permuted", "basis"} & identity(kfac()).keys()
    assert identity(kfac(of="update", basis="svd")) == identity(kfac()) | {"of": "update", "basis": "svd"}
    assert added(3).default == 3
    assert added(3).metadata["added"] is True


def test_where_a_new_option_changed_the_default_old_results_are_of_the_old_way():
    before = {
        "scrub": {"drops": "none", "decayed": "matrices"},
        "balanced_subnet": {"batches": "apart"},
    }
    for name, options in before.items():
        edit = edits()[name]
        old = {key: value for key, value in dataclasses.asdict(edit(**options)).items() if key not in options}
        assert identity(edit(**options)) == identifying(edit, old) == old  # the same edit, made again for nothing
        assert identity(edit()).keys() == dataclasses.asdict(edit()).keys()  # another edit, made anew
        assert edit(**completed(edit, old)) == edit(**options)
        assert completed(edit, dataclasses.asdict(edit())) == dataclasses.asdict(edit())


# Numbers that an edit holds beside the model's own, of a model of P numbers; M in the chosen matrices.
P = sum(p.numel() for p in vit(classes=10).parameters())
CHOSEN = ("qkv", "proj", "fc1", "fc2")
SHAPES = [(48, 16), (16, 16), (64, 16), (16, 64)] * 2
M, MOMENTS = sum(o * i for o, i in SHAPES), sum(i * i for _, i in SHAPES)
HELD = {
    "features": MOMENTS, "sap": MOMENTS + 16 * 16, "wanda": M, "magnitude": M, "scale": 0, "norms_off": 0, "rewind": P,
    "ssd": 2 * P, "potion": 3 * P, "task_vector": 2 * P, "weight_distortion": P, "weight_dist_reg": P, "midpoint": P,
    "probe_head": 50 * 16,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HELD))
def test_what_an_edit_holds_is_counted(name):
    model = vit("token", classes=10, dtype=torch.float32).eval()
    options = NULLS[name] if isinstance(NULLS[name], dict) else {"potion": {"tries": 1}, "sap": {"examples": 50}}[name]
    assert apply(edits()[name](**options), model).report["extra_parameters"] == HELD[name]
    assert len(DATA.train_examples) > 50
