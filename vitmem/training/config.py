"""How a model is trained, as options: nothing here imports Lightning or torch."""

import math
from dataclasses import dataclass, field

STRATEGIES = ("auto", "ddp", "fsdp")
OPTIMISERS = ("adamw", "sgd", "muon")
MOST_DEVICES = 4096  # of a machine; Lightning lists them one by one


@dataclass(frozen=True)
class TrainConfig:
    """An optimiser with linear warm-up and cosine decay.

    Args:
        epochs: passes over the training set, at least 1.
        batch_size: examples per step, over all devices and accumulated batches together.
        lr: peak learning rate. It is used as given: whoever changes batch_size by a factor k scales it, by k (Goyal et
            al. 2017) or, as is usual for Adam, by sqrt(k) (Malladi et al. 2022).
        weight_decay: decay of matrices, decoupled but for sgd; biases, norms, positions and tokens are not decayed.
        warmup_epochs: epochs of linear warm-up; a fraction is fine.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        clip: largest gradient norm; 0 switches clipping off.
        ema: decay of an exponential moving average of the weights, which is what is then evaluated, saved and edited;
            0 is off.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        checkpoint_minutes: minutes between checkpoints, 0 for every step; one is also written at the end, on Ctrl-C,
            and on SIGTERM or SIGUSR1 (pre-emption). An evaluation that runs is finished first.
        checkpoint_epochs: epochs between checkpoints, besides those by time; 0 is off.
        early_stop: end with the weights of the evaluated epoch that is best on the validation examples of even index.
        tied_fixed: share of each MLP's hidden units that generalise, in (0, 1]; below 1, the others are tied to
            examples while training (example-tied dropout, Maini et al. 2023, who take 0.2) and dropped at the end.
        tied_memory: share of the other units that each example switches on, in (0, 1); Maini et al. take 0.1.
        frozen: glob patterns over layer names, separated by commas: linear layers that stay as they start, so that what
            is learnt must sit elsewhere.
        log_losses: keep the loss of each training example in each epoch, in ``losses.safetensors``: 4 bytes each.
        keep_every: epochs between weights that are kept, in ``epochs/``, for what is asked of a training's course; 0
            keeps none.
        optimiser: adamw, sgd (Nesterov momentum 0.9; it takes a higher lr, about 0.1) or muon (for the matrices inside
            the model, adamw for the rest, at one lr).
        sam: radius of sharpness-aware minimisation, whose gradient is taken where the loss is highest nearby, at twice
            the cost; 0 is off. Foret et al. (2021) take 0.05, Chen et al. (2022) 0.2 for ViT-B/16.
    """

    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.1
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    eval_every: int = 1
    checkpoint_minutes: float = 1.0
    checkpoint_epochs: int = 0
    early_stop: bool = False
    tied_fixed: float = 1.0
    tied_memory: float = 0.1
    frozen: str = ""
    log_losses: bool = field(default=True, metadata={"added": True})
    keep_every: int = field(default=0, metadata={"added": True})
    optimiser: str = field(default="adamw", metadata={"added": True})
    sam: float = field(default=0.0, metadata={"added": True})

    def __post_init__(self):
        for option in ("epochs", "batch_size", "eval_every"):
            if getattr(self, option) < 1:
                raise ValueError(f"train.{option} is {getattr(self, option)}; it must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"train.lr is {self.lr}; it must be positive and finite")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"train.optimiser is {self.optimiser!r}; choose from {', '.join(OPTIMISERS)}")
        for option in (
            "weight_decay",
            "warmup_epochs",
            "clip",
            "checkpoint_minutes",
            "checkpoint_epochs",
            "keep_every",
            "sam",
        ):
            if not getattr(self, option) >= 0:
                raise ValueError(f"train.{option} is {getattr(self, option)}; it must not be negative")
        for option in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, option) < 1:
                raise ValueError(f"train.{option} is {getattr(self, option)}; it must be in [0, 1)")
        if not 0 < self.tied_fixed <= 1:
            raise ValueError(f"train.tied_fixed is {self.tied_fixed}; it must be in (0, 1]; 1 switches it off")
        if not 0 < self.tied_memory < 1:
            raise ValueError(f"train.tied_memory is {self.tied_memory}; it must be in (0, 1)")


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
        loggers: where else the epochs are written, comma-separated, such as tensorboard,wandb; it changes no result.
        online: loggers may use the network; only the command line can say so.
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
    loggers: str = field(default="", metadata={"added": True})
    online: bool = field(default=False, metadata={"added": True})

    def __post_init__(self):
        if self.devices != "auto" and not (isinstance(self.devices, int) and 1 <= self.devices <= MOST_DEVICES):
            raise ValueError(f"trainer.devices is {self.devices}; it must be in 1 to {MOST_DEVICES}, or auto")
        for option in ("num_nodes", "accumulate"):
            if getattr(self, option) < 1:
                raise ValueError(f"trainer.{option} is {getattr(self, option)}; it must be at least 1")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"trainer.strategy is {self.strategy!r}; choose from {', '.join(STRATEGIES)}")
