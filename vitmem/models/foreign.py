"""Models that other libraries build, from a description of plain values: nothing in it can load files or run code.

A description is ``{"library": "timm" | "torchvision" | "transformers", "name": ..., "options": {...}}``. What is built
returns logits B K, and its fused attentions are opened into linear layers (``vitmem.models.attention``).
"""

import re
from collections.abc import Mapping

import torch
from torch import nn

from vitmem.models.attention import opened
from vitmem.models.config import LARGEST
from vitmem.models.outputs import with_logits

LIBRARIES = ("timm", "torchvision", "transformers")
_TIMM = frozenset({
    "num_classes", "in_chans", "img_size", "patch_size", "embed_dim", "depth", "depths", "num_heads", "mlp_ratio",
    "window_size", "global_pool", "reg_tokens", "class_token", "qkv_bias", "qkv_fused", "init_values",
    "no_embed_class", "pre_norm", "fc_norm", "final_norm", "qk_norm", "dynamic_img_size", "drop_rate",
    "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "drop_path_rate", "use_abs_pos_emb", "use_rel_pos_bias",
    "use_shared_rel_pos_bias", "use_rot_pos_emb", "swiglu_mlp", "scale_mlp", "pool_include_prefix", "dims",
    "channels", "stem_width",
})  # fmt: skip
_TORCHVISION = frozenset({
    "num_classes", "image_size", "patch_size", "num_layers", "num_heads", "hidden_dim", "mlp_dim", "dropout",
    "attention_dropout",
})  # fmt: skip
_HF_TYPES = frozenset({
    "vit", "deit", "beit", "data2vec-vision", "swin", "swinv2", "dinov2", "dinov2_with_registers", "vit_msn",
    "vit_hybrid", "cvt", "pvt", "pvt_v2", "levit", "mobilevit", "mobilevitv2", "convnext", "convnextv2", "resnet",
    "regnet", "poolformer", "segformer", "focalnet", "hiera", "ijepa",
})  # fmt: skip
_HF_DROPPED = frozenset({  # of a config.json, without effect on what is built
    "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "auto_map", "_commit_hash",
})  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_./+-]{0,64}")


def check_description(found: object) -> None:
    """Raise ValueError unless a description names a model of a library by plain values of known options."""
    if not isinstance(found, Mapping) or set(found) != {"library", "name", "options"}:
        raise ValueError("a model that was adopted is described by library, name and options")
    library, name, options = found["library"], found["name"], found["options"]
    if library not in LIBRARIES:
        raise ValueError(f"library is {str(library)[:40]!r}; allowed are {', '.join(LIBRARIES)}")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        raise ValueError(f"name is {str(name)[:40]!r}; give the name of a model of {library}")
    if not isinstance(options, Mapping):
        raise ValueError(f"options are a {type(options).__name__}; they must be a mapping")
    known = {"timm": _TIMM, "torchvision": _TORCHVISION}.get(library)
    if known is not None and (unknown := sorted(set(options) - known)):
        raise ValueError(f"{str(unknown[0])[:40]!r} is no option of {library} that vitmem passes on; remove it")
    for option, value in options.items():
        _check_value(option, value)


def _check_value(option: object, value: object) -> None:
    """Raise ValueError unless an option is a name, and its value plain and bounded."""
    if not isinstance(option, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,60}", option):
        raise ValueError(f"{str(option)[:40]!r} is no name of an option")
    if option in ("id2label", "label2id"):
        return
    if isinstance(value, (list, tuple)) and len(value) <= 1000:
        for part in value:
            _check_value(option, part)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value) or "/" in value:
            raise ValueError(f"{option} is {value[:60]!r}; a model's option is a number, true, false or a plain word")
    elif not (value is None or isinstance(value, (bool, int, float))) or (
        isinstance(value, (int, float)) and not abs(value) <= LARGEST
    ):
        raise ValueError(f"{option} is {str(value)[:60]!r}; a model's option is a number up to {LARGEST}, or a word")


def create_foreign(description: Mapping, device: str = "cpu") -> nn.Module:
    """Return the model that a description names, in eval mode, with weights of no meaning.

    Args:
        description: see the module.
        device: "meta" builds the shapes only.

    Raises:
        ValueError: the description is malformed, the library is missing or has no such model, or refuses the options.
    """
    return with_logits(opened(plain_model(description, device))).eval()


def plain_model(description: Mapping, device: str = "cpu") -> nn.Module:
    """Return the model that a description names as its library builds it, with weights of no meaning.

    Args:
        description: see the module.
        device: "meta" builds the shapes only.

    Raises:
        ValueError: the description is malformed, the library is missing or has no such model, or refuses the options.
    """
    check_description(description)
    build = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[description["library"]]
    name, options = description["name"], {key: _listed(value) for key, value in description["options"].items()}
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return build(name, options)
    except (TypeError, AssertionError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        if isinstance(error, ImportError):
            raise ValueError("models of Hugging Face need transformers: pip install 'vitmem[hf]'") from error
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{description['library']} cannot build {name} with {options}: {why}") from error


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _timm(name: str, options: dict) -> nn.Module:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(
            f"timm has no model {name!r}; there are, for example: {', '.join(close) or 'vit_base_patch16_224'}"
        )
    return timm.create_model(name, pretrained=False, **options)


def _torchvision(name: str, options: dict) -> nn.Module:
    from torchvision import models

    if name == "VisionTransformer":
        return models.VisionTransformer(**options)
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}; there are, for example: vit_b_16, vit_l_16, swin_t")
    return models.get_model(name, weights=None, **options)


def _transformers(name: str, options: dict) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    if name not in _HF_TYPES:
        raise ValueError(f"the model type {name!r} is none of those that vitmem adopts: {', '.join(sorted(_HF_TYPES))}")
    config = AutoConfig.for_model(name, **{key: _unlisted(value) for key, value in options.items()})
    return AutoModelForImageClassification.from_config(config, trust_remote_code=False)


def _unlisted(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def hf_description(config: Mapping, classes: int) -> dict:
    """Return the description of a model whose ``config.json`` Hugging Face Transformers wrote.

    Args:
        config: its content.
        classes: K.

    Raises:
        ValueError: it names no model that is adopted, or holds values that are not plain.
    """
    kept = {k: v for k, v in config.items() if k not in _HF_DROPPED and k not in ("model_type", "id2label", "label2id")}
    kept = {key: value for key, value in kept.items() if value is not None}
    found = {"library": "transformers", "name": config.get("model_type"), "options": {**kept, "num_labels": classes}}
    check_description(found)
    return found
