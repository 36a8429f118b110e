"""Task-vector negation: learn wrong labels on purpose, then go the other way."""

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitmem.curvature.collect import uncompiled
from vitmem.datamodules.batch import Batch, Examples, InMemoryLoader
from vitmem.editing.contract import Edit, EditResult
from vitmem.editing.data import EditData
from vitmem.editing.parameters import chosen_parameters, descend, draw_seed, result, working_copy
from vitmem.options import check_counts


@dataclass(frozen=True)
class TaskVector(Edit):
    """Subtract what fine-tuning on a proxy set with wrong labels adds: theta - scale mean(theta_p - theta).

    Source: Mozafari et al. 2025 (CUTS, arXiv 2511.18660): the proxy are held-out images whose labels are all replaced
    by other classes, drawn evenly, here the validation images of even index; reported validation accuracy includes
    them. With proxy forget, the known wrong examples themselves (plain task-vector negation). The authors choose the
    scale by how well predictions agree with neighbours; here it is an option. Their warm-up and decay of the rate are
    left out.

    Args:
        layers: glob patterns over layer names, separated by commas; ``*`` takes in norms, positions and tokens too.
        scale: length of the step away from the proxy, positive; the authors try 0.05 to 4.
        proxy: what is fine-tuned on: validation (even half, wrong labels drawn) or forget (known wrong examples).
        draws: fine-tunings that are averaged, each with other wrong labels and another order, at least 1.
        epochs: passes over the proxy, at least 1; the authors take 60 for ViT-B/16.
        lr: of AdamW, positive; the authors take 1e-4 for ViT-B/16.
        batch_size: images in a step.
    """

    main_option = "scale"
    search: ClassVar[dict[str, tuple]] = {"scale": ("uniform", 0.05, 4.0), "epochs": ("choice", 20, 60)}

    layers: str = "*"
    scale: float = 1.0
    proxy: Literal["validation", "forget"] = "validation"
    draws: int = 2
    epochs: int = 60
    lr: float = 1e-4
    batch_size: int = 64

    def __post_init__(self):
        for option in ("scale", "lr"):
            if not getattr(self, option) > 0:
                raise ValueError(f"{option} is {getattr(self, option)}; it must be positive")
        check_counts(self, "draws", "epochs", "batch_size")

    @property
    def sees(self) -> frozenset[str]:
        """The proxy set."""
        return frozenset({self.proxy})

    def check(self, model: nn.Module) -> None:
        """Refuse patterns that match nothing."""
        chosen_parameters(model, self.layers)

    def apply(self, model: nn.Module, data: EditData, generator: torch.Generator) -> EditResult:
        """Return theta - scale tau."""
        start = time.perf_counter()
        names = chosen_parameters(uncompiled(model), self.layers)
        before = {name: uncompiled(model).get_parameter(name).detach() for name in names}
        device = next(model.parameters()).device
        tau = {name: torch.zeros_like(value) for name, value in before.items()}
        for _ in range(self.draws):
            twin = working_copy(model, names)
            parameters = [twin.get_parameter(name) for name in names]
            loader = self.proxy_set(data, data.classes, generator)

            def loss(batch: Batch, twin=twin) -> Tensor:
                logits_BK = twin(batch.image.to(device))
                return F.cross_entropy(logits_BK, batch.given_label.to(device))

            descend(loader, loss, torch.optim.AdamW(parameters, lr=self.lr), self.epochs)
            for name, parameter in zip(names, parameters, strict=True):
                tau[name] += (parameter.detach() - before[name]) / self.draws
        changed = {name: value - self.scale * tau[name] for name, value in before.items()}
        return result(model, changed, start, 2 * sum(value.numel() for value in changed.values()))

    def proxy_set(self, data: EditData, classes: int, generator: torch.Generator) -> InMemoryLoader:
        """Return a shuffled loader of examples whose given labels are all wrong.

        Args:
            data: serves the images.
            classes: number of classes K.
            generator: of the labels and of the order.
        """
        if self.proxy == "forget":
            return data.forget(self.batch_size, shuffle=True, seed=draw_seed(generator))
        loader = data.validation(self.batch_size)
        held_out = loader.examples
        shift = torch.randint(1, classes, (len(held_out),), generator=generator)
        wrong = (held_out.true_label + shift) % classes
        examples = Examples(held_out.image, wrong, held_out.true_label, held_out.index)
        return data.serve(examples, self.batch_size, shuffle=True, seed=draw_seed(generator))
