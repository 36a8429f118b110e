"""The training of a run folder; it is skipped when its inputs have not changed."""

import contextlib
import time
from pathlib import Path

from vitmem.datamodules.module import MemorisationData
from vitmem.distributed import is_main, on_main
from vitmem.files import discard, now, to_json, unfinished, write_atomically
from vitmem.models.finite import broken
from vitmem.models.weights import save_model
from vitmem.runs.config import RunConfig, comparable, place_of
from vitmem.runs.folder import SETTINGS, RunFolder, difference, held
from vitmem.runs.start import check_model, make_data, new_model, pretrained_sha256, timm_arguments
from vitmem.runs.trained import TrainedRun, check_data, saved_config, saved_manifest
from vitmem.training.errors import StateLost, TrainingDiverged
from vitmem.training.kept import LOSSES
from vitmem.training.loggers import check_loggers
from vitmem.yaml_files import dump_yaml

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
    check_loggers(config.trainer.loggers)
    data.fit_examples()  # says it if there is nothing to train on
    from vitmem.training.devices import join  # Lightning takes seconds to import, and is not needed for what is trained

    join(config.trainer, config.train.batch_size)
    with contextlib.ExitStack() as stack:

        def begin_alone() -> bool:
            stack.enter_context(held(path, wait=wait))
            return prepare(config, path, data, force)

        if not on_main(begin_alone):
            _train(config, path, data)
    return TrainedRun(path, data, place=place_of(config))


def _train(config: RunConfig, path: Path, data: MemorisationData) -> None:
    from vitmem.training.fit import fit

    model = new_model(config, data)
    start = time.perf_counter()
    state, epoch = fit(model, data, config.train, config.trainer, seed=config.seed, folder=path)
    if not is_main():
        return
    if name := broken(state):
        raise TrainingDiverged(
            f"{name} is not finite after the training, of which nothing is kept; lower train.lr or raise "
            "train.warmup_epochs, and give --force"
        )
    mean, std = data.mean_std
    description = {"timm": timm_arguments(config, data), "mean": mean, "std": std, "classes": data.data.class_names}
    if (interpolation := getattr(config.data, "interpolation", "bilinear")) != "bilinear":
        description["interpolation"] = interpolation
    seconds = round(time.perf_counter() - start, 3)
    try:
        save_model(path, state, description)
        facts = {"finished": now(), "train_seconds": seconds, "epoch": epoch}
        course = [name for name in (LOSSES,) if (path / name).is_file()]
        RunFolder(path).seal([*_WEIGHTS, "metrics.csv", *course], **facts)
        discard(_replaced(path))
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
    text = dump_yaml(config.to_dict())
    _settle(path)
    if is_occupied(path) and not force:
        check_there(config, path, data)
        if folder.is_trained:
            adopted = "adopted" in folder.read_provenance()
            print(f"{path}: {'adopted, not trained here' if adopted else 'already trained'}")
            return True
    if force or not folder.is_run:
        begin(path, text, data, pretrained_sha256=pretrained_sha256(config))
    header = data.manifest.header()
    print(f"{path}: training on {examples} examples ({config.train_on}); {header['num_noisy']} of "
          f"{header['num_examples']} labels are wrong, realised rate {header['realised_rate']:.4f} "
          f"({header['kind']}, nominal {header['rate']:g}){_further(header)}", flush=True)  # fmt: skip
    if config.train.warmup_epochs >= config.train.epochs:
        print(f"train.warmup_epochs is {config.train.warmup_epochs:g}, of {config.train.epochs} epochs: the learning "
              "rate rises to the end, and never falls", flush=True)  # fmt: skip
    return False


def is_occupied(path: Path) -> bool:
    """Tell whether there is something in the place of a run folder.

    Raises:
        ValueError: it is no run folder.
    """
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not RunFolder(path).is_run:
        raise ValueError(f"{path} exists and is not a run folder; choose another --out or --name")
    return occupied


def check_there(config: RunConfig, path: Path, data: MemorisationData) -> None:
    """Raise ValueError if a run folder that is there cannot be gone on with: it was changed, or is of another training.

    Args:
        config: asked for.
        path: the run folder.
        data: at hand.
    """
    folder = RunFolder(path)
    folder.check()
    saved = saved_config(path)
    if comparable(saved) != comparable(config):  # options newer than the folder have their defaults
        differs = difference(comparable(saved).to_dict(), comparable(config).to_dict())
        raise ValueError(
            f"{path} holds a run with other settings ({differs}); choose another --name, "
            f"or --force to replace it{_longer(path, saved, config)}"
        )
    if folder.read_provenance().get("pretrained_sha256") != pretrained_sha256(config):
        raise ValueError(
            f"{config.model.pretrained} is not the file that {path} started from: its SHA-256 differs; "
            "restore it, choose another --name, or --force to replace the run"
        )
    check_data(path, saved_manifest(path), data)


def _further(header: dict) -> str:
    """Return what else the header of a manifest counts, in words."""
    words = {"num_unknown": "of unknown truth", "num_forget": "to be forgotten"}
    return "".join(f", {header[name]} {meaning}" for name, meaning in words.items() if name in header)


def _longer(path: Path, saved: RunConfig, config: RunConfig) -> str:
    """Return how a run is trained for more epochs; empty where that is not asked for.

    The schedule of the learning rate has come to its end: a longer training is another one from its first step.
    """
    if config.train.epochs <= saved.train.epochs:
        return ""
    return f"; to train on from its weights, choose another --name and give --model.pretrained {path}"


def state_of(config: RunConfig, path: Path) -> str:
    """Return what a training would find: ``done``, ``begun`` (it goes on), ``absent`` or ``other settings``."""
    folder = RunFolder(path)
    if not folder.is_run:
        return "other settings" if path.exists() and any(path.iterdir()) else "absent"
    if comparable(saved_config(path)) != comparable(config):
        return "other settings"
    return "done" if folder.is_trained else "begun"


def begin(path: Path, config_text: str, data: MemorisationData, **facts: object) -> None:
    """Write a run's settings and seal them with further facts: the folder appears whole or not at all.

    A finished run that is there is kept beside it until the new one is finished.
    """
    with unfinished(path) as new:
        new.mkdir(parents=True)
        write_atomically(new / "config.yaml", config_text)
        write_atomically(new / "noise.csv", data.manifest.csv_text())
        write_atomically(new / "noise.json", to_json(data.manifest.header()))
        RunFolder(new).seal(SETTINGS, data_fingerprint=data.manifest.data_fingerprint, **facts)
        if _is_finished(path):
            print(f"{path}: the run that is there is kept in {_replaced(path)} until this training is finished")
            path.replace(_replaced(path))
        else:
            discard(path)
        new.replace(path)


def _replaced(path: Path) -> Path:
    """Return where a finished run waits for the end of the training that replaces it."""
    return path.with_name(f".{path.name}.replaced")


def _settle(path: Path) -> None:
    """Put a run back whose replacement never began, and remove one whose replacement is finished."""
    if not path.exists():
        with contextlib.suppress(FileNotFoundError):
            _replaced(path).replace(path)
    elif _is_finished(path):
        discard(_replaced(path))


def _is_finished(path: Path) -> bool:
    try:
        return RunFolder(path).is_trained
    except ValueError:
        return False
