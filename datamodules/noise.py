"""Label noise: the registered kinds, and the manifest that says which labels are wrong.

The kinds are named by their definition: the two symmetric ones differ in whether the true class can be drawn, and so
in the realised rate. Noise has its own seed, independent of the model's.
"""

from vitmem.datamodules.corruption import Asymmetric, Instance, Noise, PairFlip, Symmetric, SymmetricInclusive
from vitmem.datamodules.given import FileNoise, Human
from vitmem.datamodules.manifest import NoiseManifest

__all__ = ["NOISES", "Noise", "NoiseManifest", "PairFlip", "Symmetric", "SymmetricInclusive"]

NOISES: dict[str, type[Noise]] = {
    noise.kind: noise for noise in (Symmetric, SymmetricInclusive, PairFlip, Asymmetric, Instance, Human, FileNoise)
}
