"""Models whose outputs are objects, made to return logits."""

from collections.abc import Callable

from torch import Tensor, nn


def with_logits(model: nn.Module, take: Callable[[object], Tensor] | None = None) -> nn.Module:
    """Make a model return logits B K, and return it; the names of its weights stay.

    Args:
        model: returns a tensor, an object that has ``logits``, or several things of which the first are the logits.
        take: takes the logits from what the model returns, in another way.
    """
    model.register_forward_hook(lambda module, inputs, output: (take or logits_of)(output))
    return model


def logits_of(output: object) -> Tensor:
    """Return the logits among what a model returns: itself, its attribute ``logits``, or its first part.

    Raises:
        ValueError: there is no tensor there.
    """
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise ValueError(f"the model returns a {type(output).__name__}, in which no logits are found; give logits=")
    return found
