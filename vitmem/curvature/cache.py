"""Curvature of a model, collected and decomposed once for all edits that ask for the same."""

import dataclasses
import hashlib
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vitmem.curvature import cost
from vitmem.curvature.axes import Axes, turned
from vitmem.curvature.collect import collect_factors, collect_inputs, collect_moments
from vitmem.curvature.factors import LayerFactors, LayerMoments, Sums, load_sums, save_sums
from vitmem.curvature.kept import CACHE_GB, Recent, check_cache_gb, digest_file, is_intact, sweep, used, write_digest
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.curvature.moments import LabelRule
from vitmem.curvature.spectrum import DenseMass, Eigenbasis, KroneckerMass, Mass, decompose_all
from vitmem.distributed import agreed, is_main
from vitmem.files import digest, replacing
from vitmem.models.layers import select_layers
from vitmem.options import check_counts
from vitmem.progress import size, tracked


@dataclass(frozen=True)
class CurvatureConfig:
    """Which curvature to collect, from what.

    Args:
        layers: glob patterns over layer names, separated by commas.
        bias: let biases take part, as a last column of each weight matrix.
        moments: kfac (masses lambda_i mu_j), ekfac (second pass: measured in the eigenbasis) or inputs (mu_j alone:
            forward passes, no gradient).
        tokens: cls (the class token), all (expand) or mean (reduce).
        labels: sampled from the model, exact (expectation over classes), topk (the likeliest, rest lumped) or given.
        draws: labels sampled for each example.
        top: classes taken one by one for topk.
        temperature: of the predicted distribution, positive.
        examples: how many images, drawn at random; all if there are fewer.
        split: train or validation.
        noisy: whether wrongly labelled training examples are included, excluded, or the only ones.
        seed: of the choice of images and of the sampled labels.
        dtype: type of the sums.
        batch_size: images in one step; it does not change the factors.
        layers_per_pass: most layers whose sums are held at a time; 0 for all.
        factor_device: where sums are kept: model (where it is) or cpu.
        basis: axes in which masses are taken: kfac (eigenvectors of the factors), identity (single weights), svd
            (singular vectors of what is filtered) or random (orthogonal); others than kfac are controls.
    """

    layers: str = "blocks.*"
    bias: bool = False
    moments: Literal["kfac", "ekfac", "inputs"] = "kfac"
    tokens: Literal["cls", "all", "mean"] = "all"
    labels: Literal["sampled", "exact", "topk", "given"] = "sampled"
    draws: int = 1
    top: int = 10
    temperature: float = 1.0
    examples: int = 10_000
    split: Literal["train", "validation"] = "train"
    noisy: Literal["included", "excluded", "only"] = "included"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    batch_size: int = 64
    layers_per_pass: int = 0
    factor_device: Literal["model", "cpu"] = "model"
    basis: Axes = field(default="kfac", metadata={"added": True})

    def __post_init__(self) -> None:
        check_counts(self, "examples", "batch_size")
        if self.layers_per_pass < 0:
            raise ValueError(f"layers_per_pass is {self.layers_per_pass}; it must be positive, or 0 for all at once")
        if self.split == "validation" and self.noisy != "included":
            raise ValueError(f"noisy: {self.noisy} needs split: train; validation labels are not corrupted")
        _ = self.rule

    @property
    def rule(self) -> LabelRule:
        """At which labels the loss is taken."""
        return LabelRule(self.labels, self.draws, self.top, self.temperature, self.seed)


# Of the code that collects sums: raise it when they come out otherwise, and stored ones are collected again.
VERSION = 1

# Options that change how the work is done, not what comes out.
_HOW = ("batch_size", "layers_per_pass", "factor_device")


@dataclass(frozen=True, eq=False)
class LayerCurvature:
    """One layer's curvature.

    Args:
        map: the layer as a matrix.
        basis: its eigenbasis.
        mass: masses of its eigen-pairs.
        coordinates_OI: its weights in the eigenbasis.
    """

    map: LinearMap
    basis: Eigenbasis
    mass: Mass
    coordinates_OI: Tensor


@dataclass(frozen=True, eq=False)
class Curvature:
    """Curvature of the chosen layers, and what it cost.

    Args:
        layers: by name, in the model's order.
        seconds: by stage: collect, decompose, and moments if there was a second pass.
        lumped: share of the trace of the output curvature that lumped labels leave out.
    """

    layers: dict[str, LayerCurvature]
    seconds: dict[str, float]
    lumped: float


Bases = tuple[dict[str, Eigenbasis], dict[str, float], float]  # by layer, seconds by stage, lumped share
Layer = TypeVar("Layer", bound=Sums)


class CurvatureCache:
    """Keeps curvature by what it depends on: weights, data and options.

    Args:
        folder: where sums and spectra are stored; None keeps them in memory only.
        announce: called with the lines of the cost estimate before a pass over the data.
        cache_gb: GB of what is kept in memory, and as much in files; what is in use is kept however much it is.

    Raises:
        ValueError: ``cache_gb`` is negative.
    """

    def __init__(
        self,
        folder: Path | None = None,
        announce: Callable[[list[str]], None] = lambda lines: None,
        cache_gb: float = CACHE_GB,
    ):
        self.folder, self.announce, self.limit = folder, announce, check_cache_gb(cache_gb) * 1e9
        self._known: Recent[Curvature | Bases] = Recent(self.limit)
        self._told = False
        self._weights: tuple[weakref.ref[nn.Module], tuple[tuple[int, int], ...], str] | None = None

    def get(
        self,
        model: nn.Module,
        config: CurvatureConfig,
        data: Callable[[], Any],
        fingerprint: str,
        origin: Mapping[str, Tensor] | None = None,
    ) -> Curvature:
        """Return the curvature of a model, from memory, from disk or by passes over the data.

        Args:
            model: the classifier.
            config: which layers, and how.
            data: returns the batches each time it is called.
            fingerprint: of the training set with its given labels.
            origin: matrices O I by layer; the axes and coordinates are those of the weights less them.

        Raises:
            OutOfMemory: the memory that it takes is not there.
        """
        maps = linear_maps(select_layers(model, config.layers), config.bias)
        options = {f.name: getattr(config, f.name) for f in dataclasses.fields(CurvatureConfig) if f.name not in _HOW}
        options["layers"] = list(maps)
        del options["basis"]
        inputs = {"weights": self._digest(model), "data": fingerprint, **options}
        inputs |= {"version": VERSION} if VERSION > 1 else {}  # keys of the first version have none
        first = digest({**inputs, "moments": "kfac"} if config.moments == "ekfac" else inputs)  # both share this pass
        if config.basis != "kfac":
            inputs["basis"] = config.basis
        if origin:
            inputs["origin"] = tensors_digest(origin)
        key = digest(inputs)
        if (known := self._known.get(key)) is not None:
            return cast(Curvature, known)
        bases, seconds, lumped = self._eigenbases(model, config, maps, data, first)
        matrices = {n: m.matrix() - origin[n] if origin else m.matrix() for n, m in maps.items()}
        bases = turned(bases, config.basis, matrices, config.seed)
        masses: dict[str, Mass] = {n: KroneckerMass(b.lambda_O, b.mu_I) for n, b in bases.items()}
        if config.moments == "ekfac":

            def collect(group: dict[str, LinearMap]) -> dict[str, LayerMoments]:
                return collect_moments(
                    model,
                    tracked(data(), "curvature, second pass"),
                    group,
                    bases,
                    tokens=config.tokens,
                    rule=config.rule,
                    **_how(config),
                )

            seconds = {**seconds, "moments": 0.0}
            for part, group in _parts(maps, config.layers_per_pass):
                moments, took = self._sums(LayerMoments, config, group, key + part, collect)
                masses |= {name: DenseMass(layer.mean_OI) for name, layer in moments.items()}
                seconds["moments"] += took
        layers = {n: LayerCurvature(m, bases[n], masses[n], bases[n].coordinates(matrices[n])) for n, m in maps.items()}
        found = Curvature(layers, seconds, lumped)
        self._keep(key, found)
        return found

    def _eigenbases(
        self,
        model: nn.Module,
        config: CurvatureConfig,
        maps: dict[str, LinearMap],
        data: Callable[[], Any],
        key: str,
    ) -> Bases:
        known = cast("Bases | None", self._known.get(f"{key}-bases"))
        if known is None:

            def collect(group: dict[str, LinearMap]) -> dict[str, LayerFactors]:
                batches, how = tracked(data(), "curvature"), {"tokens": config.tokens, **_how(config)}
                if config.moments == "inputs":
                    return collect_inputs(model, batches, group, **how)
                return collect_factors(model, batches, group, rule=config.rule, **how)

            batches = data()
            shape = getattr(batches, "image_shape", None) or tuple(next(iter(batches)).image.shape[1:])
            lines = cost.foresee(model, maps, config, len(batches), shape)  # in every process, so that all refuse
            if is_main():
                self.announce(lines)
            bases: dict[str, Eigenbasis] = {}
            lumped, seconds = 0.0, {"collect": 0.0, "decompose": 0.0}
            for part, group in _parts(maps, config.layers_per_pass):  # the sums of one group are held at a time
                factors, took = self._sums(LayerFactors, config, group, key + part, collect)
                start = time.perf_counter()
                bases |= decompose_all(factors, _vectors(model))
                seconds["collect"] += took
                seconds["decompose"] += time.perf_counter() - start
                any_layer = next(iter(factors.values()))
                lumped = any_layer.lost_trace / any_layer.total_trace if any_layer.total_trace else 0.0
            if not any(float(b.lambda_O[0] * b.mu_I[0]) > 0 for b in bases.values()):
                raise ValueError(
                    "every layer's curvature is zero: the model's predictions are certain to the last digit; "
                    "use another temperature, or labels: given"
                )
            known = bases, seconds, lumped
            self._keep(f"{key}-bases", known)
            self._save_spectra(key, bases)
        return known

    def _keep(self, key: str, value: Curvature | Bases) -> None:
        """Keep something in memory, in place of what was not used longest."""
        if self._known.put(key, value):
            self._tell("memory")

    def _tell(self, where: str) -> None:
        """Say once that something had to go."""
        if not self._told and is_main():
            again = "read or collected" if self.folder else "collected"
            print(
                f"curvature would take more {where} than the {size(self.limit)} of --cache_gb: what was not used "
                f"longest goes, and is {again} again when it is asked for",
                flush=True,
            )
        self._told = True

    def _sums(
        self,
        kind: type[Layer],
        config: CurvatureConfig,
        maps: dict[str, LinearMap],
        key: str,
        collect: Callable[[dict[str, LinearMap]], dict[str, Layer]],
    ) -> tuple[dict[str, Layer], float]:
        path = self.folder / f"{key[:16]}{key[64:]}.safetensors" if self.folder else None
        stored = _stored(path, kind, key, list(maps)) if path else None
        if agreed(stored is not None) and path and stored:
            used(path)
            return stored
        if path and path.exists() and is_main():
            print(f"{path} is damaged, or has no valid SHA-256 beside it: it is collected again", flush=True)
            digest_file(path).unlink(missing_ok=True)
        start = time.perf_counter()
        sums = collect(maps)
        seconds = time.perf_counter() - start
        if path and self.folder and is_main():
            described = {f.name: str(getattr(config, f.name)) for f in dataclasses.fields(CurvatureConfig)}
            save_sums(path, sums, {**described, "key": key, "seconds": f"{seconds:.3f}"})
            write_digest(path)
            if sweep(self.folder, self.limit, in_use=key[:16]):
                self._tell("disk")
        return sums, seconds

    def _save_spectra(self, key: str, bases: dict[str, Eigenbasis]) -> None:
        if self.folder is None or not is_main():
            return
        arrays = {f"{name}/G": basis.lambda_O.cpu().numpy() for name, basis in bases.items()}
        arrays |= {f"{name}/A": basis.mu_I.cpu().numpy() for name, basis in bases.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{key[:16]}.spectra.npz") as own, own.open("wb") as file:
            np.savez(file, **cast(dict[str, Any], arrays))

    def _digest(self, model: nn.Module) -> str:
        versions = tuple((id(t), t._version) for t in [*model.parameters(), *model.buffers()])
        if self._weights is None or self._weights[0]() is not model or self._weights[1] != versions:
            self._weights = weakref.ref(model), versions, weights_digest(model)
        return self._weights[2]


def _parts(maps: dict[str, LinearMap], most: int) -> list[tuple[str, dict[str, LinearMap]]]:
    """Return the layers in groups of at most ``most`` (0: all), each with a suffix for its key."""
    names = list(maps)
    if not most or most >= len(names):
        return [("", maps)]
    starts = range(0, len(names), most)
    return [(f"-{first}-{most}", {n: maps[n] for n in names[first : first + most]}) for first in starts]


def _stored(path: Path, kind: type[Layer], key: str, layers: list[str]) -> tuple[dict[str, Layer], float] | None:
    """Return the stored sums of a key and the seconds they took; None if there are none, or they are damaged."""
    if not is_intact(path):
        return None
    try:
        sums, metadata = load_sums(path, kind)
        return ({name: sums[name] for name in layers}, float(metadata["seconds"])) if metadata["key"] == key else None
    except (OSError, KeyError, ValueError, SafetensorError):
        return None


def _vectors(model: nn.Module) -> torch.dtype:
    """Return the type of eigenvectors: that of the weights they meet, so that no edit casts them again."""
    return torch.promote_types(next(model.parameters()).dtype, torch.float32)


def _how(config: CurvatureConfig) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, config.dtype),
        "device": torch.device("cpu") if config.factor_device == "cpu" else None,
    }


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes, types and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data if tensor.numel() else b""
        )
    return found.hexdigest()
