"""How libraries store a model: the files of an exported folder, and how it is opened without vitmem."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from vitmem.files import Damaged, to_json
from vitmem.models.attention import closed_state
from vitmem.models.foreign import plain_model
from vitmem.models.weights import build_model, read_description
from vitmem.shapes import Number, mismatch

CONFIG, WEIGHTS, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
_CHANNEL, _SIZE = Number(-1e6, 1e6), Number(1, 1e6, whole=True)
_PREPARED = {
    "mean": [_CHANNEL], "std": [_CHANNEL], "classes?": [str], "interpolation?": str, "image_shape?": [_SIZE],
}  # fmt: skip
_PIL = {"bilinear": 2, "bicubic": 3}


@dataclass(frozen=True, eq=False)
class Layout:
    """A model as a library stores it.

    Args:
        library: timm, torchvision or transformers.
        config: in the hub's layout of timm: what the model card tells, and of timm the ``config.json``.
        files: content by name, ``config.json`` included.
        use: lines of Python with which FOLDER is opened.
        opened: opens a folder with the library alone.
    """

    library: str
    config: dict
    files: dict[str, bytes | str]
    use: str
    opened: Callable[[Path], nn.Module]


def layout_of(run_path: Path, weights: bytes) -> Layout:
    """Return how the model of a run is stored for its library.

    Args:
        run_path: the run folder, whose ``model.json`` describes the model.
        weights: content of a file of its weights, in safetensors.

    Raises:
        ValueError: ``model.json`` is malformed, or describes a model of a kind that has no such layout.
    """
    description = read_description(run_path)
    adopted = description.get("adopted")
    kind = adopted["library"] if adopted else "timm"
    if not adopted and "model_name" not in description["timm"]:
        raise ValueError(
            f"{run_path / 'model.json'} describes a model that a plug-in builds; only those of {', '.join(LAYOUTS)} "
            "can be exported"
        )
    if why := mismatch(description, _PREPARED):
        raise Damaged(f"{run_path / 'model.json'} is malformed: {why}; restore it, or make the run again")
    return LAYOUTS[kind](description, weights)


def _timm(description: dict, weights: bytes) -> Layout:
    """Return the layout that timm has on the Hugging Face hub, which TimmWrapper opens, too.

    Source: ``timm.models._hub.save_config_for_hf``.
    """
    import timm

    adopted = description.get("adopted")
    arguments = dict(adopted["options"] if adopted else description["timm"])
    name = adopted["name"] if adopted else arguments.pop("model_name")
    classes = arguments.pop("num_classes")
    blank = build_model(description, "meta")
    theirs = {key: value for key in ("first_conv", "classifier") if (value := blank.pretrained_cfg.get(key))}
    config = _config(description, classes, arguments)
    config |= {
        "architecture": name.partition(".")[0],  # a tag would name weights of timm
        "num_features": blank.num_features,
        "global_pool": arguments.get("global_pool") or getattr(blank, "global_pool", "avg"),
        "model_args": arguments,
    }
    config["pretrained_cfg"] |= theirs
    use = (
        'import timm  # 1.0.26 or later\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))"
    )

    def opened(folder: Path) -> nn.Module:
        return timm.create_model(f"local-dir:{folder}", pretrained=True)

    return Layout("timm", config, {WEIGHTS: weights, CONFIG: to_json(config)}, use, opened)


def _torchvision(description: dict, weights: bytes) -> Layout:
    adopted = description["adopted"]
    name, options = adopted["name"], dict(adopted["options"])
    state = closed_state(build_model(description, "meta"), load(weights))
    config = _config(description, options["num_classes"], options)
    config |= {"architecture": name, "library": "torchvision", "options": options}
    build = f"VisionTransformer(**{options})" if name == "VisionTransformer" else f'get_model("{name}", **{options})'
    use = (
        f"from safetensors.torch import load_file\nfrom torchvision import models\n\nmodel = models.{build}\n"
        'model.load_state_dict(load_file("FOLDER/model.safetensors"))'
    )

    def opened(folder: Path) -> nn.Module:
        model = plain_model(adopted)
        model.load_state_dict(load_file(folder / WEIGHTS))
        return model

    return Layout("torchvision", config, {WEIGHTS: _saved(state), CONFIG: to_json(config)}, use, opened)


def _transformers(description: dict, weights: bytes) -> Layout:
    adopted = description["adopted"]
    model = plain_model(adopted)
    model.load_state_dict(load(weights))
    config = _config(description, adopted["options"]["num_labels"], {})
    config |= {"architecture": adopted["name"]}
    model.config.id2label = dict(enumerate(config["label_names"]))
    model.config.label2id = {name: label for label, name in enumerate(config["label_names"])}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files: dict[str, bytes | str] = {n: (Path(folder) / n).read_bytes() for n in (WEIGHTS, CONFIG)}
    cfg = config["pretrained_cfg"]
    _, height, width = cfg["input_size"]
    prepared = {"do_resize": True, "size": {"height": height, "width": width}, "resample": _PIL[cfg["interpolation"]]}
    prepared |= {"do_rescale": True, "rescale_factor": 1 / 255}
    prepared |= {"do_normalize": True, "image_mean": cfg["mean"], "image_std": cfg["std"]}
    files[PREPROCESSOR] = to_json({"image_processor_type": "ViTImageProcessor", **prepared})
    use = (
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        'model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()\n'
        'processor = AutoImageProcessor.from_pretrained("FOLDER")'
    )

    def opened(folder: Path) -> nn.Module:
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)

    return Layout("transformers", config, files, use, opened)


def _config(description: dict, classes: int, arguments: Mapping) -> dict:
    """Return what the hub's layout says of every model: its classes, and how images are made for it."""
    shape = description.get("image_shape") or [arguments["in_chans"], *arguments["img_size"]]
    channels = shape[0]
    return {
        "num_classes": classes,
        "label_names": description.get("classes") or [str(label) for label in range(classes)],
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": list(shape),
            "fixed_input_size": True,
            "interpolation": description.get("interpolation", "bilinear"),  # as image folders are resized
            "crop_pct": 1.0,
            "crop_mode": "center",
            **{part: (description[part] * channels)[:channels] for part in ("mean", "std")},
            "num_classes": classes,
            "pool_size": None,
        },
    }


def _saved(state: Mapping[str, Tensor]) -> bytes:
    return save({name: value.contiguous() for name, value in state.items()}, {"format": "pt"})


# Library -> how it stores a model.
LAYOUTS: dict[str, Callable[[dict, bytes], Layout]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}
