"""Compression: do pruning, low rank or noise on the weights, as deployment brings, undo an edit?"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.scoring import mean_row, score, scoring_sets
from vitmem.curvature.layers import linear_maps
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers
from vitmem.options import check_counts


@dataclass(frozen=True)
class Compress(Attack):
    """Prune the smallest weights, truncate the rank, or add noise, in every chosen matrix alike.

    Args:
        layers: glob patterns over layer names, separated by commas.
        prune: shares of the weights of each matrix to set to 0, the smallest first, in [0, 1].
        rank: shares of the singular values of each matrix to keep, in (0, 1].
        noise: norms of Gaussian noise relative to the norm of each matrix.
        draws: of the noise; their mean and standard deviation are reported.
        examples: most scored of each kind, noisy, clean training and validation.
    """

    settings = ("kind", "strength")

    layers: str = "blocks.*"
    prune: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    rank: tuple[float, ...] = (0.5, 0.25, 0.1)
    noise: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    draws: int = 5
    examples: int = 2000

    def __post_init__(self):
        if wrong := [share for share in self.prune if not 0 <= share <= 1]:
            raise ValueError(f"prune: {wrong[0]} is not a share of the weights, in [0, 1]")
        if wrong := [share for share in self.rank if not 0 < share <= 1]:
            raise ValueError(f"rank: {wrong[0]} is not a share of the singular values, in (0, 1]")
        if wrong := [norm for norm in self.noise if not (math.isfinite(norm) and norm >= 0)]:
            raise ValueError(f"noise: {wrong[0]} is not a relative norm; give numbers of at least 0")
        check_counts(self, "draws", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the metrics of each kind and strength."""
        start = time.perf_counter()
        loaders = scoring_sets(data.data, self.examples)
        layers = linear_maps(select_layers(model, self.layers))

        def measured(change: Callable[[Tensor], Tensor]) -> dict[str, float]:
            state = dict(model.state_dict())
            for layer in layers.values():
                state |= layer.state(change(layer.matrix()))
            return score(with_weights(model, state), loaders, data.known)

        rows = [{"kind": "prune", "strength": s, **measured(lambda w, s=s: pruned(w, s))} for s in self.prune]
        rows += [{"kind": "rank", "strength": s, **measured(lambda w, s=s: of_rank(w, s))} for s in self.rank]
        for norm in self.noise:
            draws = [measured(lambda w, s=norm: noised(w, s, generator)) for _ in range(self.draws)]
            rows.append({"kind": "noise", "strength": norm, **mean_row(draws)})
        report = {"seconds": round(time.perf_counter() - start, 3), "layers": list(layers), "draws": self.draws}
        return AttackResult(rows, report)


def pruned(w_OI: Tensor, share: float) -> Tensor:
    """Return weights whose smallest floor(share * O * I) magnitudes are 0."""
    count = int(share * w_OI.numel())
    kept = torch.ones(w_OI.numel(), dtype=torch.bool, device=w_OI.device)
    kept[w_OI.flatten().abs().argsort(stable=True)[:count]] = False
    return w_OI * kept.view_as(w_OI)


def of_rank(w_OI: Tensor, share: float) -> Tensor:
    """Return the nearest weights of rank ceil(share * min(O, I))."""
    u, s, vt = torch.linalg.svd(w_OI.double(), full_matrices=False)
    rank = math.ceil(share * len(s))
    return ((u[:, :rank] * s[:rank]) @ vt[:rank]).to(w_OI.dtype)


def noised(w_OI: Tensor, norm: float, generator: torch.Generator) -> Tensor:
    """Return weights plus Gaussian noise whose Frobenius norm is ``norm`` times theirs."""
    noise = torch.randn(w_OI.shape, generator=generator).to(w_OI)
    return w_OI + noise * (norm * w_OI.norm() / noise.norm())
