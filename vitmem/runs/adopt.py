"""A run folder made from weights that were trained elsewhere."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.normalise import Normalise
from vitmem.evaluation.metrics import Metric, compute
from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable, predict
from vitmem.files import discard, file_digest, to_json, unfinished, write_atomically
from vitmem.models.config import ModelConfig
from vitmem.models.foreign import create_foreign
from vitmem.models.given import read_weights
from vitmem.models.origins import Origin, origin_of
from vitmem.models.weights import find_weights, save_model
from vitmem.runs.config import RunConfig
from vitmem.runs.folder import SETTINGS, RunFolder, held
from vitmem.runs.start import make_data
from vitmem.runs.trained import TrainedRun, saved_config

MEASURED = ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")
_TRIED = 2000  # examples on which likely causes are tried
_NORMALISATIONS = {
    "0.5 and 0.5": (0.5, 0.5),
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "nothing taken out (0 and 1)": (0.0, 1.0),
}


@dataclass(frozen=True)
class Expected:
    """Accuracies that a model is known to have, and how far what is measured here may be from them.

    Args:
        memorized: on the wrong labels, in [0, 1]; None: not known.
        validation: on the validation images, in [0, 1]; None: not known.
        tolerance: largest difference.
    """

    memorized: float | None = None
    validation: float | None = None
    tolerance: float = 0.02

    def __post_init__(self):
        for name in ("memorized", "validation"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"--expect_{name} is {value}; it is an accuracy in [0, 1]")
        if not 0 <= self.tolerance <= 1:
            raise ValueError(f"--tolerance is {self.tolerance}; it is a difference of accuracies in [0, 1]")

    def values(self) -> dict[str, float]:
        """Return what is expected by metric."""
        found = {"memorized_accuracy": self.memorized, "validation_accuracy": self.validation}
        return {name: value for name, value in found.items() if value is not None}


def adopt(
    weights: str,
    config: RunConfig,
    path: Path,
    architecture: str | None = None,
    arguments: Mapping | None = None,
    *,
    expected: Expected = Expected(),
    ema: bool = False,
    resample: bool = False,
    force: bool = False,
    wait: bool = False,
) -> TrainedRun:
    """Make a run folder from weights that were trained elsewhere, and say what they know of the data.

    Args:
        weights: file, or a folder that holds it and, of a hub, the model's ``config.json``.
        config: data, noise and seed; the rest describes a training, which is not known.
        path: the run folder.
        architecture: a model of timm, or ``torchvision/NAME``; None: as the folder's ``config.json`` says.
        arguments: of the architecture, such as sizes.
        expected: refuse a model that has other accuracies.
        ema: take averaged weights.
        resample: resample position embeddings of another size.
        force: replace a run that is there.
        wait: wait while another command works in the folder.

    Raises:
        ValueError: the weights cannot be read or are of another model, the data do not fit, the accuracies are not as
            expected, or the folder holds something else.
    """
    file = find_weights(weights)
    origin = origin_of(Path(weights), file, architecture, arguments or {})
    source = (
        "given"
        if config.normalise.pair
        else f"those of {origin.source}; others with --normalise.mean and --normalise.std"
    )
    config = _as_trained(config, origin)
    data = make_data(config)
    description = origin.description(data.data.image_shape, data.data.num_classes)
    model = create_foreign(description)
    model.load_state_dict(read_weights(file, model, ema=ema, resample=resample))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    _check_takes(model, data)
    found = compute(_measure(model, data))
    _tell(f"{file}: {description['library']} {description['name']}", source, model, data, found)
    for why in _surprises(expected, model, data, found):
        raise ValueError(why)
    mean, std = data.mean_std
    names = {"adopted": description, "image_shape": list(data.data.image_shape), "mean": mean, "std": std}
    names |= {"classes": data.data.class_names, "interpolation": getattr(config.data, "interpolation", "bilinear")}
    told = {"file": file.name, "sha256": file_digest(file), "averaged": ema, "resampled": resample}
    with held(path, wait=wait):
        _refuse_others(path, force)
        with unfinished(path) as new:
            _write(new, config, data, model, names, told)
            discard(path)
            new.replace(path)
    return TrainedRun(path, data)


def _write(
    folder: Path, config: RunConfig, data: MemorisationData, model: nn.Module, names: Mapping, told: Mapping
) -> None:
    """Write a run folder that is not there yet."""
    folder.mkdir(parents=True)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
    write_atomically(folder / "noise.csv", data.manifest.csv_text())
    write_atomically(folder / "noise.json", to_json(data.manifest.header()))
    save_model(folder, model.state_dict(), dict(names))
    files = [*SETTINGS, "model.safetensors", "model.json"]
    RunFolder(folder).seal(files, data_fingerprint=data.manifest.data_fingerprint, adopted=dict(told))


def _tell(what: str, source: str, model: nn.Module, data: MemorisationData, found: Mapping[str, Metric]) -> None:
    """Print what a model is, how images are normalised for it, and what it knows of the data."""
    numbers = sum(parameter.numel() for parameter in model.parameters())
    mean, std = (",".join(f"{value:g}" for value in part) for part in data.mean_std)
    print(f"{what}, {numbers:,} parameters; images are normalised with mean {mean} and std {std} ({source})")
    told = {name.removesuffix("_accuracy"): found[name] for name in MEASURED if found[name].n}
    print("  ".join(f"{name} {metric.value:.3f} (n={metric.n})" for name, metric in told.items()), flush=True)


def _as_trained(config: RunConfig, origin: Origin) -> RunConfig:
    """Return the configuration with the normalisation, size and interpolation that a model was trained with."""
    data = config.data
    changed: dict = {}
    if origin.size is not None and hasattr(data, "size") and data.size is None:
        changed["size"] = origin.size
    if origin.interpolation is not None and getattr(data, "interpolation", None) == "bilinear":
        changed["interpolation"] = origin.interpolation
    if changed:
        print(f"images are made as the model's were: {', '.join(f'data.{k} {v}' for k, v in changed.items())}")
    normalise = config.normalise
    if normalise.pair is None:
        if origin.mean is None:
            raise ValueError(
                "the mean and std that the model was trained with are not known; give them, as --normalise.mean "
                "0.5,0.5,0.5 --normalise.std 0.5,0.5,0.5"
            )
        normalise = Normalise(origin.mean, origin.std)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(data, **changed),
        model=ModelConfig(name=origin.architecture),
        normalise=normalise,
    )


def _check_takes(model: nn.Module, data: MemorisationData) -> None:
    """Raise ValueError unless a model takes images of the data's size, and tells their classes apart."""
    height, width = data.data.image_shape[1:]
    image = next(iter(data.loader(data.train_examples.subset(slice(0, 2))))).image
    try:
        with torch.no_grad():
            logits_BK = model(image.to(next(model.parameters()).device))
    except (RuntimeError, ValueError, AssertionError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the model does not take images of {height} x {width} pixels ({why}); give its size, as --data.size 224"
        ) from error
    if logits_BK.shape != (len(image), data.data.num_classes):
        raise ValueError(
            f"the model tells {logits_BK.shape[-1]} classes apart, and the data have {data.data.num_classes}; adopt it "
            "with the data that it was trained on"
        )


def _measure(model: nn.Module, data: MemorisationData) -> ExampleTable:
    return predict(model, data.evaluation_loaders(), next(model.parameters()).device)


def _surprises(
    expected: Expected, model: nn.Module, data: MemorisationData, found: Mapping[str, Metric]
) -> Iterator[str]:
    """Yield what is not as it was expected, with what may be the cause."""
    for name, value in expected.values().items():
        plain = name.removesuffix("_accuracy")
        if not found[name].n:
            yield f"--expect_{plain} is {value:g}, but the data have no examples to measure it on"
        elif not abs(found[name].value - value) <= expected.tolerance:
            causes = _causes(name, value, expected.tolerance, model, data)
            yield (
                f"the model's {plain} accuracy on these data is {found[name].value:.3f}, and --expect_{plain} is "
                f"{value:g} (tolerance {expected.tolerance:g}); nothing was adopted: {causes}"
            )


def _causes(name: str, value: float, tolerance: float, model: nn.Module, data: MemorisationData) -> str:
    """Return what may have made an accuracy another one; causes that can be tried are, on some of the examples."""
    channels = data.data.image_shape[0]
    tries = {"the training images' own mean and std": data.data.mean_std}
    for what, pair in _NORMALISATIONS.items():
        mean, std = (part if isinstance(part, tuple) else (part,) * channels for part in pair)
        if len(mean) == channels:
            tries[what] = (mean, std)
    said = []
    for what, pair in tries.items():
        measured = compute(_some_measured(model, data.normalised(pair), name))[name].value
        if abs(measured - value) <= 2 * tolerance:
            mean, std = (",".join(f"{v:g}" for v in part) for part in pair)
            said.append(f"with {what} it would be {measured:.3f}: give --normalise.mean {mean} --normalise.std {std}")
    order = _in_best_order(_some_measured(model, data, name), name)
    if order >= value - tolerance:
        said.append(f"with the classes in another order it would be {order:.3f}: compare the order of the classes")
    if said:
        return "; ".join(said)
    mean, std = (",".join(f"{v:g}" for v in part) for part in data.mean_std)
    height, width = data.data.image_shape[1:]
    return (
        f"likely causes: the mean and std of its images (now {mean} and {std}), the order of the classes, the size and "
        f"interpolation of the images (now {height} x {width} pixels; --data.size), other data or other wrong labels"
    )


def _some_measured(model: nn.Module, data: MemorisationData, name: str) -> ExampleTable:
    """Return what a model says of some examples on which an accuracy is measured."""
    split, examples = VALIDATION, data.validation_examples
    if name == "memorized_accuracy":
        split, examples = TRAIN, data.train_examples
        if examples.to_forget.any():
            examples = examples.subset(examples.to_forget)
    if len(examples) > _TRIED:
        examples = examples.subset(torch.linspace(0, len(examples) - 1, _TRIED).long())
    return predict(model, {split: data.loader(examples)}, next(model.parameters()).device)


def _in_best_order(table: ExampleTable, name: str) -> float:
    """Return the accuracy that answers would have if the classes were renamed in the best way."""
    from scipy.optimize import linear_sum_assignment

    label, answered = table.given if name == "memorized_accuracy" else table.true, table.prediction >= 0
    classes = int(max(label.max(), table.prediction.max())) + 1
    counts = np.zeros((classes, classes))
    np.add.at(counts, (table.prediction[answered], label[answered]), 1)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(label))


def _refuse_others(path: Path, force: bool) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not RunFolder(path).is_run:
            raise ValueError(f"{path} exists and is not a run folder; choose another --out or --name")
        if not force:
            saved_config(path)
            raise ValueError(f"{path} holds a run already; choose another --name, or --force to replace it")
