"""One pass over data with hooks: Kronecker factors of chosen linear layers.

Parameters are frozen for the pass, so no weight gradient is computed, and the graph starts at the output of the first
chosen layer, so nothing is propagated below it.

Legend: B examples, S tokens, I inputs, O outputs, K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from datamodules.batch import keyed_generator
from vitmem.curvature.factors import LayerFactors
from vitmem.curvature.moments import Labels, Tokens, add_second_moment, logit_gradients, mirror, select_tokens


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
        RuntimeError: a layer did not fire, or fired twice, in one forward pass.
    """
    modes = {module: module.training for module in model.modules()}
    frozen = {parameter: parameter.requires_grad for parameter in model.parameters()}
    fired: set[str] = set()
    handles = []

    def watch(name: str):
        def forward_hook(module, inputs, output):
            if name in fired:
                raise RuntimeError(
                    f"the layer {name!r} ran twice in one forward pass; its factors would mix two uses: leave it out"
                )
            fired.add(name)
            on_input(name, inputs[0].detach())
            if not output.requires_grad:  # nothing below needs a gradient: the graph starts here
                output = output.detach().requires_grad_()
            output.register_hook(lambda gradient: on_gradient(name, gradient))
            return output

        return forward_hook

    def forward(image_BCHW: Tensor) -> Tensor:
        fired.clear()
        logits_BK = model(image_BCHW)
        if missing := [name for name in layers if name not in fired]:
            raise RuntimeError(
                f"the layer {missing[0]!r} never ran as a module in the forward pass; "
                "its function is called in another way, so it has no factors: leave it out"
            )
        return logits_BK

    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad_(False)
        handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
        with torch.enable_grad():
            yield forward
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required in frozen.items():
            parameter.requires_grad_(required)
        for module, mode in modes.items():
            module.training = mode


def collect_factors(
    model: nn.Module,
    batches: Iterable,
    layers: Mapping[str, nn.Linear],
    *,
    tokens: Tokens = "all",
    labels: Labels = "sampled",
    draws: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, LayerFactors]:
    """Return the sums of the Kronecker factors of some linear layers.

    The same examples in the same order give the same factors, whatever the batch size: labels are drawn from numbers
    that depend on the seed and on the example's place in the pass.

    Args:
        model: a classifier; it is left as it was.
        batches: batches of the contract; given labels are read only for ``labels="given"``.
        layers: linear layers of the model, by name.
        tokens: which positions enter; see ``select_tokens``.
        labels: which labels the loss is taken at; see ``logit_gradients``.
        draws: labels drawn for each example (``sampled``).
        temperature: of the predicted distribution.
        seed: seed of the drawn labels.
        dtype: type of the sums, float32 or float64.

    Raises:
        ValueError: an option is out of range.
        RuntimeError: a layer did not fire, or fired twice.

    Source: Martens & Grosse 2015; Merullo et al. 2025, section 3.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"factors cannot be summed in {dtype}; use float32 or float64")
    if draws < 1:
        raise ValueError(f"draws is {draws}; it must be at least 1")
    device = next(model.parameters()).device
    model = uncompiled(model)
    a_sum = {n: torch.zeros(m.in_features, m.in_features, dtype=dtype, device=device) for n, m in layers.items()}
    g_sum = {n: torch.zeros(m.out_features, m.out_features, dtype=dtype, device=device) for n, m in layers.items()}
    positions = dict.fromkeys(layers, 0)
    generator = keyed_generator(seed, 3)
    examples = 0

    def on_input(name: str, a: Tensor) -> None:
        a_BTI = select_tokens(a, tokens, "input")
        add_second_moment(a_sum[name], a_BTI.flatten(0, 1))
        positions[name] += a_BTI.shape[0] * a_BTI.shape[1]

    def on_gradient(name: str, g: Tensor) -> None:
        add_second_moment(g_sum[name], select_tokens(g, tokens, "gradient").flatten(0, 1))

    with observed(model, layers, on_input, on_gradient) as forward:
        for batch in batches:
            logits_BK = forward(batch.image.to(device))
            size, classes = logits_BK.shape
            uniform_BD = torch.rand(size, draws, generator=generator, dtype=torch.float64)
            gradients = logit_gradients(
                logits_BK,
                labels,
                uniform_BD=uniform_BD,
                given_B=batch.given_label.to(device) if labels == "given" else None,
                temperature=temperature,
            )
            passes = classes if labels == "exact" else draws if labels == "sampled" else 1
            for number, gradient_BK in enumerate(gradients):
                logits_BK.backward(gradient_BK, retain_graph=number + 1 < passes)
            examples += size
    return {n: LayerFactors(mirror(a_sum[n]), mirror(g_sum[n]), positions[n], examples) for n in layers}
