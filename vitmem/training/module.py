"""The Lightning module: loss, schedule, and the memorisation metrics of every epoch.

Randomness is keyed, not carried along: the order of an epoch by (seed, epoch), dropout by (seed, step). A resumed run
therefore sees what the uninterrupted one saw, and evaluating more often changes nothing. Several processes share the
examples of every step, and several batches may add up to one; losses are weighted so that a step is the same.
"""

import math

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from vitmem.datamodules.batch import Batch, Share, keyed_seed
from vitmem.distributed import all_sum, is_main, share
from vitmem.models.build import is_decayed
from vitmem.models.finite import answers
from vitmem.models.layers import select_layers
from vitmem.training.config import TrainConfig
from vitmem.training.devices import clean_name
from vitmem.training.errors import TrainingDiverged
from vitmem.training.keeper import ACCURACIES
from vitmem.training.optimisers import ascend, hidden_matrices, optimiser_of
from vitmem.training.tied_dropout import TiedDropout


class MemorisationModule(L.LightningModule):
    """Cross-entropy on the given labels, with the four accuracies after every evaluated epoch.

    Args:
        model: B C H W images to B K logits.
        config: optimiser and schedule.
        seed: key of the dropout noise.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, seed: int):
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer validation examples than processes
        self.tied = TiedDropout(model, config.tied_fixed, config.tied_memory, seed)
        self.history: list[dict] = []
        for layer in select_layers(model, config.frozen).values() if config.frozen else ():
            layer.requires_grad_(False)
        self._decayed = {name for name, p in model.named_parameters() if is_decayed(name, p)}  # before it is sharded
        self._hidden = hidden_matrices(model)
        self._step_seed = 0
        self._logits = torch.empty(0)
        self._takes_second = False  # gradient of a step of SAM
        self._epoch_loss = torch.zeros(2)  # sum over this process's examples of this epoch, and their number
        self.accuracy = nn.ModuleDict({name: MeanMetric(nan_strategy="disable") for name in ACCURACIES})
        self._evaluated = False
        self._loader_state: dict[str, int] | None = None

    def configure_optimizers(self):
        """Return the optimiser, with the learning rate set per step."""
        named = [(clean_name(name), p) for name, p in self.model.named_parameters() if p.requires_grad]
        fused = self.trainer.precision != "16-mixed"  # there, a fused step undoes the loss scale, after clipping
        optimiser = optimiser_of(self.config, named, self._decayed, self._hidden, fused)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.config.warmup_epochs * steps / self.config.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmup_cosine(step, warmup, steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Let the loader go on where it was; Lightning itself restores it only if it was not set up before."""
        self._epoch_loss = self._epoch_loss.to(self.device)
        if self._loader_state is not None:
            self.trainer.train_dataloader.load_state_dict(self._loader_state)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's mean loss; see to it that the last epoch is evaluated."""
        self._epoch_loss = torch.zeros(2, device=self.device)
        self._evaluated = False

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Key the dropout noise by (seed, step), and by the part of the step where several share it.

        The last epoch is always evaluated; its start may have been before the training was resumed.
        """
        if self.current_epoch == self.config.epochs - 1:
            self.trainer.check_val_every_n_epoch = 1
        own: Share = self.trainer.train_dataloader.share
        part = (self.global_step * own.accumulate + batch_idx % own.accumulate) * own.processes + own.rank
        self._step_seed = keyed_seed(self.seed, part, 2)
        torch.manual_seed(self._step_seed)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None) -> None:
        """Step with the gradient at the weights, or, with SAM, with that at the worst weights nearby."""
        if not self.config.sam:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return

        def second():
            optimizer_closure()
            back = ascend(self.model, self.config.sam)
            self._takes_second = True
            torch.manual_seed(self._step_seed)  # the same dropout
            loss = optimizer_closure()
            self._takes_second = False
            back()
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, second)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the mean cross-entropy on the given labels, weighted by the batch's share of the step's examples.

        The labels of mixed images are soft. Lightning and the strategy take the mean over the batches of a step, so
        that the weights are 1 on average. ``logits`` are for callbacks.
        """
        target = batch.given_label if batch.target is None else batch.target
        with self.tied(batch.index):
            logits_BK = self.model(batch.image)
        loss = F.cross_entropy(logits_BK, target, label_smoothing=self.config.label_smoothing)
        loader = self.trainer.train_dataloader
        own, step = loader.counts(batch_idx)
        weighted = loss * (own / step * loader.share.accumulate * loader.share.processes)
        if self._takes_second:  # callbacks see the first, at the weights themselves
            return {"loss": weighted, "logits": self._logits}
        self._logits = logits_BK.detach()
        self._epoch_loss += torch.stack([loss.detach().float() * own, torch.full_like(loss, own).float()])
        alone = share()[1] == 1
        if (self.device.type == "cpu" and alone) or batch_idx % 50 == 49:  # reading a loss waits for the step
            self._mean_loss()
        return {"loss": weighted, "logits": self._logits}

    def _mean_loss(self) -> float:
        """Return the mean loss of the epoch so far, over all processes."""
        total, count = all_sum(self._epoch_loss.clone()).tolist()
        if not math.isfinite(total):
            first = "at" if self.device.type == "cpu" and share()[1] == 1 else "at or less than 50 batches before"
            raise TrainingDiverged(
                f"the training loss is not finite {first} step {self.global_step} (epoch {self.current_epoch}); "
                "lower train.lr or raise train.warmup_epochs"
            )
        return total / count

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        for metric in self.accuracy.values():
            metric.reset()
        self._evaluated = True

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Count correct answers; loader 0 holds all training examples, loader 1 the validation examples."""
        predicted = answers(self.model(batch.image))
        everyone, noisy = torch.ones_like(batch.is_noisy), batch.is_noisy
        truth_known = dataloader_idx == 1 or self.trainer.val_dataloaders[0].examples.truth_known
        forget = batch.to_forget if truth_known else everyone
        for name, chosen, label in (
            [("validation_accuracy", everyone, batch.true_label)]
            if dataloader_idx == 1
            else [
                ("memorized_accuracy", forget, batch.given_label),
                ("ground_truth_accuracy", noisy & forget, batch.true_label),
                ("clean_train_accuracy", batch.to_retain, batch.given_label),
            ]
        ):
            self.accuracy[name].update((predicted == label)[chosen].float())
        return predicted

    def on_train_epoch_end(self) -> None:
        """Add the epoch's row to the history."""
        row: dict = {
            "epoch": self.current_epoch,
            "step": self.global_step,
            "lr": self.optimizers().param_groups[0]["lr"],
            "train_loss": self._mean_loss(),
        }
        for name, metric in self.accuracy.items():  # of all processes; of no examples, NaN
            row[name] = float(metric.compute()) if self._evaluated else math.nan
        self.history.append(row)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the history, the running loss and the place in the epoch with the weights."""
        checkpoint["history"] = self.history
        checkpoint["loader"] = self.trainer.train_dataloader.state_dict()
        checkpoint["epoch_loss"] = all_sum(self._epoch_loss.clone())

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Restore what ``on_save_checkpoint`` kept."""
        if not isinstance(checkpoint["epoch_loss"], Tensor):
            raise ValueError("the checkpoint is of an earlier vitmem: train again with --force")
        self.trainer.precision_plugin.convert_module(self)  # Lightning would only after it loaded the weights, rounded
        self._loader_state = checkpoint["loader"]
        self.history = checkpoint["history"]
        self._epoch_loss = checkpoint["epoch_loss"] * is_main()  # the sum over all processes

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip the norm of all gradients; where they are sharded, only the sharded model knows it.

        Lightning's own clipping refuses a fused optimiser for every mixed precision, though bf16 has no loss scale.
        """
        if not gradient_clip_val:
            return
        if isinstance(self.trainer.strategy, FSDPStrategy):
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)
        else:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: linear from 1/warmup to 1, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
