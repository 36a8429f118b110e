"""Files of weights, in and out.

Weights to start from are a file that timm or vitmem wrote, resized by timm's own code where the image size differs.
"""

import json
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vitmem.files import to_json, write_atomically
from vitmem.models import build

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_HEAD = "head."
_INPUT = "patch_embed.proj.weight"


def find_pretrained(path: str) -> Path:
    """Return the file of weights that a path names: itself, or the only one in a folder.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = Path(path).expanduser()
    if found.is_dir():
        files = sorted(file for file in found.iterdir() if file.suffix in SUFFIXES)
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"model.pretrained: {found} holds {len(files)} files of weights ({names}); name one file")
        return files[0]
    if not found.is_file():
        raise ValueError(f"model.pretrained: there is no file {found}; give weights that timm saved, or a vitmem run")
    if found.suffix not in SUFFIXES:
        raise ValueError(f"model.pretrained: {found} does not end in {', '.join(SUFFIXES)}, which are the known forms")
    return found


def read_pretrained(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a file that fit a model, and what they leave out.

    Position and patch embeddings of another size are resampled, colour filters are summed for grey images, and a head
    for another number of classes is left out.

    Args:
        path: the file; nothing in it can run code.
        model: a vision transformer; its weights may be on the meta device.

    Raises:
        ValueError: the file is damaged, holds objects other than tensors, or belongs to a model of another shape.
    """
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        found = timm.models.load_state_dict(str(path), device="cpu", weights_only=True)
        found = {name: value for name, value in checkpoint_filter_fn(found, model).items() if isinstance(value, Tensor)}
    except (OSError, EOFError, SafetensorError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as weights: {_short(error)}") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        AttributeError,
        AssertionError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        if "weights_only" in str(error).lower() or "weights only" in str(error).lower():
            raise ValueError(f"{path} holds other things than tensors, which could run code; it is refused") from error
        raise ValueError(f"{path} does not fit the model or is damaged: {_short(error)}") from error
    wanted = model.state_dict()
    channels = wanted[_INPUT].shape[1]
    if _INPUT in found and found[_INPUT].shape[1] == 3 != channels:
        found[_INPUT] = timm.models.adapt_input_conv(channels, found[_INPUT])
    other_head = [n for n in found if n.startswith(_HEAD) and n in wanted and found[n].shape != wanted[n].shape]
    if other_head:
        found = {name: value for name, value in found.items() if not name.startswith(_HEAD)}
    if missing := [name for name in wanted if name not in found and not name.startswith(_HEAD)]:
        raise ValueError(f"{path} lacks {_some(missing)}; choose the model.name, depth and pool that it was made with")
    if wrong := [name for name in wanted if name in found and found[name].shape != wanted[name].shape]:
        shapes = f"{tuple(found[wrong[0]].shape)} there, {tuple(wanted[wrong[0]].shape)} in the model"
        raise ValueError(
            f"{path} has other shapes: {_some(wrong)} (the first: {shapes}); choose the model.name, width, heads and "
            "mlp_ratio that it was made with"
        )
    new, unused = ([name for name in ours if name not in theirs] for ours, theirs in ((wanted, found), (found, wanted)))
    notes = [f"{what}: {_some(names)}" for what, names in (("start anew", new), ("are not used", unused)) if names]
    return {name: value for name, value in found.items() if name in wanted}, notes


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def save_model(folder: Path, state: dict[str, Tensor], description: dict) -> None:
    """Write ``model.safetensors`` (plain timm names) and ``model.json`` (how timm builds the model)."""
    write_atomically(folder / "model.safetensors", save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
    write_atomically(folder / "model.json", to_json(description))


def load_model(folder: Path, described: Path | None = None) -> nn.Module:
    """Return the model that a folder holds.

    Args:
        folder: with the weights.
        described: folder whose ``model.json`` says how the model is built, where it is another.

    Raises:
        ValueError: a file is missing, damaged, or does not fit the other.
    """
    try:
        arguments = json.loads(((described or folder) / "model.json").read_text())["timm"]
        state = load_file(folder / "model.safetensors")
        model = build.create(arguments)
        model.load_state_dict(state)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"the model in {folder} cannot be loaded: {message[:300]}") from error
    return model.eval()
