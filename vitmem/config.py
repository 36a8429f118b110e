"""From YAML files and dotted overrides to frozen dataclasses, and back.

A configuration names registered things; the options of the named data set or noise kind then join the parser. Nothing
in a configuration is imported or run. Precedence: defaults, files in their order, the command line.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import docstring_parser
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from datamodules import DataSet, datasets
from datamodules.augment import Augment
from datamodules.digits import Digits
from datamodules.module import TrainOn
from datamodules.noise import NOISES, Noise, Symmetric
from datamodules.registry import lookup
from vitmem.attacks import Attack, attacks
from vitmem.editing import Edit, edits
from vitmem.models import ModelConfig
from vitmem.trainer import TrainerConfig
from vitmem.training import TrainConfig


class Parser(ArgumentParser):
    """jsonargparse's parser with errors as one-line ValueErrors."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, exit_on_error=False, allow_abbrev=False, **kwargs)

    def read(self, arguments: Sequence[str]) -> Namespace:
        """Parse a command line; ``--offline`` stands for ``--data.offline true`` where the data set has that option.

        Raises:
            ValueError: an argument is unknown or of the wrong type.
        """
        offline = ["--data.offline=true"] if "--data.offline" in self._option_string_actions else []
        spelled = [part for given in arguments for part in (offline if given == "--offline" else [given])]
        return self._quietly(self.parse_args, spelled)

    def read_object(self, options: Mapping) -> Namespace:
        """Parse a mapping, as read from YAML.

        Raises:
            ValueError: a key is unknown or a value of the wrong type.
        """
        return self._quietly(self.parse_object, dict(options))

    def _quietly(self, parse, what) -> Namespace:
        try:
            return parse(what)
        except argparse.ArgumentError as error:
            raise ValueError(" ".join(str(error.message).split())) from error
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the options cannot be read: {error}") from error


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
    """

    data: DataSet = field(default_factory=Digits)
    noise: Noise = field(default_factory=Symmetric)
    augment: Augment = field(default_factory=Augment)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    train_on: TrainOn = "noisy"

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must be in [0, 2^63)")
        if self.trainer.strategy == "fsdp" and (self.train.ema or self.train.early_stop or self.train.tied_fixed < 1):
            raise ValueError("train.ema, early_stop and tied_fixed need whole weights, but fsdp shards them; use ddp")
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
            **{part: dataclasses.asdict(getattr(self, part)) for part in ("augment", "model", "train", "trainer")},
        }

    @classmethod
    def from_dict(cls, content: Mapping) -> "RunConfig":
        """Return the configuration that ``to_dict`` wrote.

        Raises:
            ValueError: a key is unknown or a value out of range.
        """
        return run_config(run_parser("config", *_chosen([content])).read_object(content))


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
    noise_class = lookup("noise kind", noise_kind, NOISES)
    parser = Parser(prog=prog, description=description)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these options; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the order and dropout")
    parser.add_argument("--train_on", type=TrainOn, default="noisy", help="noisy, retrain (without them) or clean")
    parser.add_argument("--data.name", type=str, default=data_name, help=f"one of: {', '.join(sorted(datasets()))}")
    parser.add_class_arguments(data_class, "data")
    parser.add_argument("--noise.kind", type=str, default=noise_kind, help=f"one of: {', '.join(sorted(NOISES))}")
    parser.add_class_arguments(noise_class, "noise")
    parser.add_class_arguments(Augment, "augment")
    parser.add_class_arguments(ModelConfig, "model")
    parser.add_class_arguments(TrainConfig, "train")
    parser.add_class_arguments(TrainerConfig, "trainer")
    return parser


def parser_for(arguments: Sequence[str], prog: str, description: str) -> Parser:
    """Return the run parser that fits a command line, whose data set and noise kind are looked up first."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--config", "--data.name", "--noise.kind"):
        first.add_argument(option, action="append", default=[])
    try:
        found = vars(first.parse_known_args(list(arguments))[0])
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    names = [found[key][-1] if found[key] else None for key in ("data.name", "noise.kind")]
    return run_parser(prog, *_chosen([read_yaml(Path(file)) for file in found["config"]], *names), description)


def run_config(values: Namespace) -> RunConfig:
    """Return the configuration that parsed values describe."""
    for section in ("data", "noise", "augment", "model", "train", "trainer"):
        if not isinstance(getattr(values, section), Namespace):
            raise ValueError(f"{section} is {getattr(values, section)!r}; expected a mapping of its options")
    data, noise = vars(values.data), vars(values.noise)
    data_class, noise_class = lookup("data set", data["name"], datasets()), lookup("noise kind", noise["kind"], NOISES)
    return RunConfig(
        data=data_class(**{k: v for k, v in data.items() if k != "name"}),
        noise=noise_class(**{k: v for k, v in noise.items() if k != "kind"}),
        augment=Augment(**vars(values.augment)),
        model=ModelConfig(**vars(values.model)),
        train=TrainConfig(**vars(values.train)),
        trainer=TrainerConfig(**vars(values.trainer)),
        seed=values.seed,
        train_on=values.train_on,
    )


def edit_parser(prog: str, name: str) -> Parser:
    """Return the parser of one edit's options.

    Raises:
        ValueError: no edit has that name.
    """
    return _options_parser(prog, lookup("edit", name, edits()))


def _options_parser(prog: str, options: type) -> Parser:
    parser = Parser(prog=prog, description=summary(options))
    parser.add_class_arguments(options)
    described = {
        option.arg_name: option.description
        for base in reversed(options.__mro__)
        for option in docstring_parser.parse(base.__doc__ or "").params
    }
    for action in parser._actions:  # an option that a base class describes
        if not action.help and action.dest in described:
            action.help = described[action.dest]
    return parser


def read_edit(name: object, options: Mapping) -> Edit:
    """Return an edit from its registered name and options, as read from YAML.

    Raises:
        ValueError: the name or an option is unknown, or a value out of range.
    """
    return _read_options("edit", lookup("edit", name, edits()), options)


def read_attack(name: object, options: Mapping) -> Attack:
    """Return an attack from its registered name and options, as read from YAML.

    Raises:
        ValueError: the name or an option is unknown, or a value out of range.
    """
    return _read_options("attack", lookup("attack", name, attacks()), options)


def _read_options(prog: str, chosen: type, options: Mapping):
    values = vars(_options_parser(prog, chosen).read_object(options))
    for option in dataclasses.fields(chosen):
        if values[option.name] is None and option.default is not None:
            raise ValueError(f"{option.name} is null; it needs a value, such as its default {option.default}")
    return chosen(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def summary(thing: type) -> str:
    """Return the first line of a docstring."""
    return (thing.__doc__ or "").strip().splitlines()[0]


def read_yaml(path: Path) -> dict:
    """Return the mapping that a YAML file holds.

    Raises:
        ValueError: the file is not there, is not YAML, or holds no mapping.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a mapping of options")
    return content
