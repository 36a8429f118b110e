"""What a training will cost, told before it is started: parameters, FLOPs, memory, and the time by a short probe.

Legend: B images of a batch, C H W their shape.
"""

import time
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitmem.datamodules.batch import Batch
from vitmem.datamodules.module import MemorisationData
from vitmem.models import build
from vitmem.models.memory import saved_bytes
from vitmem.progress import duration, size
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.devices import check, prepared
from vitmem.training.optimisers import hidden_matrices, optimiser_of

PROBE_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """What one training costs.

    Args:
        parameters: of the model.
        forward_flops: of one image; a multiplication with its addition counts as 2.
        batch: images that a device has at a time.
        state_bytes: weights, gradients, the optimiser's moments (AdamW's two) and the weights' average, on each device.
        image_bytes: decoded images, on each device.
        activation_bytes: what the backward pass needs of one image.
        probed_batch: images at a time in the probe: ``batch``, or fewer where that many took too long or did not fit.
        train_speed: images per second in training, over all devices.
        eval_speed: likewise in evaluation.
        train_images: images of all epochs.
        eval_images: images of all evaluations.
        sam: two gradients are taken for each step.
        compiled: the training compiles its model, which the probe does not: it is faster than told.
    """

    parameters: int
    forward_flops: int
    batch: int
    state_bytes: int
    image_bytes: int
    activation_bytes: int
    probed_batch: int
    train_speed: float
    eval_speed: float
    train_images: int
    eval_images: int
    sam: bool = False
    compiled: bool = False

    @property
    def hours(self) -> float:
        """Training and evaluations, at the measured speeds."""
        return (self.train_images / self.train_speed + self.eval_images / self.eval_speed) / 3600

    @property
    def memory(self) -> int:
        """Bytes on each device."""
        return self.state_bytes + self.image_bytes + self.batch * self.activation_bytes

    def lines(self, where: str) -> list[str]:
        """Return the plan in words.

        Args:
            where: the devices.
        """
        passes = 6 if self.sam else 3
        return [
            f"model: {self.parameters / 1e6:.3g} M parameters; {self.forward_flops / 1e9:.3g} GFLOPs forward per image",
            f"work: {self.train_images:,} training images (forward and backward: "
            f"{passes * self.forward_flops * self.train_images:.2e} FLOPs) and {self.eval_images:,} evaluated images",
            f"memory of each device: about {size(self.memory)}: {size(self.state_bytes)} for weights, gradients, "
            f"the optimiser's moments and an average, {size(self.image_bytes)} for decoded images, and "
            f"{size(self.activation_bytes)} for each of {self.batch} images at a time",
            f"speed: {self.train_speed:,.3g} images/s in training, {self.eval_speed:,.3g} in evaluation, on {where} "
            f"(measured on one, with {self.probed_batch} images at a time{', not compiled' if self.compiled else ''})",
            f"time: about {duration(3600 * self.hours)}",
        ]


def plan(arguments: dict, data: MemorisationData, train: TrainConfig, trainer: TrainerConfig) -> Plan:
    """Measure what a training costs; nothing is written.

    Args:
        arguments: with which timm builds the model.
        data: the data module.
        train: optimiser and schedule.
        trainer: how Lightning runs it.
    """
    engine = check(trainer, train.batch_size)
    processes = engine.world_size
    batch = train.batch_size // (processes * trainer.accumulate)
    model = build.create(arguments, seed=0)
    parameters = sum(p.numel() for p in model.parameters())
    examples = len(data.fit_examples())
    evaluations = (train.epochs - 1) // train.eval_every + 1
    evaluated = sum(len(loader.examples) for loader in data.val_dataloader())
    activations, probed, train_seconds, eval_seconds = probe(model, data, train, trainer, batch)
    return Plan(
        parameters=parameters,
        forward_flops=forward_flops(build.create(arguments, device="meta"), data.data.image_shape),
        batch=batch,
        state_bytes=state_bytes(parameters, train, trainer, processes),
        image_bytes=image_bytes(data),
        activation_bytes=activations,
        probed_batch=probed,
        train_speed=processes * probed / train_seconds / (2 if train.sam else 1),
        eval_speed=processes * probed / eval_seconds,
        train_images=examples * train.epochs,
        eval_images=evaluated * evaluations,
        sam=train.sam > 0,
        compiled=trainer.compile,
    )


def forward_flops(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the FLOPs of the matrix products of one image's forward pass.

    Attention is computed by its plain products: PyTorch does not count those of its fused kernel for CPUs.

    Args:
        model: on any device, also meta.
        image_shape: C, H, W.
    """
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.eval()(torch.zeros(1, *image_shape, device=device))
    return counter.get_total_flops()


def state_bytes(parameters: int, train: TrainConfig, trainer: TrainerConfig, processes: int) -> int:
    """Return the bytes of weights, gradients, moments and, where there are any, other copies on each device.

    AdamW has two moments, SGD one, Muon at most two; the average and SAM keep a copy each. Mixed precision keeps them
    all in float32. DDP holds the gradients once more, in the buckets that are summed up; FSDP divides everything by the
    number of processes.
    """
    size = {"16-true": 2, "bf16-true": 2, "64-true": 8}.get(str(trainer.precision), 4)
    copies = 2 + (1 if train.optimiser == "sgd" else 2) + (train.ema > 0) + (train.sam > 0)
    if processes > 1 and trainer.strategy == "fsdp":
        return copies * size * parameters // processes
    return (copies + (processes > 1)) * size * parameters


def image_bytes(data: MemorisationData) -> int:
    """Return the bytes of the decoded images; a training set without its noisy examples, or with repeats, is a copy.

    They lie on the device, or beside it if they would fill more than a quarter of a GPU.
    """
    images = (data.data.train_image, data.data.validation_image, data.fit_examples().image)
    return sum({image.data_ptr(): image.nbytes for image in images if isinstance(image, Tensor)}.values())


def probe(
    model: nn.Module, data: MemorisationData, train: TrainConfig, trainer: TrainerConfig, batch: int
) -> tuple[int, int, float, float]:
    """Train and evaluate on a few batches: 1 image, 2, 4, ..., until the real size, or until a step takes too long.

    Nothing is compiled: that would take longer than all else here, and be measured with it.

    Args:
        model: it is trained a little.
        data: serves the batches.
        train: optimiser and schedule.
        trainer: how Lightning runs it.
        batch: images at a time.

    Returns:
        Bytes of activations per image, images of the last batch, and the seconds of training and of evaluating it.
    """
    strategy = check(trainer, train.batch_size).strategy
    plugin, device = strategy.precision_plugin, strategy.root_device
    model = plugin.convert_module(model).to(device).train()
    optimiser = optimiser_of(train, list(model.named_parameters()), set(), hidden_matrices(model), fused=True)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    loader = data.train_dataloader()
    first: Batch = next(islice(iter(loader), 1))
    images, labels = plugin.convert_input(first.image.to(device)), first.given_label.to(device)

    def step(size: int) -> None:
        with plugin.train_step_context():
            loss = F.cross_entropy(model(images[:size]), labels[:size])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    def evaluate(size: int) -> None:
        with plugin.val_step_context(), torch.no_grad():
            model(images[:size])

    size, largest = 1, min(batch, len(images))
    with prepared(model, replace(trainer, compile=False)):
        with saved_bytes(model) as saved, plugin.train_step_context():
            F.cross_entropy(model(images[:1]), labels[:1])
        seconds = _seconds(step, size, device)
        while size < largest and 2 * seconds < PROBE_SECONDS:
            try:
                seconds = _seconds(step, min(2 * size, largest), device)
            except torch.OutOfMemoryError:
                break
            size = min(2 * size, largest)
        return saved[0], size, seconds, _seconds(evaluate, size, device)


def _seconds(work, size: int, device: torch.device) -> float:
    """Return the least time of three turns, or of the first if that takes long; the first of three warms up."""
    times = []
    while len(times) < 3 and sum(times) < PROBE_SECONDS:
        start = time.perf_counter()
        work(size)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def where(train: TrainConfig, trainer: TrainerConfig) -> str:
    """Return on what a training would run, in words."""
    engine = check(trainer, train.batch_size)
    device = engine.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{engine.world_size} x {kind}"
