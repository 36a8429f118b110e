"""The training of a run folder; it is skipped when its inputs have not changed."""

import dataclasses
import shutil
import time
from pathlib import Path

import yaml
from torch import nn

from datamodules.module import MemorisationData
from vitmem import models, pretrained
from vitmem.config import RunConfig
from vitmem.distributed import is_main, on_main
from vitmem.keeper import StateLost
from vitmem.runs import RunFolder, difference, file_digest, now, to_json
from vitmem.trained import TrainedRun, make_data, save_model
from vitmem.training import fit

_SETTINGS = ("config.yaml", "noise.csv", "noise.json")
_WEIGHTS = ("model.safetensors", "model.json")


def check_model(config: RunConfig, data: MemorisationData) -> nn.Module:
    """Return the model without storage, so that wrong sizes, weights and patterns are found before any work."""
    arguments = config.model.timm_arguments(data.data.image_shape, data.data.num_classes)
    model = models.create(arguments, device="meta")
    if config.model.pretrained:
        pretrained.read(pretrained.find(config.model.pretrained), model)
    return model


def pretrained_sha256(config: RunConfig) -> str | None:
    """Return the SHA-256 of the weights that training starts from; None where they are random."""
    return file_digest(pretrained.find(config.model.pretrained)) if config.model.pretrained else None


def new_model(config: RunConfig, data: MemorisationData) -> nn.Module:
    """Return the model at step 0, and say what a file of pretrained weights left out."""
    arguments = config.model.timm_arguments(data.data.image_shape, data.data.num_classes)
    model = models.create(arguments, seed=config.seed)
    if config.model.pretrained:
        weights, notes = pretrained.read(pretrained.find(config.model.pretrained), model)
        model.load_state_dict(weights, strict=False)
        print(f"weights from {config.model.pretrained}: {len(weights)} tensors; {'; '.join(notes) or 'all of them'}")
    return model


def train(config: RunConfig, path: Path, *, force: bool = False) -> "TrainedRun":
    """Train a model into a run folder; go on where an interrupted run stopped; do nothing if it is finished.

    Args:
        config: everything that determines the model.
        path: the run folder.
        force: replace a run that is there.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
        Interrupted: the training was told to end.
        StateLost: the results cannot be written.
    """
    data = make_data(config)
    check_model(config, data)
    config.trainer.join(config.train.batch_size)
    if on_main(lambda: prepare(config, path, data, force)):
        return TrainedRun(path, data)
    arguments = config.model.timm_arguments(data.data.image_shape, data.data.num_classes)
    model = new_model(config, data)
    start = time.perf_counter()
    state, epoch = fit(model, data, config.train, config.trainer, seed=config.seed, folder=path)
    if is_main():
        mean, std = data.data.mean_std
        description = {"timm": arguments, "mean": mean, "std": std, "classes": data.data.class_names}
        seconds = round(time.perf_counter() - start, 3)
        try:
            save_model(path, state, description)
            facts = {"finished": now(), "train_seconds": seconds, "epoch": epoch}
            RunFolder(path).seal([*_WEIGHTS, "metrics.csv"], **facts)
        except OSError as error:
            raise StateLost(
                f"the trained model cannot be written to {path} ({error.strerror}); make room or make the folder "
                "writable: the same command goes on from the last checkpoint, if there is one"
            ) from error
    return TrainedRun(path, data)


def prepare(config: RunConfig, path: Path, data: MemorisationData, force: bool) -> bool:
    """Make a run folder ready for training, and return whether it holds the finished model.

    Raises:
        ValueError: the folder holds something else, or a run with other settings.
    """
    folder = RunFolder(path)
    examples = len(data.fit_examples())
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    start_sha256 = pretrained_sha256(config)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not folder.is_run:
            raise ValueError(f"{path} exists and is not a run folder; choose another --out or --name")
        if force:
            aside = path.with_name(f".{path.name}.replaced")
            shutil.rmtree(aside, ignore_errors=True)
            path.replace(aside)
        else:
            folder.check()
            saved = RunConfig.from_dict(yaml.safe_load((path / "config.yaml").read_text()))
            if on_one_device(saved) != on_one_device(config):  # options newer than the folder have their defaults
                differs = difference(saved.to_dict(), config.to_dict())
                raise ValueError(
                    f"{path} holds a run with other settings ({differs}); choose another --name, "
                    "or --force to replace it"
                )
            if folder.read_provenance().get("pretrained_sha256") != start_sha256:
                raise ValueError(
                    f"{config.model.pretrained} is not the file that {path} started from: its SHA-256 differs; "
                    "restore it, choose another --name, or --force to replace the run"
                )
            if folder.is_trained:
                print(f"{path}: already trained")
                return True
    begin(folder, text, data, pretrained_sha256=start_sha256)
    shutil.rmtree(path.with_name(f".{path.name}.replaced"), ignore_errors=True)
    header = data.manifest.header()
    print(f"{path}: training on {examples} examples ({config.train_on}); {header['num_noisy']} of "
          f"{header['num_examples']} labels are wrong, realised rate {header['realised_rate']:.4f} "
          f"({header['kind']}, nominal {header['rate']:g})", flush=True)  # fmt: skip
    return False


def on_one_device(config: RunConfig) -> RunConfig:
    """Return a configuration without the devices: a run may go on on others."""
    elsewhere = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **elsewhere))


def begin(folder: RunFolder, config_text: str, data: MemorisationData, **facts: object) -> None:
    """Write a run's settings and seal them with further facts: the folder appears whole or not at all."""
    if folder.is_run:
        return
    new = folder.path.with_name(f".{folder.path.name}.partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "config.yaml").write_text(config_text)
    (new / "noise.csv").write_text(data.manifest.csv_text())
    (new / "noise.json").write_text(to_json(data.manifest.header()))
    RunFolder(new).seal(_SETTINGS, data_fingerprint=data.manifest.data_fingerprint, **facts)
    new.replace(folder.path)
