"""Over-unlearning: does an edit lose right answers near the examples that it is to forget, more than far away?

Legend: B images of a batch, C channels, H x W pixels, P of an image, K classes, N clean examples, M to be forgotten.
"""

import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.scoring import evenly
from vitmem.attacks.views import on_pixels
from vitmem.datamodules.batch import Examples, InMemoryLoader
from vitmem.datamodules.module import MemorisationData
from vitmem.evaluation.metrics import accuracy
from vitmem.models.finite import answers
from vitmem.options import check_counts

CANDIDATES = 5000  # clean examples whose distances are computed


@dataclass(frozen=True)
class OverUnlearning(Attack):
    """Look at images at a distance eps from examples to be forgotten, and count what base had right there and is lost.

    Places: ``forget``, around the examples to be forgotten (base is right there where its memory of the wrong label
    ends); ``near``, around the clean training example nearest to each of them; ``far``, around as many clean examples
    drawn from the half that lies farthest from all of them. ``lost`` is the share of base's right answers that the
    model does not give, ``divergence`` the Jensen-Shannon divergence of the two models' answers, in nats, the wrong
    label left out of both. A model that answers as base does has 0 of both, exactly; retrain says what is no fault of
    an edit.

    Source: OU@eps of Ha et al. 2026 (arXiv 2506.01318), a divergence around a forgotten class; theirs moves images
    against the gradient or by noise, here noise alone: directions are drawn at random, the same for all models.

    Args:
        eps: root mean square change of a pixel, of images in [0, 1]; what leaves the range is cut off. 0: the image.
        draws: directions for each image; nothing is drawn where eps is 0.
        examples: most examples of each place.
    """

    settings = ("place", "eps")

    eps: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    draws: int = 5
    examples: int = 500

    def __post_init__(self):
        if not self.eps:
            raise ValueError("eps needs at least one value")
        if wrong := [eps for eps in self.eps if not 0 <= eps <= 1]:
            raise ValueError(f"eps: {wrong[0]} is not a change of images in [0, 1]")
        check_counts(self, "draws", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return what is lost at every place and distance.

        Raises:
            ValueError: there is no unedited model, or no example to be forgotten or to be kept.
        """
        start = time.perf_counter()
        data.data.need_forget_set("over_unlearning looks near the examples to be forgotten")
        if (base := data.reference("base")) is None:
            raise ValueError("over_unlearning compares with the unedited model, which is not there")
        rows, report = [], {}
        for place, examples in places(data.data, self.examples, generator).items():
            seed = int(torch.randint(2**31, (), generator=generator))
            report[place] = examples.index.tolist()
            for eps in self.eps:
                loader = data.data.loader(examples, seed=seed)
                loader.augment = on_pixels(partial(at_distance, eps=eps))
                found = lost(model, base, loader, self.draws if eps else 1)
                rows.append({"place": place, "eps": eps, **found})
        return AttackResult(rows, {"seconds": round(time.perf_counter() - start, 3), **report})


def at_distance(x_BCHW: Tensor, generator: torch.Generator, eps: float) -> Tensor:
    """Return images in [0, 1] moved in random directions, each by a root mean square of eps over its pixels."""
    noise_BCHW = torch.randn(x_BCHW.shape, generator=generator)
    size_B = noise_BCHW.square().mean((1, 2, 3), keepdim=True).sqrt()
    return x_BCHW + eps * noise_BCHW / size_B


def places(data: MemorisationData, most: int, generator: torch.Generator) -> dict[str, Examples]:
    """Return the examples to be forgotten, the clean ones nearest to them, and as many that lie far from all of them.

    Distances are Euclidean, of pixels; at most ``CANDIDATES`` clean examples are looked at.

    Args:
        data: the data module of the run.
        most: examples of each place.
        generator: draws those that lie far.

    Raises:
        ValueError: there is no example to be forgotten, or fewer than 4 to be kept.
    """
    examples = data.train_examples
    forget, clean = (mask.nonzero()[:, 0] for mask in (examples.to_forget, examples.to_retain))
    if not len(forget) or len(clean) < 4:
        raise ValueError(
            f"over_unlearning needs an example to be forgotten and 4 to be kept; there are {len(forget)} and "
            f"{len(clean)}"
        )
    forget, clean = forget[evenly(len(forget), most)], clean[evenly(len(clean), CANDIDATES)]
    pixels_MP, pixels_NP = (examples.subset(part).image[:].float().flatten(1) for part in (forget, clean))
    distance_MN = torch.cdist(pixels_MP, pixels_NP)
    near = distance_MN.argmin(1).unique()
    is_far = distance_MN.amin(0) >= distance_MN.amin(0).median()
    is_far[near] = False
    far = is_far.nonzero()[:, 0]
    far = far[torch.randperm(len(far), generator=generator)[: len(near)]].sort().values
    return {"forget": examples.subset(forget), "near": examples.subset(clean[near]), "far": examples.subset(clean[far])}


@torch.no_grad()
def lost(model: nn.Module, base: nn.Module, loader: InMemoryLoader, draws: int) -> dict[str, float]:
    """Return which of base's right answers a model does not give, and how its answers differ from base's.

    Args:
        model: the edited classifier.
        base: the unedited one.
        loader: images, altered anew in each pass.
        draws: passes.
    """
    right, kept, divergence = [], [], []
    device = next(model.parameters()).device
    for draw in range(draws):
        loader.set_epoch(draw)
        for batch in loader:
            image = batch.image.to(device)
            before_BK, after_BK = (m(image).float().cpu() for m in (base, model))
            true_B = batch.true_label.cpu()
            right.append(answers(before_BK) == true_B)
            kept.append(answers(after_BK) == true_B)
            wrong_BK = F.one_hot(batch.given_label.cpu(), before_BK.shape[1]).bool() & batch.is_noisy.cpu()[:, None]
            p_BK, q_BK = (x.double().masked_fill(wrong_BK, -math.inf).softmax(1) for x in (before_BK, after_BK))
            divergence.append(jensen_shannon(p_BK, q_BK))
    right_N, kept_N = torch.cat(right), torch.cat(kept)
    share = accuracy((~kept_N[right_N]).numpy())
    return {
        "lost": share.value,
        "lost_n": share.n,
        "base_right": float(right_N.double().mean()),
        "divergence": float(torch.cat(divergence).mean()),
        "divergence_n": len(right_N),
    }


def jensen_shannon(p_BK: Tensor, q_BK: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence B of two distributions, in nats: 0 where they are equal, at most log 2."""
    middle_BK = ((p_BK + q_BK) / 2).clamp(min=1e-300)
    return sum(torch.xlogy(x, x / middle_BK).sum(1) for x in (p_BK, q_BK)) / 2
