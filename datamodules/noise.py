"""What is to be forgotten: the registered kinds of label noise, and the manifest that says which labels are wrong.

The kinds are named by their definition: the two symmetric ones differ in whether the true class can be drawn, and so
in the realised rate. Noise has its own seed, independent of the model's.
"""

from vitmem.datamodules.clusters import Cluster
from vitmem.datamodules.corruption import Asymmetric, Instance, Noise, PairFlip, Symmetric, SymmetricInclusive
from vitmem.datamodules.forgetting import ForgetClass, ForgetSet, Trigger
from vitmem.datamodules.given import FileNoise, Human
from vitmem.datamodules.manifest import NoiseManifest
from vitmem.registry import registered

__all__ = ["Noise", "NoiseManifest", "PairFlip", "Symmetric", "SymmetricInclusive", "noises"]

_KINDS = (
    Symmetric, SymmetricInclusive, PairFlip, Asymmetric, Instance, Cluster,
    Human, FileNoise, ForgetSet, ForgetClass, Trigger,
)  # fmt: skip
_BUILTIN: dict[str, type[Noise]] = {noise.kind: noise for noise in _KINDS}


def noises() -> dict[str, type[Noise]]:
    """Return the registered noise kinds by name: ours, and those that plug-ins add (group ``vitmem.noises``).

    Raises:
        ValueError: one is registered under another name than its own ``kind``, which manifests carry.
    """
    found = registered("vitmem.noises", _BUILTIN)
    for name, noise in found.items():
        if getattr(noise, "kind", None) != name:
            raise ValueError(
                f"the noise kind {name!r} of {found.origins[name]} has kind = {getattr(noise, 'kind', None)!r}; "
                "the two must be the same"
            )
    return found
