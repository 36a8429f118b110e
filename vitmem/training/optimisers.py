"""The optimisers of a training, and the step of sharpness-aware minimisation that any of them can take.

Decay is decoupled in AdamW and Muon; SGD's is added to the gradient, as is usual with it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vitmem.training.config import TrainConfig

MOMENTUM = 0.9  # of SGD, Nesterov's
MUON_MOMENTUM = 0.95  # Nesterov's, its authors' value


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


class MuonWithAdamW(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for the matrices inside a model, AdamW for everything else, as its authors use it.

    A step of Muon is scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that both share one learning
    rate. It is that of ``torch.optim.Muon``, which multiplies in bfloat16 alone: many processors take a hundred times
    as long for that as for float32, which is used here on all but GPUs.

    Args:
        matrices: parameter groups of Muon.
        others: parameter groups of AdamW.
        lr: learning rate.
        fused: AdamW's whole step in one kernel.
    """

    def __init__(self, matrices: list[dict], others: list[dict], lr: float, fused: bool):
        super().__init__([{**group, "muon": True} for group in matrices] + others, lr=lr, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Step the matrices, then the rest."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = [(group, p) for group in self.param_groups if "muon" in group for p in group["params"]]
        held = [(p, p.grad) for _, p in matrices]
        for group, p in matrices:
            if p.grad is None:
                continue
            own = self.state[p]
            if not own:  # AdamW looks for the steps when it reads a checkpoint
                own.update(step=torch.tensor(0.0), momentum_buffer=torch.zeros_like(p.grad))
            own["step"] += 1
            momentum = own["momentum_buffer"]
            momentum.lerp_(p.grad, 1 - MUON_MOMENTUM)
            update = orthogonalised(p.grad.lerp(momentum, MUON_MOMENTUM))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-0.2 * group["lr"] * max(p.shape) ** 0.5)
            p.grad = None  # AdamW passes it over
        super().step()
        for p, gradient in held:
            p.grad = gradient
        return loss


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return a matrix with the singular vectors of another and singular values of about 1 (0.7 to 1.2).

    Five rounds of the quintic Newton-Schulz iteration of Jordan et al. (2024).
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide.bfloat16() if wide.is_cuda else wide.float()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


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
