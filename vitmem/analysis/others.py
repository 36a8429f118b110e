"""The other models of an experiment that an analysis sets beside its own, and the edits that patterns choose."""

import fnmatch
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from vitmem.analysis.contract import AnalysisData
from vitmem.evaluation.metrics import Metric, compute
from vitmem.models.build import with_weights

REFERENCES = ("base", "retrain", "clean", "early_stop")
SEEDS = "seeds"
WORDS = (*REFERENCES, "initial", SEEDS)


def split(patterns: str) -> list[str]:
    """Return the patterns of a text that separates them by commas."""
    return [part for part in map(str.strip, patterns.split(",")) if part]


def chosen_edits(data: AnalysisData, patterns: str) -> dict[str, tuple[str, str, float]]:
    """Return the usable edits whose id or name fits one of some glob patterns, as ``AnalysisData.edits``."""
    return {
        edit_id: told
        for edit_id, told in data.edits().items()
        if any(fnmatch.fnmatchcase(known, p) for known in (edit_id, told[0]) for p in split(patterns))
    }


def memory(data: AnalysisData, of: str) -> tuple[Metric, Metric] | None:
    """Return memorised and ground-truth accuracy of a model by its id; None where it is not at hand."""
    table = data.training_table(of)
    if table is None:
        return None
    found = compute(table)
    return found["memorized_accuracy"], found["ground_truth_accuracy"]


def at(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a twin of a model, on its device, that holds other weights.

    Raises:
        ValueError: they are another model's.
    """
    own = model.state_dict()
    if wrong := [n for n, value in own.items() if n not in state or state[n].shape != value.shape]:
        raise ValueError(f"the weights are another model's: {wrong[0]} is missing or of another shape")
    return with_weights(model, {name: state[name].to(value) for name, value in own.items()})


def others(patterns: str, model: nn.Module, data: AnalysisData) -> Iterator[tuple[str, nn.Module | str]]:
    """Yield the models that patterns choose, each with its name, or instead of the model why it is not there.

    Args:
        patterns: comma-separated: ``base`` and references, ``initial``, ``seeds`` (base models of the other seeds),
            ``epochs`` or glob patterns of ``epoch20``, and ids or names of edits as glob patterns. The analysed model
            itself is left out.
        model: the analysed model.
        data: knows the others.

    Raises:
        ValueError: a pattern chooses nothing that could be there.
    """
    seen = {data.subject}
    for pattern in split(patterns):
        for name, other in _fitting(pattern, model, data):
            if name not in seen:
                seen.add(name)
                yield name, other


def _fitting(pattern: str, model: nn.Module, data: AnalysisData) -> Iterator[tuple[str, nn.Module | str]]:
    if pattern in WORDS:
        yield from () if pattern == data.subject else _worded(pattern, model, data)
    else:
        epochs = {f"epoch{number}": read for number, read in data.epochs().items()}
        fitting = list(epochs) if pattern == "epochs" else fnmatch.filter(epochs, pattern)
        if pattern == "epochs" and not epochs:
            yield pattern, "training kept no weights along the way (train.keep_every)"
            return
        edits = [] if fitting else [edit_id for edit_id in chosen_edits(data, pattern) if edit_id != data.subject]
        if not fitting and not edits:
            raise ValueError(
                f"there is no other model {pattern!r}; choose from {', '.join(WORDS)}, epochs, epoch<number> of what "
                "training kept, and ids or names of usable edits, as glob patterns, comma-separated"
            )
        for name in fitting:
            yield name, at(model, epochs[name]())
        for edit_id in edits:
            yield edit_id, data.reference(edit_id) or "its weights are not at hand"


def _worded(word: str, model: nn.Module, data: AnalysisData) -> Iterator[tuple[str, nn.Module | str]]:
    if word == SEEDS:
        found = {f"seed{number}": other for number, other in data.seeds().items()}
        yield from found.items() or [(word, "no other finished seed lies beside it")]
    elif word == "initial":
        try:
            yield word, at(model, data.seen.initial(model))
        except ValueError as error:
            yield word, str(error)
    else:
        yield word, data.reference(word) or "there is no such model beside it"
