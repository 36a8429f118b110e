"""Weights that were trained elsewhere: taken out of their wrappers, and fitted to a model tensor by tensor."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vitmem.models.attention import closed_names
from vitmem.models.weights import some, wrong

PLAIN = ("state_dict", "model", "model_state_dict", "net", "weights", "params")  # keys under which weights lie
EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")


def read_weights(path: Path, model: nn.Module, *, ema: bool = False, resample: bool = False) -> dict[str, Tensor]:
    """Return the weights of a file, all of them, under the names of a model.

    Args:
        path: the file; nothing in it can run code.
        model: built by ``vitmem.models.foreign``; its weights may be on the meta device.
        ema: take averaged weights where the file holds them beside the last ones.
        resample: resample position embeddings of another size, as timm does.

    Raises:
        ValueError: the file is damaged or holds other things than tensors, or belongs to another model.
    """
    try:
        found = load_file(path) if path.name.endswith(".safetensors") else _unpickled(path)
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{path} {wrong(path, error)}") from error
    opened = {closed: name for name, closed in closed_names(model).items()}
    state, wanted = unwrapped(found, path, ema), model.state_dict()
    state = {opened.get(name, name): value for name, value in _stripped(state, wanted, opened).items()}
    if resample:
        state = _resampled(state, model, path)
    if type(model).__module__.startswith("transformers."):
        state = _of_this_version(state, model)
    _check(path, state, wanted)
    return {name: state[name].to(value.dtype) for name, value in wanted.items()}


def _unpickled(path: Path) -> object:
    with torch.serialization.safe_globals([argparse.Namespace]):  # timm's and DeiT's checkpoints hold their options
        return torch.load(path, map_location="cpu", weights_only=True)


def unwrapped(found: object, path: Path, ema: bool) -> dict[str, Tensor]:
    """Return the tensors by name in what a file holds, out of the usual wrappers.

    Raises:
        ValueError: there are none, or no averaged ones where they are asked for.
    """
    averaged = [key for key in EMA if isinstance(found, Mapping) and isinstance(found.get(key), Mapping)]
    if ema and not averaged:
        raise ValueError(f"{path} holds no averaged weights ({', '.join(EMA)}); leave --ema out")
    if averaged and not ema:
        print(f"{path} holds averaged weights, too ({averaged[0]}): the last ones are taken; --ema takes the others")
    while isinstance(found, Mapping):
        keys = [key for key in (*(EMA if ema else ()), *PLAIN) if isinstance(found.get(key), Mapping)]
        if not keys:
            break
        found = found[keys[0]]
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name; give a state dict, alone or as {', '.join(PLAIN[:3])}")
    return tensors


def _stripped(state: dict[str, Tensor], wanted: Mapping[str, Tensor], opened: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors without the prefix that wrappers of modules put before their names; others are then left out."""
    names = {*wanted, *opened}
    for _ in PREFIXES:
        if names & set(state):
            break
        shared = [p for p in PREFIXES if any(name.startswith(p) for name in state)]
        if not shared:
            break
        state = {n.removeprefix(shared[0]): value for n, value in state.items() if n.startswith(shared[0])}
    return state


def _of_this_version(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights of Hugging Face under the names that the installed Transformers give them; they change them."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded, told = type(model).from_pretrained(
            None, config=model.config, state_dict=dict(state), output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    gone, more = set(told["missing_keys"]), {name: state[name] for name in told["unexpected_keys"] if name in state}
    differ = {key[0]: state[key[0]] for key in told["mismatched_keys"] if key[0] in state}
    return {name: value for name, value in loaded.state_dict().items() if name not in gone} | more | differ


def _resampled(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    import timm.models.beit
    import timm.models.eva
    import timm.models.swin_transformer
    import timm.models.vision_transformer as vit

    modules = (vit, timm.models.beit, timm.models.eva, timm.models.swin_transformer)
    home = next((m for m in modules if m.__name__ == type(model).__module__), None)
    if home is None:
        raise ValueError(
            f"--resample: position embeddings of {type(model).__name__} are not resampled; resize the images"
        )
    try:
        return {name: v for name, v in home.checkpoint_filter_fn(state, model).items() if isinstance(v, Tensor)}
    except Exception as error:  # of shapes that timm did not expect
        raise ValueError(f"{path} cannot be resampled: {' '.join(str(error).split())[:200]}") from error


def _check(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a file's tensors are those of a model: all of them, and no others."""
    if not set(state) & set(wanted):
        raise ValueError(
            f"{path} has none of the model's tensors: it has {some(state)}, and the model {some(wanted)}; choose the "
            "--architecture that it was made with"
        )
    differ = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    missing, extra = [n for n in wanted if n not in state], [n for n in state if n not in wanted]
    if differ:
        name = differ[0]
        shapes = f"{tuple(state[name].shape)} there, {tuple(wanted[name].shape)} in the model"
        raise ValueError(f"{path} has other shapes: {some(differ)} (the first: {shapes}); {_advice(name)}")
    if missing or extra:
        said = [f"lacks {some(missing)}"] if missing else []
        said += [f"has {some(extra)}, which the model lacks"] if extra else []
        raise ValueError(
            f"{path} is of another model: it {', and '.join(said)}; choose the --architecture and --architecture_args "
            "that it was made with"
        )
    if broken := [name for name in wanted if not bool(state[name].float().isfinite().all())]:
        raise ValueError(f"{path} holds numbers that are not finite, in {some(broken)}; give other weights")


def _advice(name: str) -> str:
    if re.search(r"pos(ition)?_?emb|relative_position", name):
        return (
            "position embeddings are those of another image size: give the size with --data.size, or --resample to "
            "resample them"
        )
    if re.search(r"(head|classifier|fc)\b", name):
        return "the data set has another number of classes than the model"
    return "choose the --architecture and --architecture_args that it was made with"
