"""The configuration of a run: from YAML files and dotted overrides to frozen dataclasses, and back.

A configuration names registered things; the options of the named data set or noise kind then join the parser. Nothing
in a configuration is imported or run. Precedence: defaults, files in their order, the command line.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from vitmem.datamodules import DataSet, datasets
from vitmem.datamodules.augment import Augment
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import TrainOn
from vitmem.datamodules.noise import Noise, Symmetric, noises
from vitmem.datamodules.normalise import Normalise
from vitmem.files import check_name
from vitmem.models.config import ModelConfig
from vitmem.options import LARGEST_SEED, ActionConfigFile, Namespace, Parser, flat, inline, mapping_of, paired, short
from vitmem.registry import lookup
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.yaml_files import LONGEST_LIST


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines one trained model.

    Args:
        data: a registered data set with its options.
        noise: a noise kind with its options.
        augment: augmentation of the training images.
        model: size of the vision transformer.
        train: optimiser and schedule.
        trainer: Lightning's flags.
        seed: of the initial weights, the order and dropout.
        train_on: noisy (the model under study), retrain (noisy examples left out) or clean (true labels).
        normalise: what is taken out of every image.
    """

    data: DataSet = field(default_factory=Digits)
    noise: Noise = field(default_factory=Symmetric)
    augment: Augment = field(default_factory=Augment)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    train_on: TrainOn = "noisy"
    normalise: Normalise = field(default_factory=Normalise)

    def __post_init__(self):
        if not 0 <= self.seed < LARGEST_SEED:
            raise ValueError(f"seed is {self.seed}; it must be in [0, 2^63)")
        whole = self.train.ema or self.train.early_stop or self.train.tied_fixed < 1 or self.train.frozen
        if self.trainer.strategy == "fsdp" and whole:
            raise ValueError(
                "train.ema, early_stop, tied_fixed and frozen need whole weights, but fsdp shards them; use ddp"
            )
        if self.trainer.strategy == "fsdp" and (self.train.optimiser == "muon" or self.train.sam):
            raise ValueError("train.optimiser muon and train.sam need whole weights, but fsdp shards them; use ddp")
        if self.train.sam and (self.trainer.accumulate > 1 or self.trainer.precision == "16-mixed"):
            raise ValueError(
                f"train.sam is {self.train.sam:g}, which takes two gradients of one batch; it cannot be combined with "
                "trainer.accumulate above 1 or trainer.precision 16-mixed (bf16-mixed is fine)"
            )
        if self.train.tied_fixed < 1 and (self.trainer.grad_checkpointing or self.augment.mixup or self.augment.cutmix):
            raise ValueError(
                f"train.tied_fixed is {self.train.tied_fixed}, which ties units to single examples; it cannot be "
                "combined with augment.mixup, augment.cutmix or trainer.grad_checkpointing"
            )

    def to_dict(self) -> dict:
        """Return the resolved configuration: every default written out."""
        data_name = next(name for name, cls in datasets().items() if cls is type(self.data))
        return {
            "seed": self.seed,
            "train_on": self.train_on,
            "data": {"name": data_name, **dataclasses.asdict(self.data)},
            "noise": {"kind": self.noise.kind, **dataclasses.asdict(self.noise)},
            **{
                part: dataclasses.asdict(getattr(self, part))
                for part in ("augment", "model", "train", "trainer", "normalise")
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping) -> "RunConfig":
        """Return the configuration that ``to_dict`` wrote.

        Raises:
            ValueError: a key is unknown or a value out of range.
        """
        long, content = _long_lists(content)
        config = _read_once(content)
        return dataclasses.replace(config, data=dataclasses.replace(config.data, **long)) if long else config


_READ: dict[tuple[str, type, type], RunConfig] = {}


def _read_once(content: Mapping) -> RunConfig:
    """Return the configuration of a mapping; verbs open a run more than once, and sweeps read many."""
    names = _chosen([content])
    classes = lookup("data set", names[0], datasets()), lookup("noise kind", names[1], noises())
    key = repr(content), *classes
    if key not in _READ:
        _READ[key] = run_config(_kept_parser(names, classes).read_object(content))
    return copy.deepcopy(_READ[key])


@lru_cache(100)
def _kept_parser(names: tuple[str, str], classes: tuple[type, type]) -> Parser:
    """Return the parser of a configuration, which takes long to build; classes tell whether names mean the same."""
    return run_parser("config", *names)


def _long_lists(content: Mapping) -> tuple[dict[str, list], dict]:
    """Return long lists of the data set's options, such as thousands of class names, and all but them.

    The parser would take time by the square of their length.
    """
    data = content.get("data")
    options = data if isinstance(data, Mapping) else {}
    long = {name: value for name, value in options.items() if isinstance(value, list) and len(value) > LONGEST_LIST}
    for name, value in long.items():
        if not all(isinstance(item, (str, bool, int, float)) for item in value):
            raise ValueError(f"data.{name} holds something else than names")
    left = {name: value for name, value in options.items() if name not in long}
    return long, {**content, "data": left} if long else dict(content)


def _chosen(contents: Sequence[Mapping], data: str | None = None, noise: str | None = None) -> tuple[str, str]:
    """Return the names of the data set and the noise kind: from the last mapping that has one, unless given."""

    def named(section: str, key: str, default: str) -> str:
        for content in contents:
            part = content.get(section)
            default = part.get(key, default) if isinstance(part, Mapping) else default
        return default

    return data or named("data", "name", "digits"), noise or named("noise", "kind", "symmetric")


def run_parser(prog: str, data_name: str = "digits", noise_kind: str = "symmetric", description: str = "") -> Parser:
    """Return the parser of a run's configuration, with the options of the named data set and noise kind."""
    data_class = lookup("data set", data_name, datasets())
    noise_class = lookup("noise kind", noise_kind, noises())
    parser = Parser(prog=prog, description=description)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the order and dropout")
    parser.add_argument("--train_on", type=TrainOn, default="noisy", help="noisy, retrain (without them) or clean")
    parser.add_argument("--data.name", type=str, default=data_name, help=f"one of: {', '.join(sorted(datasets()))}")
    parser.add_class_arguments(data_class, "data")
    parser.add_argument("--noise.kind", type=str, default=noise_kind, help=f"one of: {', '.join(sorted(noises()))}")
    parser.add_class_arguments(noise_class, "noise")
    parser.add_class_arguments(Augment, "augment")
    parser.add_class_arguments(ModelConfig, "model")
    parser.add_class_arguments(TrainConfig, "train")
    parser.add_class_arguments(TrainerConfig, "trainer")
    parser.add_class_arguments(Normalise, "normalise")
    return parser


def parser_for(arguments: Sequence[str], prog: str, description: str) -> Parser:
    """Return the run parser that fits a command line, whose data set and noise kind are looked up first."""
    found: dict[str, list[str]] = {"--config": [], "--data.name": [], "--noise.kind": []}
    for option, value in paired(arguments, found):
        if option and value:
            found[option].append(value)
    names = [found[key][-1] if found[key] else None for key in ("--data.name", "--noise.kind")]
    contents = [mapping_of(file) for file in found["--config"]]
    for file, content in zip(found["--config"], contents, strict=True):
        if any(name == "trainer.online" and value is not False for name, value in flat(content)):
            raise ValueError(
                f"{short(file)}: trainer.online is no option of a file, which may come from elsewhere: that loggers "
                "may go online is said on the command line, as --trainer.online true"
            )
    return run_parser(prog, *_chosen(contents, *names), description)


def run_config(values: Namespace) -> RunConfig:
    """Return the configuration that parsed values describe."""
    data, noise = vars(values.data), vars(values.noise)
    data_class, noise_class = (
        lookup("data set", data["name"], datasets()),
        lookup("noise kind", noise["kind"], noises()),
    )
    return RunConfig(
        data=data_class(**{k: v for k, v in data.items() if k != "name"}),
        noise=noise_class(**{k: v for k, v in noise.items() if k != "kind"}),
        augment=Augment(**vars(values.augment)),
        model=ModelConfig(**vars(values.model)),
        train=TrainConfig(**vars(values.train)),
        trainer=TrainerConfig(**vars(values.trainer)),
        seed=values.seed,
        train_on=values.train_on,
        normalise=Normalise(**vars(values.normalise)),
    )


def on_one_device(config: RunConfig) -> RunConfig:
    """Return a configuration without devices and loggers: a run may go on on others."""
    elsewhere = {"devices": 1, "num_nodes": 1, "strategy": "auto", "loggers": "", "online": False}
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **elsewhere))


_PLACES = ("root", "path")  # options of data sets that say where the data are, not which: their fingerprint tells


def moved(config: RunConfig, place: str | None) -> RunConfig:
    """Return a configuration whose data are in another place; None leaves them where they were.

    Raises:
        ValueError: the data set is in no folder or file.
    """
    if place is None:
        return config
    for option in _PLACES:
        if hasattr(config.data, option):
            return dataclasses.replace(config, data=dataclasses.replace(config.data, **{option: place}))
    raise ValueError(f"--data.root is {place}, but the data set of the run, {type(config.data).__name__}, has no place")


def place_of(config: RunConfig) -> str | None:
    """Return where the data of a configuration are; None where they are in no folder or file."""
    return next((getattr(config.data, option) for option in _PLACES if hasattr(config.data, option)), None)


def comparable(config: RunConfig) -> RunConfig:
    """Return a configuration without what a run may go on with otherwise: devices, and the place of the data."""
    config = on_one_device(config)
    return config if place_of(config) is None else moved(config, "")


# What an experiment file holds besides its base model.
EXPERIMENT = (
    "name", "seeds", "references", "edits", "attacks", "attacked", "analyses", "other_rates", "save_weights", "known",
    "tune", "tuner", "figures", "vary_noise", "cache_gb", "report", "sweep",
)  # fmt: skip


def base_model_only(arguments: Sequence[str]) -> tuple[list[str], list[str], str | None]:
    """Take what belongs to an experiment out of the files that a command line names, and leave the base model.

    Returns:
        The command line, with such a file replaced by the first of its seeds and the rest of what it says; the keys
        that were taken out; and the name of the experiment: given, or of the file.

    Raises:
        ValueError: a file cannot be read.
    """
    found, left_out, name = [], [], None
    for option, file in paired(arguments, {"--config"}):
        if option is None or file is None:
            found.append(option if file is None else file)
            continue
        content = mapping_of(file)
        taken = [key for key in content if key in EXPERIMENT]
        if not taken:
            found.append(f"--config={file}")
            continue
        left_out += [key for key in taken if key not in ("name", "seeds", "vary_noise")]
        name = check_name("name", content.get("name", Path(file).stem))
        base = {key: value for key, value in content.items() if key not in EXPERIMENT}
        if "seeds" in content:
            base["seed"] = read_seeds(content["seeds"])[0]
        if content.get("vary_noise"):
            base["noise"] = _varied(base.get("noise"), base.get("seed", 0))
        found.append(f"--config={inline(base)}")
    return found, left_out, name


def _varied(noise: object, seed: int) -> object:
    """Return the noise section of a file whose noise has another seed with each seed of the model."""
    if noise is not None and not isinstance(noise, Mapping):
        return noise  # an error, told where sections are read
    first = (noise or {}).get("seed", 0)
    return {**(noise or {}), "seed": first + seed if isinstance(first, int) and isinstance(seed, int) else first}


def read_seeds(value: str | int | list[int]) -> tuple[int, ...]:
    """Return the seeds that ``seeds`` names.

    Raises:
        ValueError: they are no integers, or out of range.
    """
    parts = value if isinstance(value, list) else str(value).split(",")
    try:
        seeds = [int(part) for part in parts if not isinstance(part, (bool, float))]
    except (TypeError, ValueError):
        seeds = []
    if not seeds or len(seeds) < len(parts) or not all(0 <= seed < LARGEST_SEED for seed in seeds):
        raise ValueError(f"seeds is {short(value)}; give integers in [0, 2^63), comma-separated, such as 0,1,2")
    return tuple(seeds)
