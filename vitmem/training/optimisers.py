"""The optimisers of a training, and the step of sharpness-aware minimisation that any of them can take.

Decay is decoupled in AdamW and Muon; SGD's is added to the gradient, as is usual with it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vitmem.training.config import TrainConfig

MOMENTUM = 0.9  # of SGD, Nesterov's; Muon has its authors' 0.95


def optimiser_of(
    train: TrainConfig, named: Sequence[tuple[str, Tensor]], decayed: set[str], hidden: set[str], fused: bool
) -> torch.optim.Optimizer:
    """Return the optimiser of a training.

    Args:
        train: its options.
        named: parameters that are trained, with their names.
        decayed: names of those that are decayed.
        hidden: names of matrices inside the model, which Muon orthogonalises; the others are AdamW's.
        fused: one kernel for a whole step, where the optimiser has it.
    """

    def groups(chosen: Callable[[str], bool]) -> list[dict]:
        return [
            {
                "params": [p for name, p in named if chosen(name) and (name in decayed) is decay],
                "weight_decay": train.weight_decay if decay else 0.0,
            }
            for decay in (True, False)
        ]

    if train.optimiser == "sgd":
        return torch.optim.SGD(groups(lambda name: True), lr=train.lr, momentum=MOMENTUM, nesterov=True, fused=fused)
    if train.optimiser == "muon":
        matrices = [group for group in groups(lambda name: name in hidden) if group["params"]]
        return MuonWithAdamW(matrices, groups(lambda name: name not in hidden), train.lr, fused)
    return torch.optim.AdamW(groups(lambda name: True), lr=train.lr, fused=fused)


def hidden_matrices(model: nn.Module) -> set[str]:
    """Return the names of the weights of linear layers inside a model of timm: not of its classifier."""
    last = {id(part) for part in model.get_classifier().modules()} if hasattr(model, "get_classifier") else set()
    layers = ((name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear))
    return {f"{name}.weight" for name, part in layers if id(part) not in last}


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the matrices inside a model, AdamW for everything else, as its authors use it.

    A step of Muon is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both share one learning
    rate.

    Args:
        matrices: parameter groups of Muon.
        others: parameter groups of AdamW.
        lr: learning rate.
        fused: AdamW's whole step in one kernel.
    """

    def __init__(self, matrices: list[dict], others: list[dict], lr: float, fused: bool):
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, fused=fused),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Step both; their groups and state are this optimiser's, also after a checkpoint was read."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        muon, adamw = self._parts
        muon.state = adamw.state = self.state
        muon.param_groups = [group for group in self.param_groups if "ns_steps" in group]
        adamw.param_groups = [group for group in self.param_groups if "ns_steps" not in group]
        muon.step()
        adamw.step()
        return loss


@torch.no_grad()
def ascend(model: nn.Module, radius: float) -> Callable[[], None]:
    """Move weights so far along their gradient, and return what brings them back (Foret et al. 2021, arXiv 2010.01412).

    Args:
        model: whose parameters have gradients.
        radius: length of the move, over all parameters together (the paper's rho).
    """
    moved = [(p, p.clone()) for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p, _ in moved]))
    for p, _ in moved:
        p.add_(p.grad * (radius / (norm + 1e-12)))

    @torch.no_grad()
    def back() -> None:
        for p, before in moved:
            p.copy_(before)

    return back
