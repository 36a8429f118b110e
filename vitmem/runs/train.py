"""The training of a run folder; it is skipped when its inputs have not changed."""

import contextlib
import shutil
import time
from pathlib import Path

import torch
import yaml

from vitmem.datamodules.module import MemorisationData
from vitmem.distributed import is_main, on_main
from vitmem.files import now, to_json
from vitmem.models.weights import save_model
from vitmem.runs.config import RunConfig, on_one_device
from vitmem.runs.folder import RunFolder, difference, held
from vitmem.runs.start import check_model, make_data, new_model, pretrained_sha256, timm_arguments
from vitmem.runs.trained import TrainedRun
from vitmem.training.devices import join
from vitmem.training.errors import StateLost, TrainingDiverged
from vitmem.training.fit import fit

_SETTINGS = ("config.yaml", "noise.csv", "noise.json")
_WEIGHTS = ("model.safetensors", "model.json")


def train(config: RunConfig, path: Path, *, force: bool = False, wait: bool = False) -> TrainedRun:
    """Train a model into a run folder; go on where an interrupted run stopped; do nothing if it is finished.

    Args:
        config: everything that determines the model.
        path: the run folder.
        force: replace a run that is there.
        wait: wait while another command works in the folder.

    Raises:
        ValueError: the folder holds something else, or a run with other settings, or another command works in it.
        Interrupted: the training was told to end.
        StateLost: the results cannot be written.
    """
    data = make_data(config)
    check_model(config, data)
    data.fit_examples()  # says it if there is nothing to train on
    join(config.trainer, config.train.batch_size)
    with contextlib.ExitStack() as stack:

        def begin_alone() -> bool:
            stack.enter_context(held(path, wait=wait))
            return prepare(config, path, data, force)

        if not on_main(begin_alone):
            _train(config, path, data)
    return TrainedRun(path, data)


def _train(config: RunConfig, path: Path, data: MemorisationData) -> None:
    model = new_model(config, data)
    start = time.perf_counter()
    state, epoch = fit(model, data, config.train, config.trainer, seed=config.seed, folder=path)
    if not is_main():
        return
    if broken := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise TrainingDiverged(
            f"{broken[0]} is not finite after the training, of which nothing is kept; lower train.lr or raise "
            "train.warmup_epochs, and give --force"
        )
    mean, std = data.data.mean_std
    description = {"timm": timm_arguments(config, data), "mean": mean, "std": std, "classes": data.data.class_names}
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
            saved = saved_config(path)
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


def saved_config(path: Path) -> RunConfig:
    """Return the configuration that a run folder holds."""
    return RunConfig.from_dict(yaml.safe_load((path / "config.yaml").read_text()))


def state_of(config: RunConfig, path: Path) -> str:
    """Return what a training would find: ``done``, ``begun`` (it goes on), ``absent`` or ``other settings``."""
    folder = RunFolder(path)
    if not folder.is_run:
        return "other settings" if path.exists() and any(path.iterdir()) else "absent"
    if on_one_device(saved_config(path)) != on_one_device(config):
        return "other settings"
    return "done" if folder.is_trained else "begun"


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
