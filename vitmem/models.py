"""Vision transformers through timm, and the choice of their linear layers by name.

Layer names are timm's module names, for example ``blocks.0.attn.qkv``, ``blocks.0.mlp.fc1``, ``head``.
"""

import copy
import fnmatch
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

# Names that `list` explains; any other `vit_*` name of timm works too.
SIZES = {
    "vit_tiny_patch16_224": "width 192, depth 12, 3 heads, 5.7 M parameters (Touvron et al. 2021, table 1)",
    "vit_small_patch16_224": "width 384, depth 12, 6 heads, 22 M parameters (Touvron et al. 2021, table 1)",
    "vit_base_patch16_224": "width 768, depth 12, 12 heads, 86 M parameters (Dosovitskiy et al. 2020, table 1)",
    "vit_large_patch16_224": "width 1024, depth 24, 16 heads, 307 M parameters (Dosovitskiy et al. 2020, table 1)",
}


@dataclass(frozen=True)
class ModelConfig:
    """A vision transformer of timm; a size that is given replaces the one that the name implies.

    Args:
        name: a ``vit_*`` name of timm.
        width: embedding width; a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads per block.
        patch: patch size in pixels; must divide the image's height and width.
        mlp_ratio: hidden width of an MLP over ``width``.
        pool: what the classifier reads: the class token, or the mean of the patch tokens.
        dropout: dropout rate after positions, projections and MLPs, in [0, 1).
        drop_path: stochastic depth rate of the last block, rising linearly from 0, in [0, 1).
        pretrained: file of weights to start from (.safetensors, or .pth without pickled code), or a folder with one;
            resized to the images, with a new head if the classes differ in number. None: random weights.
    """

    name: str = "vit_base_patch16_224"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    patch: int | None = None
    mlp_ratio: float | None = None
    pool: Literal["token", "avg"] = "token"
    dropout: float = 0.0
    drop_path: float = 0.0
    pretrained: str | None = None

    def __post_init__(self):
        for option in ("width", "depth", "heads", "patch", "mlp_ratio"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise ValueError(f"model.{option} is {value}; it must be positive")
        for option in ("dropout", "drop_path"):
            if not 0 <= getattr(self, option) < 1:
                raise ValueError(f"model.{option} is {getattr(self, option)}; it must be in [0, 1)")
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"model.width {self.width} is not a multiple of model.heads {self.heads}")

    def timm_arguments(self, image_shape: tuple[int, int, int], num_classes: int) -> dict:
        """Return the arguments with which ``timm.create_model`` builds this model.

        Args:
            image_shape: channels, height, width.
            num_classes: K.
        """
        channels, height, width = image_shape
        arguments = {
            "model_name": self.name,
            "img_size": [height, width],
            "in_chans": channels,
            "num_classes": num_classes,
            "global_pool": self.pool,
        }
        if self.dropout:
            arguments |= dict.fromkeys(("drop_rate", "proj_drop_rate", "pos_drop_rate"), self.dropout)
        if self.drop_path:
            arguments["drop_path_rate"] = self.drop_path
        renamed = {"width": "embed_dim", "depth": "depth", "heads": "num_heads", "patch": "patch_size"}
        for ours, theirs in {**renamed, "mlp_ratio": "mlp_ratio"}.items():
            if getattr(self, ours) is not None:
                arguments[theirs] = getattr(self, ours)
        return arguments


def create(arguments: dict, seed: int | None = None, device: str = "cpu") -> nn.Module:
    """Build a model from recorded timm arguments.

    Args:
        arguments: what ``ModelConfig.timm_arguments`` returned.
        seed: seed of the initial weights; None leaves the global generator alone.
        device: "meta" builds the shapes only.

    Raises:
        ValueError: timm has no such model, or refuses the sizes.
    """
    import timm

    name = arguments["model_name"]
    if not name.startswith("vit_") or not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_patch')[0].removeprefix('vit_')}*", module="vision_transformer")[:5]
        known = ", ".join(close or SIZES)
        raise ValueError(f"unknown model {name!r}; model.name is a vit_* name of timm, for example {known}")
    _check_patch(arguments)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return timm.create_model(**arguments)
        except (TypeError, AssertionError, RuntimeError) as error:
            options = {key: value for key, value in arguments.items() if key != "model_name"}
            hint = "; try model.pool: avg" if arguments["global_pool"] == "token" else ""
            raise ValueError(
                f"timm cannot build {name} with {options}: {error or type(error).__name__}{hint}"
            ) from error


def _check_patch(arguments: dict) -> None:
    found = re.search(r"patch(\d+)", arguments["model_name"])
    patch = arguments.get("patch_size") or (int(found.group(1)) if found else None)
    for pixels in arguments["img_size"]:
        if patch and pixels % patch:
            height, width = arguments["img_size"]
            fits = [p for p in range(1, pixels + 1) if height % p == 0 and width % p == 0]
            raise ValueError(
                f"model.patch {patch} does not divide the image of {height} x {width} pixels; "
                f"patch sizes that do: {', '.join(map(str, fits))}"
            )


def with_weights(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Return a twin of a model that holds other weights; tensors are shared, not copied."""
    twin = copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})
    twin.load_state_dict(state, assign=True)
    return twin


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: to matrices, not to biases, norms, positions or class and register tokens."""
    return parameter.ndim >= 2 and not name.endswith(("pos_embed", "cls_token", "reg_token", "dist_token"))


def select_layers(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, nn.Module]:
    """Return the linear layers whose names match, in the model's order.

    Linear layers are ``nn.Linear`` modules, and the convolution that embeds patches (its stride is its kernel).

    Args:
        model: a vision transformer.
        patterns: one glob pattern or several (a string may hold several, separated by spaces) over module names:
            ``*``, ``?``, ``[0-3]``, and braces as in ``blocks.{0,11}.mlp.*``.

    Raises:
        ValueError: a pattern matches no linear layer.
    """
    names = [name for name, module in model.named_modules() if is_linear(module)]
    chosen: set[str] = set()
    for pattern in patterns.split() if isinstance(patterns, str) else patterns:
        found = {n for p in expand_braces(pattern) for n in fnmatch.filter(names, p)}
        if not found:
            raise ValueError(f"the pattern {pattern!r} matches no linear layer; there are: {summarise(names)}")
        chosen |= found
    if not chosen:
        raise ValueError(f"no pattern was given for the layers to edit; there are: {summarise(names)}")
    return {name: model.get_submodule(name) for name in names if name in chosen}


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a linear map on tokens, or on patches that do not overlap."""
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and set(module.dilation) == {1} and module.padding in ((0, 0), "valid")
        return plain and module.stride == module.kernel_size
    return isinstance(module, nn.Linear)


def expand_braces(pattern: str) -> list[str]:
    """Return the patterns that a pattern with braces stands for: ``a{b,c}`` is ``ab`` and ``ac``."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def summarise(names: Iterable[str]) -> str:
    """Return layer names in one short line: block numbers are replaced by a range."""
    shapes: dict[str, list[int]] = {}
    for name in names:
        found = re.match(r"(.*?\.)(\d+)(\..*)", name)
        key = f"{found.group(1)}{{}}{found.group(3)}" if found else name
        shapes.setdefault(key, []).append(int(found.group(2)) if found else 0)
    return ", ".join(
        key.replace("{}", f"{{{numbers[0]}..{numbers[-1]}}}" if len(numbers) > 1 else str(numbers[0]))
        for key, numbers in shapes.items()
    )
