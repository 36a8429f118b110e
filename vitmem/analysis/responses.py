"""Responses of a layer's components to images, summed or handed over, and whose images are the strongest.

Legend: N images, B images of a batch, T tokens, I inputs, R components of a layer.
"""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from vitmem.curvature.collect import sweep_inputs
from vitmem.curvature.layers import LinearMap
from vitmem.curvature.moments import Tokens
from vitmem.datamodules.batch import Batch, Examples
from vitmem.datamodules.module import MemorisationData


class Means:
    """Sums of responses, by layer."""

    def __init__(self):
        self.sums: dict[str, list] = {}

    def add(self, name: str, response_BR: Tensor) -> None:
        """Add the responses of some images."""
        new = [len(response_BR), response_BR.double().sum(0), response_BR.double().square().sum(0)]
        old = self.sums.get(name)
        self.sums[name] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Return mean R and its standard error R."""
        number, sum_R, squares_R = self.sums[name]
        mean_R = sum_R / number
        variance_R = (squares_R / number - mean_R.square()).clamp(min=0) * number / max(1, number - 1)
        return mean_R, (variance_R / number).sqrt()


def responses(
    model: nn.Module,
    data: MemorisationData,
    examples: Examples,
    maps: Mapping[str, LinearMap],
    axes: Mapping[str, Tensor],
    tokens: Tokens,
    on_response: Callable[[str, Tensor], None],
) -> None:
    """Hand over the mean squared responses B R of each layer to batches of images, on the CPU.

    Args:
        model: the classifier; it is left as it was.
        data: serves the images.
        examples: which.
        maps: layers to watch.
        axes: by layer, directions I R of its inputs.
        tokens: which positions count.
        on_response: called with a layer's name and its responses.
    """
    count = 0  # images of the batch: windows of an image come one after the other, as if they were images

    def counted() -> Iterator[Batch]:
        nonlocal count
        for batch in data.loader(examples):
            count = len(batch.index)
            yield batch

    def on_input(name: str, a_BTI: Tensor) -> None:
        squares_BTR = (a_BTI @ axes[name].to(a_BTI)).square()
        on_response(name, squares_BTR.reshape(count, -1, squares_BTR.shape[2]).mean(1).cpu())

    sweep_inputs(model, counted(), maps, tokens, on_input)


def share_of(top: Tensor, is_member_N: Tensor) -> dict[str, float]:
    """Return the share of members among some positions, the share among all, and a two-sided hypergeometric p-value.

    Args:
        top: positions.
        is_member_N: bool.
    """
    from scipy.stats import hypergeom

    members, count = int(is_member_N.sum()), len(top)
    found = int(is_member_N[top].sum())
    null = hypergeom(len(is_member_N), members, count)
    low, high = (float(null.ppf(q)) / count for q in (0.025, 0.975))
    p = min(1.0, 2 * min(float(null.cdf(found)), float(null.sf(found - 1))))
    share = members / len(is_member_N)
    return {"share": found / count, "null": share, "null_low": low, "null_high": high, "p": p}
