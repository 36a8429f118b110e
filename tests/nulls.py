"""The options with which each edit does nothing, or why it has none."""

NO_STEP = 1e-300  # a learning rate, or the size of a change, that is 0 in the type of the weights
TRAINED = {"lr": NO_STEP, "weight_decay": 0.0}
MEASURED = {"rho": 1.0, "examples": 50}

NULLS: dict[str, dict | str] = {
    "kfac": MEASURED,
    "ekfac": MEASURED,
    "ekfac_auto": {"rhos": "1", "exponents": "1", "examples": 50},
    "ekfac_polish": {**MEASURED, "lr": NO_STEP, "steps": 2},
    "input_filter": MEASURED,
    "svd": {"keep": 1.0},
    "scale": {"factor": 1.0},
    "norms_off": {"keep": 1.0},
    "rewind": {"keep": 1.0},
    "random_pairs": MEASURED,
    "top_removed": MEASURED,
    "bad_teacher": {**TRAINED, "steps": 2},
    "balanced_subnet": "it removes at least one weight of the largest matrix",
    "cfk": {**TRAINED, "steps": 2},
    "euk": "it draws the last layers anew",
    "finetune": {**TRAINED, "steps": 2},
    "gradient_ascent": {**TRAINED, "steps": 2},
    "l1_sparse": {**TRAINED, "steps": 2},
    "neggrad": {**TRAINED, "steps": 2},
    "npo": {**TRAINED, "steps": 2},
    "oracle_labels": {**TRAINED, "steps": 2},
    "random_labels": {**TRAINED, "steps": 2},
    "salun": {**TRAINED, "steps": 2},
    "scrub": {**TRAINED, "steps": 2},
    "subnet": "it removes at least one weight of the largest matrix",
    "features": {"keep": 1.0},
    "magnitude": {"keep": 1.0},
    "midpoint": {"lr": NO_STEP, "epochs": 1},
    "potion": "it dampens at least once",
    "probe_head": {"keep": 1.0, "examples": 50},
    "sap": "it reaches the weights only in the limit of alpha, and not where no input points",
    "ssd": {"alpha": 1e300},
    "task_vector": {"scale": NO_STEP, "epochs": 1, "draws": 1},
    "wanda": {"keep": 1.0},
    "weight_dist_reg": {"lr": NO_STEP, "epochs": 1},
    "weight_distortion": {"std": NO_STEP, "lr": NO_STEP, "epochs": 1},
}
