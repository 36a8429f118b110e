"""Where weights come from: which model they are of, and how images were made for it when it was trained."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vitmem.files import Damaged, parsed, read_text
from vitmem.models.foreign import check_description, create_foreign, hf_description

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_PIL = {2: "bilinear", 3: "bicubic"}  # numbers of Pillow's filters, as Hugging Face writes them
_TORCHVISION = "torchvision/"


@dataclass(frozen=True)
class Origin:
    """A model, and the images that it was trained on.

    Args:
        library: timm, torchvision or transformers.
        name: of the model there.
        options: of the model, by the library's names.
        mean: by channel, in [0, 1]; None: not known.
        std: likewise.
        size: side of the images in pixels that it was trained on; None: not known.
        default: side of the images that the architecture takes unless it is told another; None: not known.
        interpolation: bilinear or bicubic; None: not known, or another.
        source: where mean, std, size and interpolation were read.
        config: what a ``config.json`` of Hugging Face holds.
    """

    library: str
    name: str
    options: Mapping = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    interpolation: str | None = None
    source: str = "nowhere"
    config: Mapping | None = None
    default: int | None = None

    @property
    def architecture(self) -> str:
        """The model in one word, as ``--architecture`` takes it."""
        return self.name if self.library == "timm" else f"{self.library}/{self.name}"

    def description(self, image_shape: tuple[int, int, int], classes: int) -> dict:
        """Return the description of the model for images and classes, as ``vitmem.models.foreign`` builds it.

        Args:
            image_shape: C, H, W.
            classes: K.

        Raises:
            ValueError: the library has no such model, or refuses the options.
        """
        channels, height, width = image_shape
        if self.library == "transformers":
            return hf_description(self.config or {}, classes)
        options = {**self.options, "num_classes": classes}
        found = {"library": self.library, "name": self.name, "options": options}
        check_description(found)
        if self.library == "timm":
            options["in_chans"] = channels
            sized = {**found, "options": {**options, "img_size": [height, width]}}
            if "img_size" not in options and (height, width) != (self.default, self.default) and _takes_size(sized):
                return sized
        return found


def _takes_size(description: dict) -> bool:
    try:
        create_foreign(description, "meta")
    except ValueError as error:
        if "img_size" in str(error) and "unexpected keyword" in str(error):  # a network of convolutions
            return False
        raise
    return True


def origin_of(given: Path, file: Path, architecture: str | None, arguments: Mapping) -> Origin:
    """Return where weights come from.

    Args:
        given: what the user named: a file, or a folder.
        file: of the weights.
        architecture: a model of timm, or ``torchvision/NAME``; None: as the folder's ``config.json`` says.
        arguments: of the architecture.

    Raises:
        ValueError: neither tells which model it is, or the ``config.json`` is malformed.
    """
    config = _json(file.parent / "config.json") if given.expanduser().is_dir() else None
    if architecture is None and config is None:
        raise ValueError(
            f"{file} does not say which model it is of; give --architecture (a model of timm such as "
            "vit_base_patch16_224, or torchvision/vit_b_16), or a folder with its config.json"
        )
    if architecture is not None:
        return _named(architecture, arguments)
    if "architecture" in config:
        return _timm_hub(config, arguments, file.parent / "config.json")
    if "model_type" in config:
        if arguments:
            raise ValueError("--architecture_args is given, but config.json says how the model is built; leave it out")
        return _hugging_face(config, file.parent)
    raise ValueError(
        f"{file.parent / 'config.json'} names no model: timm writes 'architecture' there, Transformers 'model_type'"
    )


def _named(architecture: str, arguments: Mapping) -> Origin:
    if architecture.startswith(_TORCHVISION):
        name = architecture.removeprefix(_TORCHVISION)
        return Origin(
            "torchvision", name, arguments, *_IMAGENET, _side(arguments.get("image_size")), None, "torchvision"
        )
    import timm

    if not timm.is_model(architecture):
        create_foreign({"library": "timm", "name": architecture, "options": {}}, "meta")  # says it
    cfg = timm.get_pretrained_cfg(architecture)
    known = {} if cfg is None else cfg.to_dict()
    plain = architecture.partition(".")[0]
    only = {name: known.get(name) for name in ("mean", "std")}  # the size is that of timm's own weights
    return dataclasses.replace(_of_timm(plain, arguments, only, f"timm's {architecture}"), default=_default(plain))


def _timm_hub(config: Mapping, arguments: Mapping, path: Path) -> Origin:
    known, more = config.get("pretrained_cfg", config), config.get("model_args") or {}
    if not isinstance(known, Mapping) or not isinstance(more, Mapping) or not isinstance(config["architecture"], str):
        raise ValueError(f"{path} is malformed: architecture is a name, pretrained_cfg and model_args are mappings")
    options = {**more, **({"global_pool": config["global_pool"]} if "global_pool" in config else {}), **arguments}
    name = config["architecture"].partition(".")[0]
    return dataclasses.replace(_of_timm(name, options, known, path.name), default=_default(name))


def _default(name: str) -> int | None:
    """Return the side of the images that an architecture takes by default."""
    import timm

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return None if cfg is None else _side((cfg.to_dict().get("input_size") or [None])[-1])


def _of_timm(name: str, options: Mapping, known: Mapping, source: str) -> Origin:
    side = options.get("img_size", (known.get("input_size") or [None])[-1])
    side = side[-1] if isinstance(side, (list, tuple)) else side
    filtered = known.get("interpolation") if known.get("interpolation") in _PIL.values() else None
    return Origin(
        "timm", name, options, _channels(known, "mean"), _channels(known, "std"), _side(side), filtered, source
    )


def _hugging_face(config: Mapping, folder: Path) -> Origin:
    found = _json(folder / "preprocessor_config.json") or {}
    side = found.get("size", config.get("image_size"))
    if isinstance(side, Mapping):
        side = side.get("height", side.get("shortest_edge"))
    mean, std = _channels(found, "image_mean"), _channels(found, "image_std")
    if found.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    source = "preprocessor_config.json" if found else "nowhere"
    name = str(config["model_type"])
    return Origin("transformers", name, {}, mean, std, _side(side), _PIL.get(found.get("resample", 0)), source, config)


def _channels(known: Mapping, name: str) -> tuple[float, ...] | None:
    value = known.get(name)
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value):
        return tuple(float(v) for v in value)
    return None


def _side(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _json(path: Path) -> dict | None:
    """Return what a file of JSON holds; None if it is not there.

    Raises:
        ValueError: it is malformed.
    """
    if not path.is_file():
        return None
    try:
        found = parsed(read_text(path), path)
    except Damaged as error:
        raise ValueError(f"{error}; give a folder as timm or Transformers write it") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is malformed: it holds a {type(found).__name__}, not a mapping")
    return found
