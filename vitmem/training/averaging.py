"""Which weights a training ends with, other than the last: their moving average, or those of the best epoch."""

import lightning as L
import torch
from torch import Tensor

from vitmem.distributed import all_sum


class WeightAverage(L.Callback):
    """Keeps an average of the weights, which evaluation sees and training ends with.

    After step t (from 1) the average moves towards the weights by 1 - min(decay, (1 + t) / (10 + t)), so that the
    initial weights are soon forgotten. It is part of every checkpoint.

    Args:
        decay: of the average, in (0, 1).
    """

    def __init__(self, decay: float):
        self.decay, self.step = decay, 0
        self.average: list[Tensor] = []

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a checkpoint."""
        self.step, self.average = state_dict["step"], state_dict["average"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the weights at hand, or move a restored average to their device."""
        weights = list(pl_module.parameters())
        start = self.average or weights
        self.average = [value.detach().to(w.device, copy=True) for value, w in zip(start, weights, strict=True)]

    @torch.no_grad()
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Move the average after every step of the optimiser."""
        if trainer.global_step == self.step:  # gradients were only accumulated
            return
        self.step = trainer.global_step
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, list(pl_module.parameters()), 1 - decay)

    @torch.no_grad()
    def swap(self, pl_module: L.LightningModule) -> None:
        """Exchange the weights and the average."""
        for mean, weight in zip(self.average, pl_module.parameters(), strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the average."""
        self.swap(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train on."""
        self.swap(pl_module)

    @torch.no_grad()
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the model, also where a checkpoint had nothing left to train."""
        for mean, weight in zip(self.average, pl_module.parameters(), strict=True):
            weight.copy_(mean)


class BestEpoch(L.Callback):
    """Remembers the weights of the evaluated epoch that is best on the validation examples of even index.

    Of equally good epochs the first one counts. It is part of the checkpoints.
    """

    def __init__(self):
        self.correct, self.best = 0, -1
        self.epoch: int | None = None
        self.weights: dict[str, Tensor] = {}

    def on_validation_epoch_start(self, trainer, pl_module) -> None:
        """Count from zero."""
        self.correct = 0

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Count the correct answers on the tuning half."""
        if dataloader_idx == 1:
            self.correct += int((outputs == batch.true_label)[batch.index % 2 == 0].sum())

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        """Keep the weights if they are better than all before; every process has seen its share of the examples."""
        correct = int(all_sum(torch.tensor(self.correct, device=pl_module.device)))
        if correct > self.best:
            self.best, self.epoch = correct, trainer.current_epoch
            self.weights = {key: value.detach().cpu().clone() for key, value in pl_module.model.state_dict().items()}

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return {"best": self.best, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what a checkpoint kept."""
        self.best, self.epoch, self.weights = (state_dict[key] for key in ("best", "epoch", "weights"))
