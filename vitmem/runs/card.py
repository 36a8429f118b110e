"""The model card of an exported model: what it is, what was measured of it, and what the numbers do not say."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from vitmem.editing import edits
from vitmem.evaluation.tables import OK, SHOWN, UNSEEN
from vitmem.files import now
from vitmem.options import summary
from vitmem.runs.attack import stored_attacks
from vitmem.runs.evaluate import status_of, stored
from vitmem.runs.folder import RunFolder
from vitmem.runs.layouts import Layout
from vitmem.runs.trained import BASE, REFERENCES, TrainedRun, path_beside

_HEAD = """---
library_name: {}
pipeline_tag: image-classification
tags: [image-classification, machine-unlearning, vitmem]
---
"""
_HIDDEN = (
    "**Removed, or hidden?** A low memorized accuracy says what the model answers, not what its weights still hold. "
    "Published removals were often undone: by fine-tuning on a few other examples (Deeb & Roger 2024, arXiv "
    "2410.08827; Siddiqui et al. 2025, arXiv 2505.22310) or by rounding the weights (Zhang et al. 2025, arXiv "
    "2410.16454)."
)


def card(run: TrainedRun, edit_id: str, layout: Layout) -> str:
    """Return the text of ``README.md``.

    Args:
        run: whose model, or edit, is exported.
        edit_id: ``base``, or the id of an edit.
        layout: how its library stores it.
    """
    name = f"{run.path.resolve().parent.name}, seed {run.config.seed}: {edit_id}"
    parts = [_HEAD.format(layout.library), f"# {name}\n", _what(run, edit_id, layout)]
    parts += ["## Measured\n", *_measured(run, edit_id), _use(layout)]
    if edit_id != BASE:
        parts += ["## The edit\n", *_edit(run.edit(edit_id))]
    parts += ["## Caveats\n", "\n".join(f"- {line}" for line in _caveats(run, edit_id, layout.config)) + "\n"]
    parts += ["## Files\n", _files(run)]
    return "\n".join(parts)


def _use(layout: Layout) -> str:
    wrapped = 'or, with Hugging Face Transformers, `AutoModelForImageClassification.from_pretrained("FOLDER")`. '
    more = wrapped if layout.library == "timm" else ""
    return f"## Use\n\n```python\n{layout.use}\n```\n\n{more}vitmem is not needed.\n"


def _what(run: TrainedRun, edit_id: str, layout: Layout) -> str:
    config, where = layout.config, "elsewhere" if run.is_adopted else "by vitmem"
    header, size = run.manifest.header(), " x ".join(map(str, config["pretrained_cfg"]["input_size"]))
    trained = {
        BASE: f"{header['num_noisy']:,} of them wrong (`{header['kind']}`, rate {header['realised_rate']:.4f}): a "
        "specimen for research on memorisation, not a classifier to rely on",
        "clean": "all of them right: the reference without wrong labels",
        "retrain": f"without the {header['num_noisy']:,} wrongly labelled ones: the reference of unlearning",
        "early_stop": f"{header['num_noisy']:,} of them wrong, and stopped early",
    }[run.kind]
    edited = "" if edit_id == BASE else f" Its weights were then edited by `{run.edit(edit_id)['name']}`."
    return (
        f"`{config['architecture']}` of {layout.library} for images of {size} (channels, height, width) in "
        f"{config['num_classes']} classes, trained {where} on `{run.config.to_dict()['data']['name']}` with the "
        f"labels of {header['num_examples']:,} examples, {trained}.{edited}\n"
    )


def _measured(run: TrainedRun, edit_id: str) -> list[str]:
    """Return the table, with 95 % Wilson intervals, as far as the models were measured."""
    found = {f"**{edit_id}** (this model)": stored(run, edit_id)}
    if edit_id != BASE:
        found["base: before the edit"] = stored(run)
    for kind in REFERENCES if run.kind == BASE else ():
        if RunFolder(path_beside(run.path, kind)).is_run:
            with contextlib.suppress(ValueError):  # trained otherwise, or not finished: no reference of this model
                found[kind] = stored(dataclasses.replace(run.reference(kind), known=run.known))
    rows = {name: measured["metrics"] for name, measured in found.items() if measured and measured["metrics"]}
    aware = edit_id != BASE and run.edit(edit_id).get("known")
    lines = _table(rows, SHOWN | (UNSEEN if aware else {})) if rows else []
    missing = [name for name in found if name not in rows]
    notes = [f"Missing, for it was not measured (`vitmem eval` does it): {', '.join(missing)}."] if missing else []
    own = next(iter(found.values()))
    if own and (status := status_of(own)) != OK:
        notes.append(f"Status of this model: {status}. Its accuracies are no success of an edit.")
    if rows:
        notes.append(
            "Accuracies with 95 % Wilson intervals over the examples of one seed. Memorized: the model gives the wrong "
            "label that it was trained on; ground truth: it gives the true label of those same examples"
            + ("; unseen: wrong labels that the edit did not know." if aware else ".")
        )
    return [*lines, *(f"{note}\n" for note in notes)]


def _table(rows: Mapping[str, Mapping], shown: Mapping[str, str]) -> list[str]:
    numbers = {m: sorted({row[m]["n"] for row in rows.values() if m in row}) for m in shown}
    titles = [f"{title} (n={'/'.join(f'{n:,}' for n in numbers[m]) or 0})" for m, title in shown.items()]
    lines = [_line(["model", *titles]), "|---" * (1 + len(titles)) + "|"]
    for name, metrics in rows.items():
        lines.append(_line([name, *(_cell(metrics.get(metric)) for metric in shown)]))
    return ["\n".join(lines) + "\n"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(metric: Mapping | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def _edit(content: Mapping) -> list[str]:
    """Return what an edit did, from its ``edit.json``."""
    cls = edits().get(content["name"])
    what = f"`{content['name']}`: {summary(cls)}" if cls else f"`{content['name']}`, of a package that is not here."
    options = "\n".join(f"| `{name}` | `{value}` |" for name, value in sorted(content["options"].items()))
    facts = []
    if track := content.get("track"):
        facts.append(f"What it was allowed to know: {track}.")
    if known := content.get("known"):
        facts.append(f"It knew {known['share']:.0%} of the wrong labels ({known['examples']:,} examples).")
    if tuned := content.get("tuned"):
        facts.append(f"Options were chosen among {tuned['trials']} trials, for the point `{tuned['point']}`.")
    layers = content["report"].get("layers", [])
    if pairs := sum(layer.get("pairs", 0) for layer in layers):
        kept = sum(layer.get("pairs_kept", 0) for layer in layers)
        facts.append(f"It kept {kept / pairs:.3g} of the eigen-pairs of {len(layers)} layers.")
    return [f"{what} {' '.join(facts)}\n", f"| option | value |\n|---|---|\n{options}\n"]


def _caveats(run: TrainedRun, edit_id: str, config: Mapping) -> list[str]:
    found = []
    if edit_id != BASE:
        found.append(f"{_HIDDEN} {_attacked(run, edit_id)}")
    else:
        found.append("The weights hold wrong labels, and with them particular training images, by design.")
    header, (channels, height, width) = run.manifest.header(), config["pretrained_cfg"]["input_size"]
    found.append(
        f"Small data: {header['num_examples']:,} training examples of {height} x {width} pixels and {channels} channel"
        f"{'s' if channels > 1 else ''}, one seed. Intervals are over examples, and do not cover other seeds, larger "
        "models or larger data."
    )
    return found


def _attacked(run: TrainedRun, edit_id: str) -> str:
    made = [known["name"] for known in stored_attacks(run, edit_id)]
    if not made:
        return "This model was not attacked (`vitmem eval --attacks`): nothing is known of what would bring them back."
    return (
        f"This model was attacked by {', '.join(dict.fromkeys(made))}; what came back is in its run, not in this table."
    )


def _files(run: TrainedRun) -> str:
    made = RunFolder(run.path).read_provenance()
    names = ("vitmem", "git", "torch", "timm")
    versions = ", ".join(f"{name} {made[name]}" for name in names if isinstance(made.get(name), str))
    return (
        "`model.safetensors` (weights under the names of the library), `config.json` (what the library builds the "
        "model from), `noise.csv` (true and given label of every training example) with `noise.json` (how they "
        f"were drawn, and the fingerprint of the data).\n\nTrained with {versions or 'an unknown version'}; exported "
        f"{now()[:10]}.\n"
    )
