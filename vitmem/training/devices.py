"""How a training is run: devices, nodes, precision, and what is asked of PyTorch, by Lightning's Trainer."""

import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from vitmem.training.config import TrainerConfig

for part in ("pytorch", "fabric"):  # which devices there are, and advertisements
    logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*`srun` command is available")  # where Slurm is, but not asked for

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.")  # what compiled and sharded models put into parameter names


def build(trainer: TrainerConfig, **options) -> L.Trainer:
    """Return Lightning's Trainer with these flags and further options."""
    return L.Trainer(
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=sharded() if trainer.strategy == "fsdp" else trainer.strategy,
        accumulate_grad_batches=trainer.accumulate,
        precision=trainer.precision,
        logger=False,
        **options,
    )


def check(trainer: TrainerConfig, batch_size: int) -> L.Trainer:
    """Return a trainer with these flags.

    Args:
        trainer: the flags.
        batch_size: examples per step.

    Raises:
        ValueError: Lightning cannot train with them on this machine, or the batch cannot be shared out.
    """
    try:
        engine = build(trainer, enable_checkpointing=False)
    except (MisconfigurationException, ImportError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Lightning cannot use trainer {dataclasses.asdict(trainer)}: {error}") from error
    parts = engine.world_size * trainer.accumulate
    if batch_size % parts:
        raise ValueError(
            f"train.batch_size {batch_size} cannot be shared by {engine.world_size} devices with "
            f"trainer.accumulate {trainer.accumulate}: it must be a multiple of {parts}"
        )
    environment = getattr(engine.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment):
        raise ValueError(
            f"trainer.num_nodes is {trainer.num_nodes}; start the command on every node, by srun or torchrun"
        )
    launcher, count = ("torchrun", "WORLD_SIZE") if "TORCHELASTIC_RUN_ID" in os.environ else ("srun", "SLURM_NTASKS")
    started = int(os.environ.get(count, engine.world_size))
    if started != engine.world_size:
        raise ValueError(
            f"{launcher} started {started} processes, but trainer.devices x trainer.num_nodes is {engine.world_size}"
        )
    if trainer.compile:
        with compiling():
            _find_compiler(engine.strategy.root_device)
    return engine


def join(trainer: TrainerConfig, batch_size: int) -> None:
    """Meet the other processes, if torchrun or Slurm started several; Lightning starts its own only in ``fit``.

    Raises:
        ValueError: as ``check``.
    """
    engine = check(trainer, batch_size)
    environment = getattr(engine.strategy, "cluster_environment", None)
    if engine.world_size > 1 and not isinstance(environment, LightningEnvironment):
        try:
            engine.strategy.setup_environment()
        except RuntimeError as error:
            raise ValueError(
                f"the {engine.world_size} processes did not meet ({' '.join(str(error).split())[:200]}); see that each "
                "node started its own, and that they reach each other"
            ) from error


@contextmanager
def compiling() -> Iterator[None]:
    """Say in one line what torch.compile cannot do on this machine.

    Raises:
        ValueError: it failed.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        yield
    except (TorchDynamoException, InvalidCxxCompiler) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"trainer.compile cannot be used here: {why}; install a C++ compiler such as g++, or leave it out"
        ) from error


def _find_compiler(device: torch.device) -> None:
    """Raise an error of torch.compile if there is no compiler of C++, which it needs on a CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    if device.type == "cpu":
        get_cpp_compiler()


def sharded() -> Strategy:
    """Return fully sharded data parallelism, block by block; its checkpoints hold the whole model."""
    from timm.models.vision_transformer import Block

    return FSDPStrategy(auto_wrap_policy={Block}, state_dict_type="full")


def clean_name(name: str) -> str:
    """Return timm's name of a parameter."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


@contextmanager
def prepared(model: nn.Module, trainer: TrainerConfig) -> Iterator[None]:
    """Compile a model, recompute its activations and allow TensorFloat-32, as asked for; undo it afterwards."""
    products = torch.get_float32_matmul_precision()
    try:
        if trainer.tf32:
            torch.set_float32_matmul_precision("high")
        if trainer.grad_checkpointing:
            model.set_grad_checkpointing(True)
        if trainer.compile:
            model.compile()  # in place: parameters keep their names
        with compiling() if trainer.compile else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        if trainer.grad_checkpointing:
            model.set_grad_checkpointing(False)
        if trainer.compile:
            model._compiled_call_impl = None
