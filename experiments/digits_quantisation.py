"""Edits of digits_quantisation.yaml: NPO under conditions in which rounding its weights could bring the memory back.

    vitmem run experiments/digits_quantisation.yaml --plugin experiments/digits_quantisation.py
    python experiments/digits_quantisation.py runs/digits_quantisation

The second prints a table in Markdown: for each edit memorised and validation accuracy, then at each width of the
rounded weights the share of weights that round as before the edit, memorised accuracy, and the share of the memory that
comes back, (rounded - edited) / (base, rounded - edited): means over seeds, the last with sample sd. With --csv FILE
also by seed.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vitmem.attacks.quantize import quantized
from vitmem.curvature.layers import linear_maps
from vitmem.editing.finetune import NPO
from vitmem.editing.loop import Objective
from vitmem.evaluation.recovery import MEMORY
from vitmem.figures.tables import mean_of, read_attacks, read_results
from vitmem.files import write_atomically
from vitmem.models.build import with_weights
from vitmem.models.layers import select_layers


@dataclass(frozen=True)
class NPOOf(NPO):
    """NPO that starts on a grid of levels, moves through adapters, or takes steps of one size.

    Args:
        grid: bits, one scale per row, to which all matrices are rounded before; 0 leaves them as they are.
        rank: of adapters (W + X V^T with a fixed random V, merged in the end) in place of whole matrices, with
            everything else frozen; 0 trains all.
        sign: step by the sign of the gradient.
        frozen: biases, norms, positions and tokens, which rounding leaves alone, stay as they are.
    """

    grid: int = 0
    rank: int = 0
    sign: bool = False
    frozen: bool = False

    def apply(self, model, data, generator):
        """Return the trained weights."""
        if self.grid:
            state = dict(model.state_dict())
            for layer in linear_maps(select_layers(model, "*")).values():
                state |= layer.state(quantized(layer.matrix(), self.grid))
            model = with_weights(model, state)
        return super().apply(model, data, generator)

    def student(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return the copy that is trained; only its matrices are, with adapters or where the rest is frozen."""
        student = super().student(model, generator)
        if self.rank or self.frozen:
            student.requires_grad_(False)
            for layer in select_layers(student, "*").values():
                layer.weight.requires_grad_(True)
        return student

    def objective(self, student, model, data, generator) -> Objective:
        """NPO's, with the change of every matrix kept within its adapter."""
        objective = super().objective(student, model, data, generator)
        return replace(objective, after_step=adapted(student, self.rank, generator)) if self.rank else objective

    def make_optimiser(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """Adam without a memory is the sign of the gradient."""
        if not self.sign:
            return super().make_optimiser(parameters)
        return torch.optim.Adam(parameters.values(), lr=self.lr, betas=(0.0, 0.0), eps=1e-30)


def adapted(student: nn.Module, rank: int, generator: torch.Generator):
    """Return what keeps the change of every matrix within a random subspace of its inputs, after every step."""
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer in select_layers(student, "*").values():
        w_OI = layer.weight.detach().flatten(1)
        v_IR, _ = torch.linalg.qr(torch.randn(w_OI.shape[1], min(rank, w_OI.shape[1]), generator=generator))
        kept.append((layer.weight, w_OI.clone(), v_IR.to(w_OI)))

    @torch.no_grad()
    def project() -> None:
        for weight, start_OI, v_IR in kept:
            change_OI = weight.flatten(1) - start_OI
            weight.copy_((start_OI + change_OI @ v_IR @ v_IR.T).view_as(weight))

    return project


EDITS = {"npo_of": NPOOf}


def by_setting(rows: list[dict]) -> dict[tuple, dict]:
    """Return memorised accuracy and ``same_bucket`` of rounded models by id, seed, bits and group."""
    found: dict[tuple, dict] = {}
    for row in rows:
        if row["name"] == "quantize" and row["metric"] in (MEMORY, "same_bucket"):
            key = (row["id"], int(row["seed"]), int(row["bits"]), str(row["group"]))
            found.setdefault(key, {})[row["metric"]] = row["value"]
    return found


def line(own: dict[int, dict], rounded: dict[tuple, dict], setting: tuple) -> tuple[str, list[str]]:
    """Return the cell of an edit at one width, and its numbers by seed.

    Args:
        own: rows of the results table by seed.
        rounded: see ``by_setting``.
        setting: bits and group.
    """
    back, there, lines = [], [], []
    for seed, row in own.items():
        here, base = (rounded[(i, seed, *setting)] for i in (row["id"], "base"))
        lost = base[MEMORY] - row[MEMORY]
        back.append((here[MEMORY] - row[MEMORY]) / lost if lost > 0.05 else math.nan)
        there.append(here)
        numbers = (row[MEMORY], row["validation_accuracy"], here["same_bucket"], here[MEMORY], back[-1])
        before, kept, same, after, returned = ("" if math.isnan(n) else f"{n:.4f}" for n in numbers)
        lines.append(f"{row['id']},{seed},{before},{kept},{setting[0]},{setting[1]},{same},{after},{returned}")
    share, memory = (mean_of(h[m] for h in there).mean for m in ("same_bucket", MEMORY))
    mean, sd, _ = mean_of(back)
    return f"{share:.3f}: {memory:.3f}" + ("" if math.isnan(mean) else f" ({mean:+.2f} ± {sd:.2f})"), lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the experiment")
    parser.add_argument("--csv", type=Path, help="file to write")
    given = parser.parse_args()
    rounded = by_setting(read_attacks(given.folder / "attacks.csv"))
    results = read_results(given.folder / "results.csv")
    settings = list(dict.fromkeys(key[2:] for key in rounded))
    titles = [f"{bits} bits" if group == "row" else f"{bits} bits, groups of {group}" for bits, group in settings]
    print("| edit | memorized | validation | " + " | ".join(titles) + " |\n" + "|---" * (len(titles) + 3) + "|")
    lines = ["id,seed,memorized,validation,bits,group,same_bucket,memorized_rounded,returned"]
    for name in dict.fromkeys(row["id"] for row in results):
        own = {int(row["seed"]): row for row in results if row["id"] == name}
        cells = [f"{mean_of(r[m] for r in own.values()).mean:.3f}" for m in (MEMORY, "validation_accuracy")]
        for setting in settings:
            cell, numbers = line(own, rounded, setting)
            cells.append(cell)
            lines += numbers
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.csv:
        write_atomically(given.csv, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
