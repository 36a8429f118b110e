"""Passes over data with hooks: Kronecker factors, and second moments in their eigenbases.

Parameters are frozen for the pass, so no weight gradient is computed, and the graph starts at the output of the first
chosen layer, so nothing is propagated below it. Under ``torch.distributed`` every process is given its own share of the
examples, and the sums are added up once at the end.

Legend: B examples, S positions, T positions that are kept, I inputs, O outputs, K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitmem.curvature.factors import LayerFactors, LayerMoments
from vitmem.curvature.layers import LinearMap
from vitmem.curvature.moments import LabelRule, SecondMoment, Tokens, add_gradient_moment, select_tokens
from vitmem.curvature.spectrum import Eigenbasis
from vitmem.datamodules.batch import Batch
from vitmem.distributed import all_sum


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module inside a ``torch.compile`` wrapper: hooks added after compilation may be ignored."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def observed(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    on_input: Callable[[str, Tensor], None],
    on_gradient: Callable[[str, Tensor], None],
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Hook layers of a model in eval mode; afterwards no trace is left, also when the body raises.

    Yields a function ``forward(image_BCHW) -> logits_BK``; call ``logits.backward(gradient)`` on what it returns.

    Args:
        model: a classifier.
        layers: the modules to watch, by name.
        on_input: called with a layer's name and its input, in the forward pass.
        on_gradient: called with a layer's name and the gradient at its output, in the backward pass.

    Raises:
        ValueError: a layer did not fire, or fired twice, in one forward pass.
    """
    fired: set[str] = set()
    handles = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def forward_hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in fired:
                raise ValueError(
                    f"the layer {name!r} ran twice in one forward pass; its factors would mix two uses: leave it out"
                )
            fired.add(name)
            on_input(name, inputs[0].detach())
            if not output.requires_grad:  # nothing below needs a gradient: the graph starts here
                output = output.detach().requires_grad_()
            cast(Any, output).register_hook(lambda gradient: on_gradient(name, gradient))
            return output.clone() if output.is_leaf else output  # of a leaf, an activation in place is an error

        return forward_hook

    def forward(image_BCHW: Tensor) -> Tensor:
        fired.clear()
        logits_BK: Tensor = model(image_BCHW)
        if missing := [name for name in layers if name not in fired]:
            raise ValueError(
                f"the layer {missing[0]!r} never ran as a module in the forward pass; "
                "its function is called in another way, so it has no factors: leave it out"
            )
        return logits_BK

    try:
        handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
        device = next(model.parameters()).device.type
        with frozen(model), torch.enable_grad(), torch.autocast(device, enabled=False):
            yield forward
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode and its parameters without gradients; afterwards both are as they were."""
    modes = {module: module.training for module in model.modules()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for parameter, was in required.items():
            parameter.requires_grad_(was)
        for module, mode in modes.items():
            module.training = mode


def sweep_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    maps: Mapping[str, LinearMap],
    tokens: Tokens,
    rule: LabelRule,
    on_input: Callable[[str, Tensor], None],
    on_gradient: Callable[[str, Tensor], None],
) -> tuple[int, float, float]:
    """Run every batch forward once and backward for each label, handing over the chosen rows.

    Args:
        model: a classifier; it is left as it was.
        batches: batches of the contract.
        maps: linear maps to watch.
        tokens: which positions are handed over.
        rule: at which labels the loss is taken.
        on_input: called with a name and inputs B T I.
        on_gradient: called with a name and output gradients B T O.

    Returns:
        Number of examples, the trace of the output curvature that lumped labels leave out, and its whole trace.
    """
    model = uncompiled(model)
    device = next(model.parameters()).device

    examples, lost, total, shape = 0, 0.0, 0.0, _Layout(model, tokens)

    def take_input(name: str, x: Tensor) -> None:
        rows_BTI = select_tokens(shape.rows(name, maps[name].input_rows(x)), tokens, "input")
        on_input(name, maps[name].with_constant(rows_BTI))

    def take_gradient(name: str, g: Tensor) -> None:
        on_gradient(name, select_tokens(shape.rows(name, maps[name].gradient_rows(g)), tokens, "gradient"))

    modules = {name: layer.module for name, layer in maps.items()}
    with observed(model, modules, take_input, take_gradient) as forward:
        for batch in batches:
            shape.examples = len(batch.image)
            logits_BK = forward(batch.image.to(device))
            previous = None  # the graph is kept until the last label
            for gradient_BK in rule.logit_gradients(logits_BK, batch.index, batch.given_label.to(device)):
                if previous is not None:
                    torch.autograd.backward(logits_BK, previous, retain_graph=True)
                previous = gradient_BK
            torch.autograd.backward(logits_BK, previous)
            examples += len(batch.index)
            if rule.labels == "topk":
                traces = rule.lumped_trace(logits_BK)
                lost, total = lost + traces[0], total + traces[1]
    return examples, lost, total


class _Layout:
    """Tells which rows of a layer belong to which example.

    The first dimension of what a layer sees is the batch, except for windows of each image one after the other (Swin),
    and for layers of a model whose attention takes sequences first (``batch_first=False``).

    Args:
        model: the classifier.
        tokens: which positions are wanted.
    """

    def __init__(self, model: nn.Module, tokens: Tokens):
        self.tokens, self.examples = tokens, 0
        self.sequences_first = any(getattr(module, "batch_first", True) is False for module in model.modules())

    def rows(self, name: str, rows_BSF: Tensor) -> Tensor:
        """Return the rows with the examples B first.

        Raises:
            ValueError: they cannot be told apart, or there is no class token.
        """
        number = self.examples
        if len(rows_BSF) == number:
            return rows_BSF
        if self.sequences_first and rows_BSF.shape[1] == number:
            return rows_BSF.transpose(0, 1)
        if self.tokens == "cls" or len(rows_BSF) % number:
            raise ValueError(
                f"layer {name} sees {tuple(rows_BSF.shape)} for {number} images, so that "
                + (
                    "it has no class token; use tokens: all"
                    if self.tokens == "cls"
                    else "examples cannot be told apart"
                )
                + ", or leave it out of layers"
            )
        return rows_BSF.reshape(number, -1, rows_BSF.shape[-1])


def sweep_inputs(
    model: nn.Module,
    batches: Iterable[Batch],
    maps: Mapping[str, LinearMap],
    tokens: Tokens,
    on_input: Callable[[str, Tensor], None],
) -> int:
    """Run every batch forward, without gradients, handing over the chosen rows of inputs.

    Args:
        model: a classifier; it is left as it was.
        batches: batches of the contract.
        maps: linear maps to watch.
        tokens: which positions are handed over.
        on_input: called with a name and inputs B T I.

    Returns:
        Number of examples.
    """
    model, examples = uncompiled(model), 0
    device, shape = next(model.parameters()).device, _Layout(model, tokens)

    def take_input(name: str, x: Tensor) -> None:
        rows_BTI = select_tokens(shape.rows(name, maps[name].input_rows(x)), tokens, "input")
        on_input(name, maps[name].with_constant(rows_BTI))

    modules = {name: layer.module for name, layer in maps.items()}
    with observed(model, modules, take_input, lambda name, gradient: None) as forward, torch.no_grad():
        for batch in batches:
            shape.examples = len(batch.image)
            forward(batch.image.to(device))
            examples += len(batch.index)
    return examples


def collect_factors(
    model: nn.Module,
    batches: Iterable[Batch],
    maps: Mapping[str, LinearMap],
    *,
    tokens: Tokens = "all",
    rule: LabelRule = LabelRule(),  # noqa: B008
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> dict[str, LayerFactors]:
    """Return the sums of the Kronecker factors of some linear maps.

    The same examples give the same factors, in whatever order, batches or processes they come.

    Args:
        model: a classifier; it is left as it was.
        batches: batches of the contract, this process's share of them under ``torch.distributed``.
        maps: linear maps of the model, by name.
        tokens: which positions enter; see ``select_tokens``.
        rule: at which labels the loss is taken.
        dtype: type of the sums, float32 or float64.
        device: where the sums are kept; by default where the model is.

    Raises:
        ValueError: sums of a lower precision were asked for; a layer did not fire, or fired twice.

    Source: Martens & Grosse 2015; Merullo et al. 2025, section 3.
    """
    check_precision(dtype)
    device = device or next(model.parameters()).device
    a_sum = {n: SecondMoment(m.inputs, dtype, device) for n, m in maps.items()}
    g_sum = {n: SecondMoment(m.outputs, dtype, device) for n, m in maps.items()}
    positions = dict.fromkeys(maps, 0)

    def on_input(name: str, a_BTI: Tensor) -> None:
        a_sum[name].add(a_BTI.flatten(0, 1))
        positions[name] += a_BTI.shape[0] * a_BTI.shape[1]

    def on_gradient(name: str, g_BTO: Tensor) -> None:
        g_sum[name].add(g_BTO.flatten(0, 1))

    scalars = sweep_batches(model, batches, maps, tokens, rule, on_input, on_gradient)
    examples, lost, total = all_sum(torch.tensor(scalars, dtype=torch.float64)).tolist()
    return {
        name: LayerFactors(
            all_sum(a_sum.pop(name).total()),
            all_sum(g_sum.pop(name).total()),
            int(all_sum(torch.tensor(positions[name]))),
            int(examples),
            lost,
            total,
        )
        for name in maps
    }


def collect_inputs(
    model: nn.Module,
    batches: Iterable[Batch],
    maps: Mapping[str, LinearMap],
    *,
    tokens: Tokens = "all",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> dict[str, LayerFactors]:
    """Return the sums of the factors A alone, with G the identity: forward passes only, and no label.

    A is that of ``collect_factors``, where the arguments are explained.
    """
    check_precision(dtype)
    device = device or next(model.parameters()).device
    sums = {n: SecondMoment(m.inputs, dtype, device) for n, m in maps.items()}
    positions = dict.fromkeys(maps, 0)

    def on_input(name: str, a_BTI: Tensor) -> None:
        sums[name].add(a_BTI.flatten(0, 1))
        positions[name] += a_BTI.shape[0] * a_BTI.shape[1]

    examples = int(all_sum(torch.tensor(sweep_inputs(model, batches, maps, tokens, on_input))))
    found = {}
    for name, layer in maps.items():
        a_II, number = all_sum(sums.pop(name).total()), int(all_sum(torch.tensor(positions[name])))
        g_OO = torch.eye(layer.outputs, dtype=dtype, device=a_II.device) * examples
        found[name] = LayerFactors(a_II, g_OO, number, examples)
    return found


def collect_moments(
    model: nn.Module,
    batches: Iterable[Batch],
    maps: Mapping[str, LinearMap],
    bases: Mapping[str, Eigenbasis],
    *,
    tokens: Tokens = "all",
    rule: LabelRule = LabelRule(),  # noqa: B008
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> dict[str, LayerMoments]:
    """Return the sums of squared per-example gradients in given eigenbases (the second pass of EK-FAC).

    Args:
        model: a classifier; it is left as it was.
        batches: as for ``collect_factors``.
        maps: linear maps of the model, by name.
        bases: their eigenbases.
        tokens: which positions enter the gradient of an example: the class token's alone, or all of them (reduce, that
            is ``mean``, is an approximation of the factors, not of the gradient).
        rule: at which labels the loss is taken.
        dtype: type of the sums, float32 or float64.
        device: where the sums are kept; by default where the model is.

    Raises:
        ValueError: sums of a lower precision were asked for; a layer did not fire, or fired twice.

    Source: George et al. 2018, section 3.
    """
    check_precision(dtype)
    parameter = next(model.parameters())
    device = device or parameter.device
    sums = {n: torch.zeros(m.outputs, m.inputs, dtype=dtype, device=device) for n, m in maps.items()}
    u_a = {name: bases[name].u_a_II.to(parameter) for name in maps}
    u_g = {name: bases[name].u_g_OO.to(parameter) for name in maps}
    seen: dict[str, Tensor] = {}

    def on_input(name: str, a_BTI: Tensor) -> None:
        seen[name] = a_BTI @ u_a[name]

    def on_gradient(name: str, g_BTO: Tensor) -> None:
        add_gradient_moment(sums[name], g_BTO @ u_g[name], seen[name])

    tokens = "all" if tokens == "mean" else tokens
    examples, *_ = sweep_batches(model, batches, maps, tokens, rule, on_input, on_gradient)
    total = int(all_sum(torch.tensor(examples)))
    return {name: LayerMoments(all_sum(sums[name]), total) for name in maps}


def check_precision(dtype: torch.dtype) -> None:
    """Raise ValueError unless sums of this type are precise enough for eigenvectors."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"factors cannot be summed in {dtype}; use float32 or float64")
