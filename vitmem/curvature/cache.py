"""Factors and eigenbases of a model, collected and decomposed once for all edits that ask for the same."""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from vitmem.curvature.collect import collect_factors
from vitmem.curvature.factors import LayerFactors, load_factors, save_factors
from vitmem.curvature.spectrum import Eigenbasis, decompose
from vitmem.models import select_linear
from vitmem.runs import digest


@dataclass(frozen=True)
class CurvatureConfig:
    """Which factors to collect, from what.

    Args:
        layers: glob patterns over layer names, separated by spaces.
        tokens: cls (the class token), all (expand) or mean (reduce).
        labels: sampled from the model, exact (expectation over classes) or given (empirical Fisher).
        draws: labels sampled for each example.
        temperature: of the predicted distribution, positive.
        examples: how many training images, drawn at random; all if there are fewer.
        batch_size: images in one pass; it does not change the factors.
        seed: of the choice of images and of the sampled labels.
    """

    layers: str = "blocks.*"
    tokens: Literal["cls", "all", "mean"] = "all"
    labels: Literal["sampled", "exact", "given"] = "sampled"
    draws: int = 1
    temperature: float = 1.0
    examples: int = 10_000
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self):
        for option in ("draws", "examples", "batch_size"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be at least 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")


@dataclass(frozen=True, eq=False)
class Curvature:
    """Eigenbases of the chosen layers, and what they cost.

    Args:
        layers: eigenbasis by layer name, in the model's order.
        collect_seconds: time of the pass over the data.
        decompose_seconds: time of the eigen-decompositions.
    """

    layers: dict[str, Eigenbasis]
    collect_seconds: float
    decompose_seconds: float


class CurvatureCache:
    """Keeps curvature by what it depends on: weights, data and options.

    Args:
        folder: where factors and spectra are stored; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._known: dict[str, Curvature] = {}

    def get(
        self, model: nn.Module, config: CurvatureConfig, data: Callable[[CurvatureConfig], Iterable], fingerprint: str
    ) -> Curvature:
        """Return the curvature of a model, from memory, from disk or by a pass over the data.

        Args:
            model: the classifier.
            config: which layers, and how.
            data: returns the batches when they are needed.
            fingerprint: of the training set with its given labels.
        """
        options = collected_options(config)
        del options["batch_size"]
        options["layers"] = list(select_linear(model, config.layers))
        key = digest({"weights": weights_digest(model), "data": fingerprint, **options})
        if key not in self._known:
            factors, seconds = self._factors(model, config, data, key)
            start = time.perf_counter()
            bases = {name: decompose(factors[name], name) for name in options["layers"]}
            self._known[key] = Curvature(bases, seconds, time.perf_counter() - start)
            self._save_spectra(key, bases)
        return self._known[key]

    def _factors(self, model, config, data, key: str) -> tuple[dict[str, LayerFactors], float]:
        path = self.folder / f"{key[:16]}.safetensors" if self.folder else None
        if path and path.exists():
            factors, metadata = load_factors(path)
            if metadata.get("key") == key:
                return factors, float(metadata["seconds"])
        start = time.perf_counter()
        factors = collect_factors(
            model,
            data(config),
            select_linear(model, config.layers),
            tokens=config.tokens,
            labels=config.labels,
            draws=config.draws,
            temperature=config.temperature,
            seed=config.seed,
        )
        seconds = time.perf_counter() - start
        if path:
            described = {name: str(value) for name, value in collected_options(config).items()}
            save_factors(path, factors, {**described, "key": key, "seconds": f"{seconds:.3f}"})
        return factors, seconds

    def _save_spectra(self, key: str, bases: dict[str, Eigenbasis]) -> None:
        if self.folder is None:
            return
        arrays = {f"{name}/G": basis.lambda_O.cpu().numpy() for name, basis in bases.items()}
        arrays |= {f"{name}/A": basis.mu_I.cpu().numpy() for name, basis in bases.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.folder / f"{key[:16]}.spectra.npz", **arrays)


def collected_options(config: CurvatureConfig) -> dict:
    """Return the options that decide what is collected; an edit's own options are left out."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(CurvatureConfig)}


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state: names, shapes, types and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()
