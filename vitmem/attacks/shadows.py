"""Shadow models: the run's recipe on random halves of a pool of labelled images, and their confidence in every pair.

The pool holds every training pair (image, given label) and, since no training image can be a non-member, about as many
validation images with wrong labels as there are noisy examples. A shadow model is trained by the run's own recipe, so
it differs from the run's model in its examples alone: half as many, and a larger share of them wrong. Shadow models 2k
and 2k + 1 see complementary halves. What is kept of one is a file of confidences.

Legend: P pairs of the pool (training examples first), Z further pairs that no model sees, Q = P + Z, K classes.
"""

import io
import struct
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Recipe
from vitmem.datamodules.batch import Examples, keyed_generator, keyed_seed
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Noise, noises
from vitmem.files import remove, write_atomically
from vitmem.models.finite import answers

_DAMAGE = (OSError, KeyError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)
SHADOWS = "shadows"  # of their folders; another name, such as shadows2, when the code makes others


@dataclass(frozen=True, eq=False)
class Pairs:
    """The labelled images that membership inference asks about.

    Args:
        train: all training examples with their given labels.
        candidates: validation images with wrong labels, non-members of the run's model; shadow models may see them.
        population: further such images, which no model sees.
    """

    train: Examples
    candidates: Examples
    population: Examples

    @property
    def pool_size(self) -> int:
        """P."""
        return len(self.train) + len(self.candidates)

    def chosen(self, kept_P: Tensor) -> Examples:
        """Return the pairs of the pool that a mask chooses."""
        n = len(self.train)
        return Examples.concatenate([self.train.subset(kept_P[:n]), self.candidates.subset(kept_P[n:])])


def make_pairs(data: MemorisationData) -> Pairs:
    """Return the pairs of a run; which validation images are candidates depends on the noise seed alone."""
    data.need_forget_set("membership inference asks about the examples to be forgotten")
    wrong = wrong_validation(data)
    wrong = wrong.subset(torch.randperm(len(wrong), generator=keyed_generator(data.manifest.seed, 21)))
    count = min(int(data.manifest.to_forget.sum()), len(wrong) // 2)
    return Pairs(data.train_examples, wrong.subset(slice(0, count)), wrong.subset(slice(count, None)))


def wrong_validation(data: MemorisationData) -> Examples:
    """Return the validation images with labels that the run's noise makes wrong; those that stay right are left out.

    Of a forget set that was chosen, those of its classes, with their own labels; of a trigger, those that show it.

    Kinds that draw labels from the true ones do so again. For labels that came from a file, from the pixels or with
    canaries, the given labels of noisy training examples of the same class are drawn instead.
    """
    examples, manifest = data.validation_examples, data.manifest
    if (triggered := data.triggered_examples) is not None:
        return triggered
    if manifest.chosen is not None:
        asked = np.unique(manifest.given_label[manifest.chosen])
        return examples.subset(torch.isin(examples.given_label, torch.from_numpy(asked)))
    rng, true = np.random.RandomState([manifest.seed, 2]), examples.true_label.numpy()
    kind = noises().get(manifest.kind, Noise)
    if kind.corrupt is not Noise.corrupt and "num_canaries" not in manifest.details:
        given = kind(seed=manifest.seed).corrupt(true, data.data, rng)
    else:
        given = true.copy()
        for label in np.unique(manifest.true_label[manifest.is_noisy]):
            rows = true == label
            seen = manifest.given_label[manifest.is_noisy & (manifest.true_label == label)]
            given[rows] = seen[rng.randint(0, len(seen), size=rows.sum())]
    given = torch.from_numpy(np.asarray(given, np.int64))
    return Examples(examples.image, given, examples.true_label, examples.index).subset(given != examples.true_label)


@torch.no_grad()
def confidences(model: nn.Module, data: MemorisationData, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return what a model in eval mode says of pairs: phi = log p - log(1 - p) of the given label, and if it is first.

    Args:
        model: the classifier.
        data: knows the normalisation.
        examples: the pairs, in whose order the answer is.
    """
    device = next(model.parameters()).device
    phi, correct = [np.empty(0)], [np.empty(0, bool)]
    for batch in data.loader(examples):
        logit_BK, label_B1 = model(batch.image.to(device)).double().cpu(), batch.given_label[:, None]
        others_BK = logit_BK.scatter(1, label_B1, -torch.inf)
        phi.append((logit_BK.gather(1, label_B1)[:, 0] - others_BK.logsumexp(1)).numpy())
        correct.append((answers(logit_BK) == batch.given_label).numpy())
    return np.concatenate(phi), np.concatenate(correct)


@dataclass(frozen=True, eq=False)
class Shadow:
    """What is kept of one shadow model.

    Args:
        kept: P, bool, it was trained on the pair.
        phi: Q, float32, its confidence in every pair.
        correct: Q, bool, it says the pair's label.
    """

    kept: np.ndarray
    phi: np.ndarray
    correct: np.ndarray

    def save(self, path: Path) -> None:
        """Write the arrays as NPZ."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **asdict(self))
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Shadow":
        """Read the arrays, checked by the CRC-32 that the file holds of each; nothing in them can run code.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            if not path.is_file():
                raise ValueError("it is no regular file")
            with zipfile.ZipFile(path) as archive:
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {bad} differs")
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:100]}") from error


class ShadowCache:
    """The shadow models of a run: files that all attacks on it share, each made once.

    Args:
        data: the data module of the run.
        pairs: from ``make_pairs``.
        recipe: how the run's model was trained.
        folder: where the files go.
        seed: of the run.

    Raises:
        ValueError: the run ended early; when, was chosen on validation images, which shadow models learn.
    """

    def __init__(self, data: MemorisationData, pairs: Pairs, recipe: Recipe, folder: Path, seed: int):
        if recipe.tuned:
            raise ValueError(
                "train.early_stop chose the run's epoch on validation images, which shadows learn; set shadows to 0"
            )
        self.data, self.pairs, self.recipe, self.seed = data, pairs, recipe, seed
        self.folder = folder / f"{SHADOWS}-{recipe.key[:16]}"

    def get(self, count: int) -> list[Shadow]:
        """Return the first ``count`` shadow models, training those that are missing.

        Raises:
            Interrupted: Ctrl-C; the next call goes on from there.
            TrainingDiverged: the loss of one is not finite.
        """
        found = []
        for number in range(count):
            if (shadow := self._stored(number)) is None:
                print(f"{self.folder.name}: training shadow model {number + 1} of {count}", flush=True)
                shadow = self._train(number)
            remove(self._work(number))  # also what a command left that was killed before this
            found.append(shadow)
        return found

    def _stored(self, number: int) -> Shadow | None:
        """Return a stored shadow model; None if there is none, or it is damaged, which is told."""
        path = self.path(number)
        if not path.exists():
            return None
        try:
            shadow = Shadow.load(path)
            pool, everything = self.pairs.pool_size, self.pairs.pool_size + len(self.pairs.population)
            if [len(shadow.kept), len(shadow.phi), len(shadow.correct)] != [pool, everything, everything]:
                raise ValueError(f"{path} is damaged: it is of other pairs")
        except (ValueError, TypeError) as error:
            print(f"{error}; it is made again", flush=True)
            return None
        return shadow

    def path(self, number: int) -> Path:
        """Return the file of one shadow model."""
        return self.folder / f"shadow{number:04d}.npz"

    def kept(self, number: int) -> Tensor:
        """Return P, bool: the half of the pool that a shadow model sees."""
        size = self.pairs.pool_size
        kept_P = torch.zeros(size, dtype=torch.bool)
        kept_P[torch.randperm(size, generator=keyed_generator(self.seed, 22, number // 2))[: size // 2]] = True
        return kept_P if number % 2 == 0 else ~kept_P

    def _train(self, number: int) -> Shadow:
        data, kept_P = self.data, self.kept(number)
        work = self._work(number)
        work.mkdir(parents=True, exist_ok=True)
        model = self.recipe.train(self.pairs.chosen(kept_P), keyed_seed(self.seed, 23, number), work)
        parts = (self.pairs.train, self.pairs.candidates, self.pairs.population)
        phi_Q, correct_Q = (np.concatenate(a) for a in zip(*(confidences(model, data, p) for p in parts), strict=True))
        shadow = Shadow(kept_P.numpy(), phi_Q.astype(np.float32), correct_Q)
        shadow.save(self.path(number))
        return shadow

    def _work(self, number: int) -> Path:
        """Return the folder of a shadow model's checkpoints, until it is finished."""
        return self.path(number).with_suffix(".work")
