"""Vision transformers, built by timm."""

import copy
import re

import torch
from torch import Tensor, nn

from vitmem.models import plugged
from vitmem.models.config import LARGEST, MOST_BLOCKS, SIZES


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

    check_arguments(arguments)
    if "builder" in arguments:
        return plugged.build(arguments, seed, device)
    name = arguments["model_name"]
    if not name.startswith("vit_") or not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_patch')[0].removeprefix('vit_')}*", module="vision_transformer")[:5]
        known = ", ".join(close or SIZES)
        raise ValueError(f"unknown model {name!r}; model.name is a vit_* name of timm, for example {known}")
    _check_patch(arguments)
    blank = device == "meta" and timm.models.is_model_in_modules(name, ["vision_transformer"])
    drawn = {"weight_init": "skip"} if blank else {}  # numbers for no memory: most of the time
    with torch.random.fork_rng(devices=[]), torch.device(device):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            return timm.create_model(**arguments, **drawn)
        except (TypeError, AssertionError, RuntimeError) as error:
            options = {key: value for key, value in arguments.items() if key != "model_name"}
            hint = "; try model.pool: avg" if arguments["global_pool"] == "token" else ""
            raise ValueError(
                f"timm cannot build {name} with {options}: {error or type(error).__name__}{hint}"
            ) from error


# What ``ModelConfig.timm_arguments`` writes. Others could make timm load files, go online or run code: recorded
# arguments are data that anybody may have written.
_NUMBERS = (
    "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "drop_rate",
    "proj_drop_rate", "pos_drop_rate", "drop_path_rate",
)  # fmt: skip
_NEEDED = ("model_name", "img_size", "in_chans", "num_classes", "global_pool")


def check_arguments(arguments: object) -> None:
    """Raise ValueError unless recorded arguments are those that a configuration gives, of the right types."""
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of the model are a {type(arguments).__name__}; they must be a mapping")
    if "builder" in arguments:
        return plugged.check(arguments)
    if unknown := sorted(set(arguments) - {*_NEEDED, *_NUMBERS}):
        raise ValueError(f"{unknown[0]} is no argument that vitmem records for a model; remove it")
    if missing := [name for name in _NEEDED if name not in arguments]:
        raise ValueError(f"the arguments of the model lack {missing[0]}")
    for name, value in arguments.items():
        numbers = value if name == "img_size" and isinstance(value, list) and len(value) == 2 else [value]
        if name in ("model_name", "global_pool"):
            fits = isinstance(value, str)
        else:
            most, least = MOST_BLOCKS if name == "depth" else LARGEST, 0 if name.endswith("_rate") else 1e-6
            fits = all(type(n) in (int, float) and least <= n <= most for n in numbers)
            fits = fits and (name != "img_size" or isinstance(value, list))
        if not fits:
            raise ValueError(f"the model's argument {name} is {str(value)[:80]!r}, which no configuration gives")


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
