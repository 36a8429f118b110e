"""Which edit and which attack works with which family of models: tried at toy size, as a table.

``PYTHONPATH=tests python tests/compatibility.py`` prints the table of experiments/README.md.
"""

import contextlib
import dataclasses
import sys

from families import FAMILIES, family, images

import vitmem
from vitmem.attacks import attacks
from vitmem.editing import edits

FEW = {"epochs": 1, "steps": 3, "tries": 3, "batch_size": 30, "draws": 1, "lr": 1e-3}
SMALL = {
    "relearn": {"arms": ("retain",), "steps": 3, "batch_size": 8},
    "quantize": {"bits": (8, 3), "groups": (8,)},
    "compress": {"draws": 1},
    "sequential": {"rounds": 1},
    "probes": {"permutations": 2},
    "imprint": {"permutations": 2, "steps": 3, "weight_decays": (0.0,)},
    "connectivity": {"points": 3, "relearn_steps": 2},
    "membership": {"shadows": 2},
    "prototype": {"draws": 1},
    "steer": {"depths": (0.5, 1.0), "alphas": (1.0,), "per_class": 3},
    "over_unlearning": {"draws": 1},
}
WORKS = "yes"


def tried(name: str) -> dict[str, str]:
    """Return for each edit and attack whether it works with a family: ``WORKS``, or why not."""
    model = family(name)
    start = {key: 0.9 * value for key, value in model.state_dict().items()}
    references = {"early_stop": family(name), "retrain": family(name)}
    subject = vitmem.adopt(
        model,
        images(),
        images(30, 1)[:2],
        initial=start,
        references=references,
        fit=lambda loader, seed: family(name),
    )
    found = {}
    for edit, cls in sorted(edits().items()):
        options = {field.name for field in dataclasses.fields(cls)}
        found[f"`{edit}`"] = _outcome(
            lambda edit=edit, options=options: vitmem.edit(
                subject, edit, **{option: value for option, value in FEW.items() if option in options}
            )
        )
    edited = vitmem.edit(subject, "scale")
    for attack in sorted(attacks()):
        found[f"attack `{attack}`"] = _outcome(
            lambda attack=attack: vitmem.attack(subject, attack, edited, **SMALL.get(attack, {}))
        )
    return found


def _outcome(make) -> str:
    """Return what came of an edit or attack; errors other than a line to the user are raised."""
    try:
        made = make()
    except ValueError as error:
        return str(error).partition(";")[0]
    assert getattr(made, "status", "ok") == "ok", made.status
    assert getattr(made, "rows", None) != []
    return WORKS


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """Return the outcomes of families as Markdown: one row for the methods that fare alike, reasons below."""
    methods = list(next(iter(outcomes.values())))
    alike: dict[tuple[str, ...], list[str]] = {}
    for method in methods:
        alike.setdefault(tuple(found[method] for found in outcomes.values()), []).append(method)
    reasons = list(dict.fromkeys(cell for cells in alike for cell in cells if cell != WORKS))
    lines = ["| | " + " | ".join(outcomes) + " |", "|---" * (len(outcomes) + 1) + "|"]
    for cells, names in sorted(alike.items(), key=lambda item: -len(item[1])):
        said = [cell if cell == WORKS else f"no [{reasons.index(cell) + 1}]" for cell in cells]
        lines.append("| " + " | ".join([", ".join(names), *said]) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}." for number, reason in enumerate(reasons, 1))])


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # progress of shadow models
        tables = {name: tried(name) for name in FAMILIES}
    print(table(tables))
