"""Membership inference on (image, given label): does the model still show that it was trained on the wrong labels?

Members are the noisy training examples; non-members are validation images with wrong labels from the same noise.
"""

import io
import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from vitmem.attacks import scores as s
from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.shadows import Pairs, Shadow, ShadowCache, confidences, make_pairs
from vitmem.evaluation.predict import TRAIN, VALIDATION
from vitmem.files import write_atomically

FALSE_POSITIVE_RATES = (0.01, 0.001)


@dataclass(frozen=True)
class Membership(Attack):
    """Membership inference by loss and, with shadow models, by LiRA and RMIA.

    Each row is one score: ``loss``, and with shadow models ``lira`` and ``lira_offline`` (a variance for each pair),
    the same with ``_fixed`` (one variance, better for fewer than 64 shadow models) and ``rmia`` (offline).
    ``priv_leak`` compares with the AUC on retrain. Shadow models follow the run's recipe, not the edit. Defaults: as in
    the authors' code; until they were options, ``fixed`` was within and ``rmia_population`` all.

    Args:
        shadows: shadow models to use, an even number; each that is missing is trained, which takes as long as the run.
        rmia_a: of RMIA, how a probability without the example stands for one with and without it, in [0, 1].
        fixed: the one variance: pooled (of all values of shadow models that saw their pair in one, offline of those
            that did not) or within (the mean of the pairs' variances, for in and out by itself).
        rmia_population: over which shadow models RMIA averages a pair that none of them saw: upper (the half that is
            surest of it) or all.
    """

    settings = ("score",)

    shadows: int = 0
    rmia_a: float = 0.3
    fixed: Literal["pooled", "within"] = "pooled"
    rmia_population: s.Population = "upper"

    def __post_init__(self):
        if self.shadows < 0 or self.shadows % 2:
            raise ValueError(
                f"shadows is {self.shadows}; use 0 or an even number, so that each example is left out by half"
            )
        if not 0 <= self.rmia_a <= 1:
            raise ValueError(f"rmia_a is {self.rmia_a}; it must be in [0, 1]")
        if self.fixed not in ("pooled", "within"):
            raise ValueError(f"fixed is {self.fixed!r}; choose pooled or within")
        if self.rmia_population not in ("upper", "all"):
            raise ValueError(f"rmia_population is {self.rmia_population!r}; choose upper or all")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return one row for each score; the scores of every example go to ``membership/<subject>.npz``."""
        start = time.perf_counter()
        pairs, shadows, report = make_pairs(data.data), [], {}
        if self.shadows:
            if data.recipe is None:
                raise ValueError(
                    "it is not known how this model was trained, so shadows have no recipe; set shadows to 0"
                )
            cache = ShadowCache(data.data, pairs, data.recipe, data.folder, data.seed)
            shadows = cache.get(self.shadows)
            report["memorization"] = keep_memorization(pairs, shadows, cache.folder)
        found = self.scores(model, data, pairs, shadows)
        retrain = data.reference("retrain") if data.subject != "retrain" else None
        found_retrain = self.scores(retrain, data, pairs, shadows) if retrain is not None else {}
        if data.subject == "retrain":
            found_retrain = found
        rows, undefined = [], {}
        for name, values in found.items():
            reference = audit(*found_retrain[name])["auc"] if found_retrain else math.nan
            rows.append({"score": name, **audit(*values, reference)})
            undefined |= {f"{name}.{metric}": why for metric, why in reasons(rows[-1], bool(found_retrain)).items()}
        _keep_scores(pairs, found, data)
        report |= {"num_shadows": len(shadows), "undefined": undefined, "seconds": time.perf_counter() - start}
        return AttackResult(rows, report)

    def scores(
        self, model: nn.Module, data: AttackData, pairs: Pairs, shadows: list[Shadow]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the scores of members and of non-members, by the score's name."""
        noisy = pairs.train.to_forget.numpy()
        asked = (pairs.train.subset(pairs.train.to_forget), pairs.candidates, pairs.population)
        phi_M, phi_N, phi_Z = (confidences(model, data.data, part)[0] for part in asked)
        phi = np.concatenate([phi_M, phi_N])
        from scipy.special import log_expit

        found = {"loss": log_expit(phi)}
        if shadows:
            p = len(noisy) + len(phi_N)
            chosen = np.concatenate([np.flatnonzero(noisy), np.arange(len(noisy), p)])
            shadow_SQ = np.stack([shadow.phi for shadow in shadows]).astype(np.float64)
            shadow_SP, kept_SP = shadow_SQ[:, chosen], np.stack([shadow.kept for shadow in shadows])[:, chosen]
            variances: dict[str, s.Variance] = {"": "pair", "_fixed": self.fixed}
            for ending, variance in variances.items():
                for online in (True, False):
                    name = "lira" + "_offline" * (not online) + ending
                    found[name] = s.lira(phi, shadow_SP, kept_SP, online=online, variance=variance)
            found["rmia"] = s.rmia(
                phi, shadow_SP, kept_SP, phi_Z, shadow_SQ[:, p:], a=self.rmia_a, population=self.rmia_population
            )
        return {name: (values[: len(phi_M)], values[len(phi_M) :]) for name, values in found.items()}


def audit(member_M: np.ndarray, nonmember_N: np.ndarray, auc_retrain: float = math.nan) -> dict:
    """Return what a score reveals; pairs whose score is undefined are left out, and the counts say so."""
    member_M, nonmember_N = (values[~np.isnan(values)] for values in (member_M, nonmember_N))
    area, low, high = s.auc_interval(member_M, nonmember_N)
    return {
        "auc": area,
        "auc_low": low,
        "auc_high": high,
        "balanced_accuracy": s.balanced_accuracy(member_M, nonmember_N),
        **{f"tpr_at_fpr_{fpr:g}": s.tpr_at_fpr(member_M, nonmember_N, fpr) for fpr in FALSE_POSITIVE_RATES},
        "auc_retrain": auc_retrain,
        "priv_leak": s.priv_leak(area, auc_retrain),
        "num_members": len(member_M),
        "num_nonmembers": len(nonmember_N),
    }


def reasons(row: dict, has_retrain: bool) -> dict[str, str]:
    """Return why metrics of a row are undefined."""
    members, nonmembers = row["num_members"], row["num_nonmembers"]
    counts = f"there are {members} members and {nonmembers} non-members with a score"
    why = {}
    for name, value in row.items():
        if not (isinstance(value, float) and math.isnan(value)):
            continue
        if not members or not nonmembers:
            why[name] = counts
        elif name.startswith("tpr_at_fpr_"):
            why[name] = f"needs at least {1 / float(name[11:]):.0f} non-members; there are {nonmembers}"
        elif name in ("auc_retrain", "priv_leak"):
            why[name] = "the AUC on retrain is 1" if has_retrain else "there is no retrain model"
        else:
            why[name] = f"needs 2 of each; {counts}"
    return why


def keep_memorization(pairs: Pairs, shadows: list[Shadow], folder) -> dict:
    """Write ``memorization.npz`` (the estimate for every pair of the pool) and return its mean over groups."""
    kept_SP = np.stack([shadow.kept for shadow in shadows])
    value_P = s.memorization(np.stack([shadow.correct for shadow in shadows])[:, : pairs.pool_size], kept_SP)
    noisy, clean = pairs.train.to_forget.numpy(), pairs.train.to_retain.numpy()
    candidate = np.ones(len(pairs.candidates), bool)
    columns = _columns(pairs.train, pairs.candidates)
    _save(folder / "memorization.npz", {**columns, "memorization": value_P.astype(np.float32)})
    groups = {
        "noisy": np.concatenate([noisy, ~candidate]),
        "clean": np.concatenate([clean, ~candidate]),
        "candidates": np.concatenate([np.zeros_like(noisy), candidate]),
    }
    found = {name: value_P[chosen & ~np.isnan(value_P)] for name, chosen in groups.items()}
    return {name: {"mean": float(v.mean()) if len(v) else math.nan, "n": len(v)} for name, v in found.items()}


def _keep_scores(pairs: Pairs, found: dict[str, tuple[np.ndarray, np.ndarray]], data: AttackData) -> None:
    folder = data.folder / "membership"
    folder.mkdir(parents=True, exist_ok=True)
    columns = _columns(pairs.train.subset(pairs.train.to_forget), pairs.candidates)
    values = {name: np.concatenate(pair).astype(np.float32) for name, pair in found.items()}
    _save(folder / f"{data.subject}.npz", columns | values)


def _columns(train, candidates) -> dict[str, np.ndarray]:
    split = np.repeat(np.array([TRAIN, VALIDATION], np.int8), [len(train), len(candidates)])
    names = ("index", "given_label", "true_label")
    return {"split": split, **{n: torch.cat([getattr(train, n), getattr(candidates, n)]).numpy() for n in names}}


def _save(path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
