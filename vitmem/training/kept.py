"""What a training leaves beside its weights: checkpoints, each example's losses, and weights along the way.

Legend: E epochs, N training examples.
"""

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitmem.files import Damaged

LAST_CHECKPOINT = Path("checkpoints/last.ckpt")
PREVIOUS_CHECKPOINT = Path("checkpoints/previous.ckpt")
LOSSES = "losses.safetensors"
KEPT = "epochs"  # folder of the weights along the way
_EPOCH = re.compile(r"(\d{4,})\.safetensors")


def kept_epochs(folder: Path) -> dict[int, Path]:
    """Return the files of the weights that a training kept, by the number of epochs after which they are."""
    found = ((_EPOCH.fullmatch(path.name), path) for path in (folder / KEPT).glob("*.safetensors"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read_losses(folder: Path) -> Tensor | None:
    """Return the losses E N of a run folder, in nats; None if its training kept none.

    Raises:
        Damaged: the file cannot be read.
    """
    path = folder / LOSSES
    if not path.is_file():
        return None
    try:
        losses_EN = load_file(path)["losses"]
    except (OSError, KeyError, SafetensorError) as error:
        raise Damaged(f"{path} cannot be read ({error}); restore it, or train again with --force") from error
    if losses_EN.ndim != 2:
        raise Damaged(f"{path} has losses of shape {tuple(losses_EN.shape)}; it must hold epochs x examples")
    return losses_EN
