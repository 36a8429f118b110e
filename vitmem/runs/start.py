"""What a training starts from: its data and the model at step 0."""

from torch import nn

from vitmem.datamodules.module import MemorisationData
from vitmem.files import file_digest
from vitmem.models import build
from vitmem.models.layers import select_layers
from vitmem.models.weights import find_weights, read_pretrained
from vitmem.runs.config import RunConfig


def make_data(config: RunConfig) -> MemorisationData:
    """Return the data module of a configuration."""
    return MemorisationData(
        config.data,
        config.noise,
        batch_size=config.train.batch_size,
        train_on=config.train_on,
        seed=config.seed,
        augment=config.augment,
        normalisation=config.normalise.pair,
    )


def timm_arguments(config: RunConfig, data: MemorisationData) -> dict:
    """Return with which arguments timm builds the model of a configuration for the images at hand."""
    return config.model.timm_arguments(data.data.image_shape, data.data.num_classes)


def check_model(config: RunConfig, data: MemorisationData) -> nn.Module:
    """Return the model without storage, so that wrong sizes, weights and patterns are found before any work."""
    model = build.create(timm_arguments(config, data), device="meta")
    if config.model.pretrained:
        read_pretrained(find_weights(config.model.pretrained, "model.pretrained"), model)
    if config.train.frozen:
        select_layers(model, config.train.frozen)
    return model


def pretrained_sha256(config: RunConfig) -> str | None:
    """Return the SHA-256 of the weights that training starts from; None where they are random."""
    return file_digest(find_weights(config.model.pretrained, "model.pretrained")) if config.model.pretrained else None


def start_model(config: RunConfig, arguments: dict) -> tuple[nn.Module, str]:
    """Return the model at step 0, and what a file of pretrained weights left out, in words; empty where there is none.

    Args:
        config: of the run.
        arguments: with which timm builds it.
    """
    model = build.create(arguments, seed=config.seed)
    if not config.model.pretrained:
        return model, ""
    weights, notes = read_pretrained(find_weights(config.model.pretrained, "model.pretrained"), model)
    model.load_state_dict(weights, strict=False)
    return model, f"weights from {config.model.pretrained}: {len(weights)} tensors; {'; '.join(notes) or 'all of them'}"


def new_model(config: RunConfig, data: MemorisationData) -> nn.Module:
    """Return the model at step 0, and say what a file of pretrained weights left out."""
    model, note = start_model(config, timm_arguments(config, data))
    if note:
        print(note)
    return model
