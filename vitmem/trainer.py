"""How a training is run: devices, nodes, precision, and what is asked of PyTorch, as options of Lightning's Trainer."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

STRATEGIES = ("auto", "ddp", "fsdp")
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.")  # what compiled and sharded models put into parameter names


@dataclass(frozen=True)
class TrainerConfig:
    """How Lightning's Trainer runs the training.

    The number of devices changes results by rounding only, unless dropout or augmentation is on: their draws depend
    on it, and on accumulate.

    Args:
        accelerator: cpu, gpu or auto.
        devices: devices per node, or auto for all; each has batch_size / (devices * num_nodes * accumulate) examples
            at a time.
        num_nodes: machines; with more than one, start the same command on each with srun or torchrun.
        strategy: auto, ddp (each device holds the model) or fsdp (it is sharded; GPUs only).
        accumulate: batches per step and device whose gradients are added up, where memory is short.
        precision: Lightning's name, for example 32-true or bf16-mixed.
        compile: compile the model with torch.compile.
        grad_checkpointing: compute activations again in the backward pass: less memory, about a third more time.
        tf32: multiply float32 matrices in TensorFloat-32, on GPUs that have it.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    accumulate: int = 1
    precision: str = "32-true"
    compile: bool = False
    grad_checkpointing: bool = False
    tf32: bool = False

    def __post_init__(self):
        if self.devices != "auto" and not (isinstance(self.devices, int) and self.devices >= 1):
            raise ValueError(f"trainer.devices is {self.devices}; it must be at least 1, or auto")
        for option in ("num_nodes", "accumulate"):
            if getattr(self, option) < 1:
                raise ValueError(f"trainer.{option} is {getattr(self, option)}; it must be at least 1")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"trainer.strategy is {self.strategy!r}; choose from {', '.join(STRATEGIES)}")

    def build(self, **options) -> L.Trainer:
        """Return Lightning's Trainer with these flags and further options."""
        return L.Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            num_nodes=self.num_nodes,
            strategy=sharded() if self.strategy == "fsdp" else self.strategy,
            accumulate_grad_batches=self.accumulate,
            precision=self.precision,
            logger=False,
            **options,
        )

    def check(self, batch_size: int) -> L.Trainer:
        """Return a trainer with these flags.

        Args:
            batch_size: examples per step.

        Raises:
            ValueError: Lightning cannot train with them on this machine, or the batch cannot be shared out.
        """
        try:
            engine = self.build(enable_checkpointing=False)
        except (MisconfigurationException, ImportError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"Lightning cannot use trainer {dataclasses.asdict(self)}: {error}") from error
        parts = engine.world_size * self.accumulate
        if batch_size % parts:
            raise ValueError(
                f"train.batch_size {batch_size} cannot be shared by {engine.world_size} devices with "
                f"trainer.accumulate {self.accumulate}: it must be a multiple of {parts}"
            )
        environment = getattr(engine.strategy, "cluster_environment", None)
        if self.num_nodes > 1 and isinstance(environment, LightningEnvironment):
            raise ValueError(
                f"trainer.num_nodes is {self.num_nodes}; start the command on every node, by srun or torchrun"
            )
        started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else engine.world_size
        if started != engine.world_size:
            raise ValueError(
                f"torchrun started {started} processes, but trainer.devices x trainer.num_nodes is {engine.world_size}"
            )
        return engine

    def join(self, batch_size: int) -> None:
        """Meet the other processes, if torchrun or Slurm started several; Lightning starts its own only in ``fit``.

        Raises:
            ValueError: as ``check``.
        """
        engine = self.check(batch_size)
        environment = getattr(engine.strategy, "cluster_environment", None)
        if engine.world_size > 1 and not isinstance(environment, LightningEnvironment):
            engine.strategy.setup_environment()


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
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        if trainer.grad_checkpointing:
            model.set_grad_checkpointing(False)
        if trainer.compile:
            model._compiled_call_impl = None
