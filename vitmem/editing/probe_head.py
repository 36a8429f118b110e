"""A linear probe in the classifier's place: its features stay, and what reads them is fitted again.

Legend: N examples, D features, K classes.
"""

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import linear_maps
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.parameters import draw_seed, result, watch_inputs
from vitmem.evaluation.logistic import fit_logistic
from vitmem.models.anatomy import head_of
from vitmem.options import check_counts


@dataclass(frozen=True)
class ProbeHead(Edit):
    """Replace the classifier by a logistic regression from its own features to the given labels, wrong ones included.

    A regularised probe of a model that has memorised can generalise better than the model does. Features are what the
    trained classifier reads, as they are (not standardised). Source: Latent generalisation (arXiv 2603.19865).

    Args:
        keep: share of the trained classifier, in [0, 1]: its weights are keep W + (1 - keep) W_probe; 1 changes
            nothing.
        c: inverse strength of regularisation, positive: the probe minimises the sum of the examples' cross-entropies
            + ||W_probe||^2 / (2 c), without the intercept, as in scikit-learn.
        examples: training images, at least 1; all if there are fewer.
        batch_size: images in a batch; the result does not depend on it.
    """

    sees = frozenset({"given"})
    main_option = "keep"
    search: ClassVar[dict[str, tuple]] = {"keep": ("uniform", 0.0, 1.0), "c": ("log", 1e-4, 1e2)}

    keep: float = 0.0
    c: float = 1.0
    examples: int = 10_000
    batch_size: int = 100

    def __post_init__(self):
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep is {self.keep}; it must be in [0, 1]")
        if not 0 < self.c < math.inf:
            raise ValueError(f"c is {self.c}; it must be positive and finite")
        check_counts(self, "examples", "batch_size")

    @property
    def idle(self) -> frozenset[str]:
        """Without the probe its strength has no effect."""
        return frozenset({"c"} if self.keep == 1 else set())

    def check(self, model: nn.Module) -> None:
        """Refuse models whose classifier is not one linear layer with a bias."""
        name, head = head_of(uncompiled(model))
        if head.bias is None:
            raise ValueError(f"{name} is {head}; the probe needs a linear layer with a bias there")

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return the weights with another head; all else stays."""
        start = time.perf_counter()
        model = uncompiled(model)
        self.check(model)
        name, head = head_of(model)
        x_ND, label_N = self.features(model, data, draw_seed(generator))
        probe = logistic_head(x_ND, label_N, self.c, head.out_features)
        changed = {}
        for part, fitted in probe.items():
            trained = getattr(head, part).detach()
            changed[f"{name}.{part}"] = torch.lerp(fitted.to(trained), trained, self.keep)
        return result(model, changed if self.keep < 1 else {}, start, x_ND.numel())

    def features(self, model: nn.Module, data: EditData, seed: int) -> tuple[Tensor, Tensor]:
        """Return what the classifier reads, N D in float64, and the given labels N, the same in every process."""
        parts, labels = [], []

        def labelled():
            for batch in data.given(self.examples, self.batch_size, seed=seed, shared=False):
                labels.append(batch.given_label)
                yield batch

        watch_inputs(model, linear_maps(dict([head_of(model)])), labelled(), lambda name, x_BD: parts.append(x_BD))
        return torch.cat(parts), torch.cat(labels).to(parts[0].device)


def logistic_head(x_ND: Tensor, label_N: Tensor, c: float, classes: int) -> dict[str, Tensor]:
    """Return weight K D and bias K of a multinomial logistic regression, in float64.

    Args:
        x_ND: features, float64.
        label_N: labels, in [0, K).
        c: inverse strength of regularisation, as scikit-learn's C.
        classes: K.
    """
    mean_D = x_ND.mean(0)  # taken off while fitting: few steps then do, and only the intercept, which is free, differs
    weight_1N = x_ND.new_ones(1, len(x_ND))
    l2 = 1 / (c * len(x_ND))
    coefficient = fit_logistic(x_ND - mean_D, label_N[None], weight_1N, l2, classes, steps=1000, tolerance=1e-6)[0]
    return {"weight": coefficient[:-1].T.contiguous(), "bias": coefficient[-1] - mean_D @ coefficient[:-1]}
