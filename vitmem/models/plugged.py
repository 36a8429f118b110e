"""Models that plug-ins build, from their registered name and plain options."""

import copy

import torch
from torch import nn

from vitmem.models.config import LARGEST, models
from vitmem.registry import lookup
from vitmem.shapes import Number, mismatch

_SIZE = Number(1, LARGEST, whole=True)
SHAPE = {"builder": str, "image_shape": [_SIZE], "num_classes": _SIZE, "options": dict}


def check(arguments: dict) -> None:
    """Raise ValueError unless recorded arguments are those that a configuration gives."""
    if why := mismatch(arguments, SHAPE):
        raise ValueError(f"the arguments of the model are malformed: {why}")


def build(arguments: dict, seed: int | None = None, device: str = "cpu") -> nn.Module:
    """Build a plug-in's model from recorded arguments.

    Args:
        arguments: what ``ModelConfig.timm_arguments`` returned, checked.
        seed: seed of the initial weights; None leaves the global generator alone.
        device: "meta" builds the shapes only, and tries them.

    Raises:
        Unknown: no plug-in builds a model of that name.
        ValueError: the builder fails, or its model does not map images to as many logits as there are classes.
    """
    name, shape, classes = arguments["builder"], tuple(arguments["image_shape"]), arguments["num_classes"]
    builder = lookup("model", name, models())
    with torch.random.fork_rng(devices=[]), torch.device(device):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            model = builder(shape, classes, copy.deepcopy(arguments["options"]))
        except Exception as error:  # whatever a stranger's code raises
            raise ValueError(f"the model {name} cannot be built: {_why(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model {name} is a {type(model).__name__}; its builder must return a torch.nn.Module")
    if device == "meta":
        _try(name, model, shape, classes)
    return model


def _try(name: str, model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError unless a model on the meta device maps two images to logits."""
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.empty(2, *shape, device="meta"))
    except NotImplementedError:  # it looks at values, which this device has not
        return
    except Exception as error:  # whatever a stranger's code raises
        raise ValueError(f"the model {name} fails on images of shape {list(shape)}: {_why(error)}") from error
    finally:
        model.train(was_training)
    found = tuple(getattr(logits, "shape", ()))
    if found != (2, classes):
        raise ValueError(f"the model {name} maps 2 images to shape {list(found)}; it must be [2, {classes}]: logits")


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
