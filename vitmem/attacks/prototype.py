"""Prototypical relearning: do a few examples, without a gradient, bring back wrong labels that were not shown?

Legend: N examples, D features, K classes.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.features import HEAD, features_of
from vitmem.attacks.relearn import split
from vitmem.attacks.scoring import hidden_sets, mean_row, score
from vitmem.curvature.collect import uncompiled
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.evaluation.predict import TRAIN
from vitmem.models.anatomy import anatomy_of
from vitmem.models.build import with_weights
from vitmem.options import check_counts


@dataclass(frozen=True)
class Prototype(Attack):
    """Move the classifier's rows to the mean features of a few wrongly labelled examples of each given label.

    The row of a class becomes (1 - alpha) w + alpha |w| p / |p|, its bias (1 - alpha) b, where p is the mean of what
    the classifier reads of k shown examples that were given this label. Half of the noisy examples that edits with a
    forget set knew may be shown, all others are scored, as in ``relearn``. Retrain, attacked alike, says what the
    examples alone would give. Source: Ha et al. 2026 (arXiv 2506.01318), cosine prototypes of a forgotten class; there
    p has norm 1 whatever w's, and only the forgotten class's row moves; here every class has wrong labels, so all do.

    Args:
        examples_per_class: k; where fewer are shown, all of them (the report says how many).
        alphas: how far rows are moved, in (0, 1]; 1 replaces the classifier.
        draws: of the k examples; their mean and standard deviation are reported. One where k takes all.
        examples: most scored of each kind, noisy and validation.
    """

    settings = ("k", "alpha")

    examples_per_class: tuple[int, ...] = (1, 5, 20)
    alphas: tuple[float, ...] = (0.25, 0.5, 1.0)
    draws: int = 5
    examples: int = 2000

    def __post_init__(self):
        if not self.examples_per_class or not self.alphas:
            raise ValueError("examples_per_class and alphas need at least one value each")
        if wrong := [k for k in self.examples_per_class if k < 1]:
            raise ValueError(f"examples_per_class: {wrong[0]} examples have no mean; give positive numbers")
        if wrong := [alpha for alpha in self.alphas if not 0 < alpha <= 1]:
            raise ValueError(f"alphas: {wrong[0]} is not a share of the way, in (0, 1]")
        check_counts(self, "draws", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the metrics of every k and alpha; alpha 0 is the model as it is."""
        start = time.perf_counter()
        shown, hidden = split(data.data, generator, data.known)
        orders = [torch.randperm(len(shown), generator=generator) for _ in range(self.draws)]
        shown_ND = features_of(model, data.data, shown).get(HEAD)
        if shown_ND is None:
            raise ValueError("there is no noisy example to be shown; prototypes need at least 1, and 1 to score")
        head = head_of(model)
        loaders = hidden_sets(data.data, hidden, self.examples)
        unmoved, rows, used = score(model, loaders, data.known), [], {}
        for k in self.examples_per_class:
            rows.append({"k": k, "alpha": 0.0, **unmoved})
            # Where k takes all that are shown, draws are the same: one will do.
            chosen = {
                frozenset(part.tolist()): part for part in (first_of_each(shown.given_label, o, k) for o in orders)
            }
            used[str(k)] = len(next(iter(chosen)))
            for alpha in self.alphas:
                draws = []
                for part in chosen.values():
                    w_KI = moved_rows(head.matrix(), shown_ND[part], shown.given_label[part], alpha)
                    twin = with_weights(model, dict(model.state_dict()) | head.state(w_KI))
                    draws.append(score(twin, loaders, data.known))
                rows.append({"k": k, "alpha": alpha, **mean_row(draws)})
        report = {
            "seconds": round(time.perf_counter() - start, 3),
            "shown": shown.index.tolist(),
            "scored": loaders[TRAIN].examples.index.tolist(),
            "used": used,
        }
        return AttackResult(rows, report)


def head_of(model: nn.Module) -> LinearMap:
    """Return the classifier, its bias the last column of its matrix."""
    name = anatomy_of(uncompiled(model)).head
    return linear_maps({name: uncompiled(model).get_submodule(name)}, bias=True)[name]


def first_of_each(label_N: Tensor, order_N: Tensor, k: int) -> Tensor:
    """Return the positions of the first k examples of each label in an order; fewer of a label that has fewer."""
    ordered = label_N[order_N]
    rank_N = (ordered[:, None] == ordered[None, :]).tril(-1).sum(1)  # how many of its label come before
    return order_N[rank_N < k]


def moved_rows(w_KI: Tensor, shown_ND: Tensor, label_N: Tensor, alpha: float) -> Tensor:
    """Return a classifier's rows moved towards the prototypes of their classes; a class without examples stays.

    Args:
        w_KI: weights K D, with the bias as a further column if there is one.
        shown_ND: features of examples.
        label_N: the labels that they stand for.
        alpha: how far, in [0, 1].
    """
    moved, width = w_KI.clone(), shown_ND.shape[1]
    for label in label_N.unique().tolist():
        prototype_D = shown_ND[(label_N == label).to(shown_ND.device)].mean(0)
        row_D = w_KI[label, :width]
        towards_D = prototype_D * (row_D.norm() / prototype_D.norm().clamp(min=1e-12))
        moved[label] = (1 - alpha) * w_KI[label]
        moved[label, :width] += alpha * towards_D
    return moved
