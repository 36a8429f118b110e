"""What collecting curvature will cost, told before the work: memory, disk and time, by layer and in total."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import observed
from vitmem.curvature.layers import LinearMap
from vitmem.curvature.moments import FORMED, WORTH
from vitmem.models.memory import OutOfMemory, saved_bytes
from vitmem.progress import duration, size


@dataclass(frozen=True)
class LayerCost:
    """One layer's share.

    Args:
        layer: name.
        outputs: O.
        inputs: I.
        sums: bytes of the sums that are held while collecting.
        bases: bytes of eigenvectors.
        squares: bytes of the sums of second moments (EK-FAC).
        kept: bytes of eigenvectors, masses and coordinates that are held afterwards.
        disk: bytes of the stored sums.
    """

    layer: str
    outputs: int
    inputs: int
    sums: int
    bases: int
    squares: int
    kept: int
    disk: int


def layer_costs(maps: Mapping[str, LinearMap], moments: str, dtype: str) -> list[LayerCost]:
    """Return the cost of each layer.

    Args:
        maps: the chosen linear maps.
        moments: kfac or ekfac.
        dtype: type of the sums, float32 or float64.
    """
    width = 8 if dtype == "float64" else 4
    costs = []
    for name, layer in maps.items():
        o, i = layer.outputs, layer.inputs
        pairs = o * i if moments == "ekfac" else 0
        factors, squares = width * (o * o + i * i), width * pairs
        bases = max(4, layer.module.weight.element_size()) * (o * o + i * i)
        kept = bases + 4 * o * i + 24 * pairs  # bases, coordinates, masses with their order
        costs.append(LayerCost(name, o, i, max(factors, squares), bases, squares, kept, factors + squares))
    return costs


def foresee(
    model: nn.Module, maps: Mapping[str, LinearMap], config: Any, batches: int, image_shape: tuple[int, int, int]
) -> list[str]:
    """Return the cost of collecting and decomposing in words, and refuse what does not fit into memory.

    Args:
        model: the classifier.
        maps: the chosen linear maps.
        config: a ``CurvatureConfig``.
        batches: steps of one pass over the data.
        image_shape: channels, height, width.

    Returns:
        A heading, a line for each layer, and the total.

    Raises:
        OutOfMemory: more memory is needed than is free.
    """
    need = requirements(model, maps, config, batches, image_shape)
    lines = [f"curvature of {len(maps)} layers, {config.moments}, labels {config.labels}, tokens {config.tokens}:"]
    for c in layer_costs(maps, config.moments, config.dtype):
        lines.append(f"  {c.layer:<24} {c.outputs:>5} x {c.inputs:<5} sums {size(c.sums)}, bases {size(c.kept)}")
    lines.append(
        f"  total: memory about {size(need.memory)} (sums {size(need.sums)} at a time, bases {size(need.kept)}, "
        f"activations {size(need.activations)}), disk {size(need.disk)}, {need.passes} x {batches} batches, about "
        f"{duration(need.seconds)}"
    )
    free = free_memory(next(model.parameters()).device)
    if free is not None and need.memory > free:
        raise OutOfMemory(
            f"the curvature of {len(maps)} layers needs {size(need.sums)} for sums, {size(need.kept)} for bases and "
            f"{size(max(need.activations, need.solver))} to collect or decompose them, and {size(free)} are free; "
            "choose fewer layers, lower batch_size, set layers_per_pass, or factor_device: cpu"
        )
    return lines


@dataclass(frozen=True)
class Requirements:
    """What collecting and decomposing takes.

    Args:
        sums: bytes of the sums that are held at a time.
        held: bytes that are held beside activations while collecting: sums, and bases that are there by then.
        bases: bytes of eigenvectors.
        kept: bytes of bases, masses and coordinates.
        solver: bytes of work space of a decomposition.
        activations: bytes of what a batch keeps for its backward pass.
        disk: bytes of the stored sums.
        passes: over the data.
        seconds: about so many, from a measured rate of products.
        on_cpu: the sums are kept beside a GPU.
    """

    sums: int
    held: int
    bases: int
    kept: int
    solver: int
    activations: int
    disk: int
    passes: int
    seconds: float
    on_cpu: bool

    @property
    def memory(self) -> int:
        """Peak bytes, on the device of the model where nothing is kept elsewhere."""
        if self.on_cpu:
            return self.held + self.activations
        return max(self.held + self.activations, self.sums + self.bases + self.solver, self.kept)


def requirements(
    model: nn.Module, maps: Mapping[str, LinearMap], config: Any, batches: int, image_shape: tuple[int, int, int]
) -> Requirements:
    """Return what collecting and decomposing takes; arguments as ``foresee``."""
    costs = layer_costs(maps, config.moments, config.dtype)
    device = next(model.parameters()).device
    at_once = config.layers_per_pass or len(costs)
    groups = [costs[first : first + at_once] for first in range(0, len(costs), at_once)]
    sums, squares = (max(sum(getattr(c, of) for c in group) for group in groups) for of in ("sums", "squares"))
    bases = sum(c.bases for c in costs)
    on_cpu = config.factor_device == "cpu" and device.type != "cpu"
    first = 0 if on_cpu else sums + (bases if len(groups) > 1 else 0)
    second = bases + (0 if on_cpu else squares) if config.moments == "ekfac" else 0  # in the bases of the first pass
    largest = max(max(c.outputs, c.inputs) for c in costs)
    passes = len(groups)
    labels = {"sampled": config.draws, "topk": config.top + 1, "given": 1}
    classes = getattr(model, "num_classes", 1000)
    backward = min(labels.get(config.labels, classes), max(classes, config.draws)) * (config.moments != "inputs")
    rate = matmul_rate(device)
    seconds = passes * batches * step_flops(model, maps, config, backward) / rate
    seconds += sum(20 * (c.outputs**3 + c.inputs**3) for c in costs) / (rate / 8)  # eigh, at an eighth of the rate
    return Requirements(
        sums=sums,
        held=max(first, second),
        bases=bases,
        kept=sum(c.kept for c in costs),
        solver=8 * (5 * largest**2 + (1 << 22)),  # work space, and what is decomposed together
        activations=config.batch_size * activation_bytes(model, maps, config, image_shape) + work_bytes(maps, config),
        disk=sum(c.disk for c in costs),
        passes=passes,
        seconds=seconds,
        on_cpu=on_cpu,
    )


def activation_bytes(
    model: nn.Module, maps: Mapping[str, LinearMap], config: Any, image_shape: tuple[int, int, int]
) -> int:
    """Return what one image takes in a pass: kept for the backward pass, inputs that wait for their gradients, work."""
    parameter, rows = next(model.parameters()), dict[str, int]()
    modules = {name: layer.module for name, layer in maps.items()}

    def note(name: str, x: Tensor) -> None:
        rows[name] = maps[name].input_rows(x)[0].numel()

    with observed(model, modules, note, lambda name, g: None) as forward, saved_bytes(model) as saved:
        forward(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    widest = max(rows[name] * max(1, layer.outputs / layer.inputs) for name, layer in maps.items())
    waiting = sum(rows.values()) if config.moments == "ekfac" else 0
    return saved[0] + int((waiting + 4 * widest) * parameter.element_size())


def work_bytes(maps: Mapping[str, LinearMap], config: Any) -> int:
    """Return what a pass takes however many images: rows that are gathered, gradients that are formed at a time."""
    gathered = WORTH * sum(m.inputs + m.outputs for m in maps.values()) if config.tokens != "all" else 0
    formed = 0
    if config.moments == "ekfac" and config.tokens != "cls":
        pairs = max(m.inputs * m.outputs for m in maps.values())
        formed = pairs * min(config.batch_size, max(1, FORMED // pairs))
    width = max(m.module.weight.element_size() for m in maps.values())
    return width * max(gathered, formed)


def step_flops(model: nn.Module, maps: Mapping[str, LinearMap], config: Any, backward: int) -> float:
    """Return the floating-point operations of one batch: passes through the model and the products of the sums."""
    tokens = 1
    if (embedding := getattr(model, "patch_embed", None)) is not None:
        tokens = embedding.num_patches + getattr(model, "num_prefix_tokens", 0)
    parameters = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    model_flops: float = 2 * parameters * tokens * config.batch_size * (1 + backward)
    rows: int = config.batch_size * (tokens if config.tokens == "all" else 1)
    sums = sum(rows * (layer.inputs**2 + backward * layer.outputs**2) * 1.3 for layer in maps.values())
    if config.moments == "ekfac":
        project = sum(2 * rows * (m.inputs**2 + backward * m.outputs**2) for m in maps.values())
        form = sum(2 * rows * backward * m.inputs * m.outputs for m in maps.values())
        return 2 * model_flops + sums + project + form
    return model_flops + sums


def matmul_rate(device: torch.device) -> float:
    """Return the floating-point operations a second of a float32 product, measured in some milliseconds."""
    x = torch.ones(1024, 1024, device=device)
    x @ x
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    float((x @ x)[0, 0])
    return 2 * 1024**3 / (time.perf_counter() - start)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device; None where they cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None
