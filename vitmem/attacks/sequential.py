"""Sequential edits: what is left of a model when the same edit is asked for again and again?"""

import time
from dataclasses import dataclass

import torch
from torch import nn

from vitmem.attacks.contract import Attack, AttackData, AttackResult
from vitmem.attacks.scoring import score, scoring_sets
from vitmem.editing.contract import EditDiverged
from vitmem.models.build import with_weights
from vitmem.options import check_counts


@dataclass(frozen=True)
class Sequential(Attack):
    """Apply the subject's own edit again to its result, several times; base and retrain have none and stay as they are.

    Curvature and other statistics are estimated anew from the edited model each time, and what an edit draws is drawn
    anew. Source: sustainability in MUSE
    (Shi et al. 2024, arXiv 2407.06460), translated: repeated requests, here of the same edit.

    Args:
        rounds: further applications.
        examples: most scored of each kind, noisy, clean training and validation.
    """

    settings = ("round",)
    version = 1

    rounds: int = 3
    examples: int = 2000

    def __post_init__(self):
        check_counts(self, "rounds", "examples")

    def apply(self, model: nn.Module, data: AttackData, generator: torch.Generator) -> AttackResult:
        """Return the metrics after each round; round 0 is the subject as it is."""
        start = time.perf_counter()
        loaders = scoring_sets(data.data, self.examples)
        rows, stopped = [{"round": 0, **score(model, loaders, data.known)}], ""
        for number in range(1, self.rounds + 1):
            if data.again is not None:
                try:
                    model = with_weights(model, data.again(model, number).state_dict)
                except EditDiverged as error:
                    stopped = f"round {number}: {error}"
                    break
            found = score(model, loaders, data.known) if data.again else _measured(rows[0])
            rows.append({"round": number, **found})
        report = {"seconds": round(time.perf_counter() - start, 3), "repeated": data.again is not None}
        return AttackResult(rows, {**report, "stopped": stopped})


def _measured(row: dict) -> dict:
    return {key: value for key, value in row.items() if key != "round"}
