"""Which training labels are probably wrong? Scores that do not know which are, and how well they find them.

Legend: E epochs, N training examples, D features, K classes, R draws.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitmem.analysis.answers import answers_of
from vitmem.analysis.contract import Analysis, AnalysisData, AnalysisResult, check_counts
from vitmem.analysis.ownership import ALL, owned
from vitmem.analysis.resample import auroc, auroc_interval
from vitmem.attacks.features import HEAD, features_of
from vitmem.curvature.collect import frozen, uncompiled
from vitmem.datamodules.batch import Examples
from vitmem.datamodules.module import MemorisationData
from vitmem.editing.kfac import EKFAC
from vitmem.evaluation.logistic import choose_l2, fit_logistic, log_probabilities, standardised


@dataclass(frozen=True)
class Detection(EKFAC, Analysis):
    """Rank training images as probably mislabelled, without using which are, and measure how well.

    Scores, higher is more suspect: ``loss`` and ``margin`` (the largest other logit less that of the given label) of
    the trained model; ``summed_loss`` over the epochs of training (CSL, 2025), and ``early_loss`` over their first
    fifth; ``low_curvature`` (share of the example's curvature outside the pairs that EK-FAC keeps at rho);
    ``curvature`` (its trace); ``input_curvature`` (Garg et al. 2024); ``cross_validated`` (cross-entropy of a logistic
    regression on the model's features, fitted to the other folds); ``confident_learning`` (cleanlab's label quality
    from those probabilities, where the extra ``detect`` is installed); ``flips_NAME`` (share of the strengths of an
    edit at which the given label is no longer said; not of one that was told which labels are wrong); ``random``,
    the null control. Scores of training and of edits are those of the base model alone. Where no true label is known,
    scores are stored and nothing is measured. Further options are those of ``ekfac``.

    Args:
        images: training examples that are ranked, drawn at random, at most so many.
        resamples: of the bootstrap.
        directions: random ones for ``input_curvature``; 0 leaves it out.
        step: of its finite difference, on the scale of pixels in [0, 1].
        folds: of ``cross_validated``.
    """

    settings = ("score",)
    version = 1

    rho: float = 0.9
    images: int = 5000
    resamples: int = 200
    directions: int = 10
    step: float = 1e-3
    folds: int = 5

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "images", "resamples")
        if self.directions < 0 or self.folds < 2 or not self.step > 0:
            raise ValueError(
                f"directions, folds and step are {self.directions}, {self.folds} and {self.step}; they must be at "
                "least 0, at least 2, and positive"
            )

    def apply(self, model: nn.Module, data: AnalysisData, generator: torch.Generator) -> AnalysisResult:
        """Return a row for each score, and the scores."""
        start = time.perf_counter()
        model = uncompiled(model)
        train = data.data.train_examples
        examples = data.drawn(train, self.images)
        scores = {
            **self._of_model(model, data, examples, generator),
            **(of_training(data.losses(), examples.index) if data.subject == "base" else {}),
            **(of_edits(data, examples) if data.subject == "base" else {}),
            "random": torch.rand(len(examples), generator=generator, dtype=torch.float64),
        }
        stored = {name: torch.full((len(train),), torch.nan) for name in scores}
        for name, score_N in scores.items():
            stored[name][examples.index] = score_N.float()
        known = examples.true_label >= 0
        rows = []
        if bool(examples.is_noisy.any()) and bool((known & ~examples.is_noisy).any()):
            rows = [
                {"score": name} | self.quality(score_N[known], examples.is_noisy[known], generator)
                for name, score_N in scores.items()
            ]
        report = {"seconds": time.perf_counter() - start, "examples": len(examples)}
        return AnalysisResult(rows, report, stored)

    def quality(self, score_N: Tensor, is_noisy_N: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Return area under the ROC curve, average precision, and misses when as many are flagged as are wrong."""
        from sklearn.metrics import average_precision_score

        score_N = score_N.nan_to_num(nan=float(score_N.nanmean()))
        area, low, high = auroc_interval(score_N, is_noisy_N, self.resamples, generator)
        wrong = int(is_noisy_N.sum())
        shuffled = torch.randperm(len(score_N), generator=generator)  # ties are broken at random
        flagged = shuffled[score_N[shuffled].sort(descending=True, stable=True).indices[:wrong]]
        return {
            "auroc": area,
            "auroc_low": low,
            "auroc_high": high,
            "average_precision": float(average_precision_score(is_noisy_N.numpy(), score_N.numpy())),
            "missed_at_budget": 1 - int(is_noisy_N[flagged].sum()) / wrong,
            "auroc_permuted": auroc(score_N, is_noisy_N[torch.randperm(len(score_N), generator=generator)]),
            "wrong": wrong,
            "examples": len(score_N),
        }

    def _of_model(
        self, model: nn.Module, data: AnalysisData, examples: Examples, generator: torch.Generator
    ) -> dict[str, Tensor]:
        said = answers_of(model, data.data, examples)
        curvature = data.curvature(model, self)
        kept = self.hard(curvature.layers)
        seen = owned(model, data, examples, curvature.layers, kept, kept, self.tokens)
        found = {
            "loss": said.loss(examples.given_label),
            "margin": -said.margin(examples.given_label),
            "low_curvature": seen.outside(ALL),
            "curvature": seen.trace(ALL),
        }
        if self.directions:
            found["input_curvature"] = input_curvature(
                model, data.data, examples, self.directions, self.step, generator
            )
        return found | cross_validated(model, data.data, examples, self.folds, generator)


def of_training(losses_EN: Tensor | None, index_N: Tensor) -> dict[str, Tensor]:
    """Return the losses summed over all epochs of training, and over the first fifth of them; nothing without any."""
    if losses_EN is None:
        return {}
    own_EN = losses_EN[:, index_N].double()
    first = max(1, len(own_EN) // 5)
    return {"summed_loss": own_EN.nansum(0), "early_loss": own_EN[:first].nansum(0)}


def of_edits(data: AnalysisData, examples: Examples) -> dict[str, Tensor]:
    """Return, for each kind of edit with several strengths, the share of them at which the given label is not said.

    Edits that were told which labels are wrong, or right, would tell it again.
    """
    families: dict[str, list[Tensor]] = {}
    for edit_id, (name, option, _, sees) in data.edits().items():
        if not option or sees & {"forget", "retain"} or (table := data.training_table(edit_id)) is None:
            continue
        flipped_N = torch.from_numpy(table.prediction)[examples.index] != examples.given_label
        families.setdefault(name, []).append(flipped_N.double())
    return {f"flips_{name}": torch.stack(parts).mean(0) for name, parts in families.items() if len(parts) > 1}


def input_curvature(
    model: nn.Module,
    data: MemorisationData,
    examples: Examples,
    directions: int,
    step: float,
    generator: torch.Generator,
) -> Tensor:
    """Return N, mean over random directions v of |grad L(x + step v) - grad L(x)| / step, in nats per pixel value.

    L is an example's cross-entropy at its given label, v has entries of 1 and -1. Source: Garg, Ravikumar & Roy 2024.

    Args:
        model: the classifier; it is left as it was.
        data: serves the images.
        examples: whose curvature.
        directions: how many v.
        step: on the scale of pixels in [0, 1].
        generator: draws the directions.
    """
    device, parts = next(model.parameters()).device, []
    std = torch.tensor(data.mean_std[1], device=device).view(1, -1, 1, 1)

    def gradient(image_BCHW: Tensor, label_B: Tensor) -> Tensor:
        image_BCHW = image_BCHW.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(image_BCHW), label_B, reduction="sum")
        return torch.autograd.grad(loss, image_BCHW)[0] / std

    with frozen(model), torch.enable_grad():
        for batch in data.loader(examples):
            image, label = batch.image.to(device), batch.given_label.to(device)
            before, total = gradient(image, label), torch.zeros(len(label), dtype=torch.float64)
            for _ in range(directions):
                sign = torch.randint(2, image.shape, generator=generator).to(image) * 2 - 1
                change = (gradient(image + step * sign / std, label) - before) / step
                total += change.flatten(1).norm(dim=1).double().cpu()
            parts.append(total / directions)
    return torch.cat(parts)


def cross_validated(
    model: nn.Module, data: MemorisationData, examples: Examples, folds: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return scores of probabilities that a logistic regression on the model's features gives to held-out folds.

    Args:
        model: the classifier, whose features may know the labels; the regression has not seen those of its fold.
        data: serves the images.
        examples: what is ranked.
        folds: how many parts.
        generator: deals the examples to the folds.
    """
    classes, label_N = data.data.num_classes, examples.given_label
    x_ND = features_of(model, data, examples)[HEAD].cpu().double()
    l2 = choose_l2(standardised(x_ND)[0], label_N, classes, generator)
    fold_N = torch.randperm(len(label_N), generator=generator) % folds
    log_p_NK = torch.zeros(len(label_N), classes, dtype=torch.float64)
    for fold in range(folds):
        fitted, held = fold_N != fold, fold_N == fold
        fitted_x, held_x = standardised(x_ND[fitted], x_ND[held])
        weight = torch.ones(1, int(fitted.sum()), dtype=torch.float64)
        coefficient = fit_logistic(fitted_x, label_N[fitted][None], weight, l2, classes)
        log_p_NK[held] = log_probabilities(held_x, coefficient)[0]
    found = {"cross_validated": -log_p_NK.gather(1, label_N[:, None])[:, 0]}
    return found | confident_learning(log_p_NK.exp(), label_N)


def confident_learning(p_NK: Tensor, label_N: Tensor) -> Mapping[str, Tensor]:
    """Return cleanlab's label quality, turned so that higher is more suspect; nothing where it is not installed."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    quality = get_label_quality_scores(label_N.numpy(), p_NK.numpy(), adjust_pred_probs=False)
    return {"confident_learning": 1 - torch.from_numpy(quality)}
