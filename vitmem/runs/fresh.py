"""Fresh models by a run's own recipe, on other examples: what attacks train shadow models with."""

from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from torch import nn

from vitmem.attacks.contract import Recipe
from vitmem.datamodules.batch import Examples, InMemoryLoader, Share
from vitmem.datamodules.module import MemorisationData
from vitmem.files import digest
from vitmem.models.finite import broken
from vitmem.runs.config import RunConfig, on_one_device
from vitmem.runs.start import new_model, pretrained_sha256
from vitmem.training.errors import TrainingDiverged


class OtherExamples:
    """Serves other examples as a run's data module serves its own.

    Args:
        data: the data module of the run.
        examples: what the model sees.
        seed: key of the shuffling.
    """

    def __init__(self, data: MemorisationData, examples: Examples, seed: int):
        self.data, self.examples, self.seed = data, examples, seed
        self.share = Share()

    def to_device(self, device: torch.device | None) -> None:
        """Make batches where the run's data module does."""

    def train_dataloader(self) -> InMemoryLoader:
        """Return the training batches, augmented as the run's; noisy examples occur as often as there."""
        times = torch.where(self.examples.to_forget, self.data.repeats, 1)
        examples = self.examples.subset(torch.arange(len(self.examples)).repeat_interleave(times))
        return self.data.training_loader(examples, self.seed, self.share)

    def val_dataloader(self) -> list[InMemoryLoader]:
        """Return the model's own examples; validation images may be among them."""
        return [self.data.loader(self.examples)]


def recipe_of(config: RunConfig, data: MemorisationData) -> Recipe:
    """Return how a run's model was trained; on one device, and evaluated at the end only.

    Args:
        config: of the run.
        data: its data module.
    """
    config = on_one_device(config)
    settings = {name: _identity(getattr(config, name)) for name in ("augment", "model", "train", "trainer")}
    settings |= {} if config.normalise.pair is None else {"normalise": config.normalise.pair}
    labels = {"labels": data.manifest.header()["sha256"], "repeats": data.repeats, "data": data.data.fingerprint}
    key = digest({**settings, **labels, "start": pretrained_sha256(config), "seed": config.seed})

    def train(examples: Examples, seed: int, folder: Path) -> nn.Module:
        from vitmem.training.fit import fit

        model = new_model(replace(config, seed=seed), data)
        once = replace(config.train, eval_every=config.train.epochs, log_losses=False, keep_every=0)
        state, _ = fit(model, OtherExamples(data, examples, seed), once, config.trainer, seed=seed, folder=folder)
        if name := broken(state):
            raise TrainingDiverged(
                f"{name} of a shadow model is not finite after its training; the attack cannot be made"
            )
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    return Recipe(train, key, tuned=config.train.early_stop)


def _identity(options: object) -> dict:
    """Return a section's options without later ones at their default: shadow models made before them still count."""
    later = {f.name: f.default for f in fields(options) if f.metadata.get("added")}
    return {name: value for name, value in asdict(options).items() if name not in later or value != later[name]}
