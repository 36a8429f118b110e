"""What edits of single weights share: which parameters they touch, what they look at, and how they report."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import observed, uncompiled
from vitmem.curvature.layers import LinearMap
from vitmem.datamodules.batch import Batch, InMemoryLoader
from vitmem.distributed import all_sum
from vitmem.editing.contract import EditDiverged, EditResult
from vitmem.editing.kfac import relative_change
from vitmem.models.finite import answers
from vitmem.models.layers import select_layers

EVERYTHING = "*"


def chosen_parameters(model: nn.Module, patterns: str) -> list[str]:
    """Return the names of the parameters to edit: those of the matching linear layers, or all of them for ``*``.

    Raises:
        ValueError: a pattern matches no linear layer.
    """
    if patterns.strip() == EVERYTHING:
        return [name for name, _ in model.named_parameters()]
    layers = select_layers(model, patterns)
    return [f"{layer}.{name}" for layer, module in layers.items() for name, _ in module.named_parameters()]


def working_copy(model: nn.Module, names: Iterable[str] = ()) -> nn.Module:
    """Return a copy in eval mode (no dropout) in which only the named parameters ask for gradients."""
    twin = copy.deepcopy(uncompiled(model)).eval().requires_grad_(False)
    for name in names:
        twin.get_parameter(name).requires_grad_(True)
    return twin


def draw_seed(generator: torch.Generator) -> int:
    """Return a seed for a loader."""
    return int(torch.randint(2**62, (1,), generator=generator))


def watch_inputs(
    model: nn.Module, maps: Mapping[str, LinearMap], batches: Iterable[Batch], on_rows: Callable[[str, Tensor], None]
) -> None:
    """Run a model forward and hand over each layer's inputs T I in float64, T all positions of a batch.

    Args:
        model: the classifier; no trace is left on it.
        maps: the layers to watch.
        batches: whose images are run.
        on_rows: called with a layer's name and its inputs.
    """

    def on_input(name: str, x: Tensor) -> None:
        on_rows(name, maps[name].input_rows(x).flatten(0, 1).double())

    device = next(model.parameters()).device
    layers = {name: layer.module for name, layer in maps.items()}
    with observed(model, layers, on_input, lambda name, gradient: None) as forward, torch.no_grad():
        for batch in batches:
            forward(batch.image.to(device))


def input_moments(model: nn.Module, maps: Mapping[str, LinearMap], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return by layer the sum I I of a a^T, in float64, over its inputs a at all positions of a pass; not centred.

    Several processes add up what each saw: a share of drawn images, or all images each, which gives a multiple.
    Arguments as ``watch_inputs``.
    """
    device = next(model.parameters()).device
    moments = {n: torch.zeros(m.inputs, m.inputs, dtype=torch.float64, device=device) for n, m in maps.items()}
    watch_inputs(model, maps, batches, lambda name, a_TI: moments[name].addmm_(a_TI.T, a_TI))
    return {name: all_sum(moment_II) for name, moment_II in moments.items()}


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Return the share of the examples that get their given label."""
    device = next(model.parameters()).device
    right = torch.cat([answers(model(b.image.to(device))).cpu() == b.given_label for b in batches])
    return float(right.double().mean())


def descend(
    loader: InMemoryLoader,
    loss: Callable[[Batch], Tensor],
    optimiser: torch.optim.Optimizer,
    epochs: int,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Minimise a loss over the batches of a loader, in a new order each epoch.

    Args:
        loader: serves the batches.
        loss: of one batch, a scalar.
        optimiser: holds the parameters.
        epochs: passes over the loader.
        after_epoch: called with the number of each finished epoch.

    Raises:
        EditDiverged: the loss is not finite.
    """
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            value = loss(batch)
            if not torch.isfinite(value):
                raise EditDiverged(f"the loss is {value.item()} in epoch {epoch}; lower the learning rate")
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        after_epoch(epoch)


def result(
    model: nn.Module, changed: Mapping[str, Tensor], start: float, extra_parameters: int, **found: object
) -> EditResult:
    """Return a model's weights with some replaced, and a report with one row for each module they belong to.

    Args:
        model: the unedited model.
        changed: new values by parameter name.
        start: when the edit began, by ``time.perf_counter``.
        extra_parameters: numbers held beside the model's own.
        found: further entries of the report.

    Raises:
        EditDiverged: a weight is not finite.
    """
    before = dict(uncompiled(model).state_dict())
    modules: dict[str, list[str]] = {}
    for name, value in changed.items():
        if not torch.isfinite(value).all():
            raise EditDiverged(f"{name} is not finite after the edit")
        owner = name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name
        modules.setdefault(owner, []).append(name)
    rows = [
        {
            "layer": module,
            "relative_change": relative_change(
                *(torch.cat([w[n].flatten() for n in names]) for w in (before, changed))
            ),
        }
        for module, names in modules.items()
    ]
    seconds = {"apply": time.perf_counter() - start}
    report = {"layers": rows, "seconds": seconds, "extra_parameters": extra_parameters, **found}
    return EditResult(before | {name: value.detach() for name, value in changed.items()}, report)
