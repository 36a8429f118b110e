"""Shapes of what a run folder holds in JSON beside its model: edits, measurements, attacks, trials."""

from vitmem.evaluation.metrics import ACCURACIES, METRICS, OPTIONAL
from vitmem.shapes import AMOUNT, CELL, COUNT, NAME, SHA256, SHARE, Each, Number

_SOME_SHARE = Number(1e-9, 1)
_COST = {
    "passes": AMOUNT,
    "seconds": AMOUNT,
    "extra_memory_bytes": (AMOUNT, None),
}
TRIAL = {
    "number": COUNT,
    "options": dict,
    "status": str,
    "objective": float,
    "memorized": (SHARE, None),
    "ground_truth": (SHARE, None),
    "validation": (SHARE, None),
    **_COST,
}
TRIALS = {
    "inputs": SHA256,
    "unedited": {"memorized": (SHARE, None), "ground_truth": (SHARE, None), "validation": (SHARE, None)},
}
_CHOSEN = {**TRIAL, "objective": (float, None)}
_TUNED = {"point": str, "trials": Number(1, COUNT.high, whole=True), "chosen": _CHOSEN, **_COST}
_LAYER = {"layer?": str, "pairs?": AMOUNT, "pairs_kept?": AMOUNT}
EDIT = {
    "id": NAME,
    "name": str,
    "main_option": (str, None),
    "options": dict,
    "sees?": [str],
    "track?": str,
    "known?": ({"share": _SOME_SHARE, "examples": COUNT}, None),
    "tuned?": (_TUNED, None),
    "status?": str,
    "inputs": SHA256,
    "report": {"layers?": [_LAYER], "seconds?": Each(str, AMOUNT), "extra_parameters?": (AMOUNT, None)},
    "cost?": ({**_COST, "extra_parameters": (AMOUNT, None)}, None),
    "weights_sha256": (SHA256, None),
    "removed_sha256?": (SHA256, None),  # of weights that were stored, and measured, until they were cleaned away
}
_ACCURACY = (  # of some examples, or of none
    {"n": COUNT, "value": SHARE, "low": SHARE, "high": SHARE},
    {"n": Number(0, 0, whole=True), "value": None, "low": None, "high": None},
)
_MEAN = {"value": (float, None), "n": COUNT}
MEASURED = {
    "inputs": SHA256,
    "known?": (_SOME_SHARE, None),
    "metrics": {
        f"{name}?" if name in OPTIONAL else name: _ACCURACY if name in ACCURACIES else _MEAN
        for name in METRICS
        if name != "ground_truth_recovered"
    },
    "added?": Each(NAME, {**_MEAN, "low": (float, None), "high": (float, None), "by": str}),
    "at_chance": bool,
    "status?": str,
    "examples_sha256?": SHA256,
}
_PATH = {
    "barrier": Each(str, (float, None)),
    "memory_back": (float, None),
    "distance": Each(str, {"distance": (float, None), "relative": (float, None)}),
}
ATTACK = {
    "id": NAME,
    "attack": NAME,
    "name": str,
    "options": dict,
    "settings": [str],
    "inputs": SHA256,
    "references": Each(NAME, (SHA256, None)),
    "rows": [Each(str, CELL)],
    "report": {
        **dict.fromkeys(("failed?", "stopped?", "skipped?", "diverged?"), (str, [str], None)),
        "paths?": Each(str, _PATH),
        "undefined?": Each(str, str),
    },
    "seconds": AMOUNT,
}
ANALYSIS = {
    "id": NAME,
    "analysis": NAME,
    "name": str,
    "options": dict,
    "settings": [str],
    "inputs": SHA256,
    "references": Each(NAME, (SHA256, None)),
    "edits": ([NAME], None),
    "rows": [Each(str, CELL)],
    "report": dict,
    "seconds": AMOUNT,
    "scores_sha256": (SHA256, None),
}
