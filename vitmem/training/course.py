"""The course of a training, kept for later questions: each example's loss in each epoch, and weights along the way.

Legend: E epochs, N training examples, B examples of a batch.
"""

import sys
from pathlib import Path

import lightning as L
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from vitmem.distributed import all_sum, is_main
from vitmem.files import write_atomically
from vitmem.training.averaging import WeightAverage
from vitmem.training.config import TrainConfig
from vitmem.training.devices import clean_name
from vitmem.training.errors import StateLost
from vitmem.training.kept import KEPT, LOSSES


class LossLog(L.Callback):
    """Keeps the cross-entropy of each example at its given label, as the model is trained on it, in nats.

    That is the loss of the step in which the example took part: after augmentation, with dropout, before the step.
    It is part of every checkpoint.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOSSES
        self.losses_N: list[Tensor] = []  # of the epochs that are done
        self.current_2N = torch.empty(0)  # losses of this epoch so far, and which examples took part

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps: this process's part of the epoch, and all of those before."""
        return {"losses": self.losses_N, "current": all_sum(self.current_2N.clone())}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a checkpoint."""
        self.losses_N = state_dict["losses"]
        self.current_2N = state_dict["current"] * is_main()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make room for the examples at hand."""
        number = int(trainer.train_dataloader.examples.index.max()) + 1
        if self.current_2N.shape != (2, number):
            self.current_2N = torch.zeros(2, number)
        self.current_2N = self.current_2N.to(pl_module.device)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Note the losses of a batch; an example that occurs several times in an epoch has the last one."""
        loss_B = F.cross_entropy(outputs["logits"].float(), batch.given_label, reduction="none")
        self.current_2N[0, batch.index] = loss_B
        self.current_2N[1, batch.index] = 1

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        """Note the epoch; its processes have each seen a part of the examples."""
        sum_N, times_N = all_sum(self.current_2N).cpu()
        self.losses_N.append(sum_N / times_N)  # 0 / 0 is NaN
        self.current_2N.zero_()

    def on_fit_end(self, trainer, pl_module) -> None:
        """Write ``losses.safetensors``, whose ``losses`` are E N, float32, NaN where an example did not take part.

        Raises:
            StateLost: it cannot be written.
        """
        if not is_main():
            return
        try:
            write_atomically(self.path, save({"losses": torch.stack(self.losses_N)}))
        except OSError as error:
            raise StateLost(
                f"{self.path} cannot be written ({error.strerror}); make room or make the folder writable: the "
                "same command goes on from the last checkpoint"
            ) from error


class KeptWeights(L.Callback):
    """Keeps the model after every so many epochs as it is evaluated: the average of the weights, tied units dropped.

    Args:
        folder: the run folder.
        every: epochs between them.
        average: of the weights, if there is one.
    """

    def __init__(self, folder: Path, every: int, average: WeightAverage | None = None):
        self.folder, self.every, self.average = folder / KEPT, every, average

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        """Write the weights of an epoch whose turn it is; the last one's are the trained model."""
        done = trainer.current_epoch + 1
        if done % self.every or done == trainer.max_epochs:
            return
        own = self._evaluated(trainer, pl_module)  # in all processes: each may have a part of it
        if not is_main():
            return
        path = self.folder / f"{done:04d}.safetensors"
        try:
            self.folder.mkdir(exist_ok=True)
            write_atomically(path, save(own))
        except OSError as error:
            print(f"vitmem: {path} cannot be written ({error.strerror}); training goes on without it", file=sys.stderr)

    def _evaluated(self, trainer: L.Trainer, pl_module) -> dict[str, Tensor]:
        if self.average:
            self.average.swap(pl_module)
        state = trainer.strategy.lightning_module_state_dict()
        own = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        own = {clean_name(name): value.detach().to("cpu", copy=True).contiguous() for name, value in own.items()}
        if self.average:
            self.average.swap(pl_module)
        return pl_module.tied.folded(own)


def course_of(train: TrainConfig, folder: Path, average: WeightAverage | None = None) -> list[L.Callback]:
    """Return what keeps the course of a training, as asked for."""
    losses = [LossLog(folder)] if train.log_losses else []
    return [*losses, KeptWeights(folder, train.keep_every, average)] if train.keep_every else losses
