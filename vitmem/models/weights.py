"""Files of weights, in and out.

Weights to start from are a file that timm or vitmem wrote, resized by timm's own code where the image size differs.
"""

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vitmem.files import load_json, mistaken, to_json, write_together
from vitmem.models import build
from vitmem.models.foreign import check_description, create_foreign
from vitmem.registry import Unknown

SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin")
_USUAL = ("model.safetensors", "pytorch_model.bin")  # what hubs call the file
_HEAD = "head."
_SPARE = ("head", "decoder", "mask_token")  # what a model loses without changing what its blocks compute
_FAMILIES = {  # a part of a tensor's name -> whose names those are
    "conv_proj.weight": "torchvision's",
    "encoder.layers.encoder_layer_0.": "torchvision's",
    "embeddings.patch_embeddings.": "Hugging Face Transformers'",
    "encoder.layer.0.attention.": "Hugging Face Transformers'",
}
_INPUT = "patch_embed.proj.weight"
_CUT = re.compile(r"\beof\b|truncated|ran out of input|incomplete|too ?small|header ?length")  # libraries say it so


def find_weights(path: str | Path, option: str = "") -> Path:
    """Return the file of weights that a path names: itself, or that of a folder.

    Args:
        path: file or folder.
        option: with which it was given, for errors.

    Raises:
        ValueError: there is none, or there are several.
    """
    found, where = Path(path).expanduser(), f"{option}: " if option else ""
    if found.is_dir():
        usual = [found / name for name in _USUAL if (found / name).is_file()]
        files = usual[:1] or sorted(f for f in found.iterdir() if f.name.endswith(SUFFIXES) and f.is_file())
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{where}{found} holds {len(files)} files of weights ({names}); name one file")
        return files[0]
    if not found.is_file():
        raise ValueError(
            f"{where}there is no file {found}; give weights that timm saved, a vitmem run, or a folder of a hub"
        )
    if not found.name.endswith(SUFFIXES):
        raise ValueError(f"{where}{found} does not end in {', '.join(SUFFIXES)}, which are the known forms")
    return found


def read_pretrained(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a file that fit a model, and what they leave out.

    Position and patch embeddings of another size are resampled, colour filters are summed for grey images. A head for
    another number of classes is left out, and so are blocks beyond the model's depth and what only pretraining uses;
    other tensors that the model lacks (LayerScale, norms of queries and keys) are an error, since its blocks would
    compute something else.

    Args:
        path: the file; nothing in it can run code.
        model: a vision transformer; its weights may be on the meta device.

    Raises:
        ValueError: the file is damaged, holds objects other than tensors or numbers that are not finite, or belongs to
            a model of another shape.
    """
    import timm

    found = _tensors(path, model)
    wanted = model.state_dict()
    channels = wanted[_INPUT].shape[1]
    if _INPUT in found and found[_INPUT].shape[1] == 3 != channels:
        found[_INPUT] = timm.models.adapt_input_conv(channels, found[_INPUT])
    other_head = [n for n in found if n.startswith(_HEAD) and n in wanted and found[n].shape != wanted[n].shape]
    if other_head:
        found = {name: value for name, value in found.items() if not name.startswith(_HEAD)}
    _check_fit(path, found, wanted)
    new, unused = ([name for name in ours if name not in theirs] for ours, theirs in ((wanted, found), (found, wanted)))
    notes = [f"{what}: {some(names)}" for what, names in (("start anew", new), ("are not used", unused)) if names]
    return {name: value for name, value in found.items() if name in wanted}, notes


def _tensors(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a file under timm's names, resampled to a model's sizes."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        found = timm.models.load_state_dict(str(path), device="cpu", weights_only=True)
        found = {name: value for name, value in checkpoint_filter_fn(found, model).items() if isinstance(value, Tensor)}
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{path} {wrong(path, error)}") from error
    if not found:
        raise ValueError(f"{path} holds no tensors by name; give weights that timm saved, or a vitmem run")
    return found


def wrong(path: Path, error: Exception) -> str:
    """Return in words why a file of weights cannot be read."""
    text = f"{error} {error.__cause__}".lower()
    with path.open("rb") as file:
        head = file.read(9)
    if words := mistaken(path):
        return f"cannot be read as weights: {words}"
    form = ".safetensors" if head[8:] == b"{" else ".pth" if head.startswith(b"PK") else path.suffix
    if ".safetensors" in (form, path.suffix) and form != path.suffix:
        return f"cannot be read as weights: by its content it is a {form} file; rename it"
    cut = isinstance(error, EOFError) or _CUT.search(text)
    if not head or cut or (head.startswith(b"PK") and not zipfile.is_zipfile(path)):
        return f"cannot be read as weights: it is truncated or damaged ({_short(error)}); copy or download it again"
    if "weights_only" in text or "weights only" in text:
        if "unsupported operand" in text or "invalid load key" in text:
            return "cannot be read as weights: it is no file of tensors that torch.save wrote"
        return "holds other things than tensors, which could run code; it is refused"
    if isinstance(error, AttributeError):
        return "holds no tensors by name; give weights that timm saved, or a vitmem run"
    return f"does not fit the model or is damaged: {_short(error)}"


def _check_fit(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise ValueError unless a file's tensors fill a model, but for its head, and none of its blocks has more."""
    families = [whose for part, whose in _FAMILIES.items() if any(part in name for name in found)]
    if families and _INPUT not in found:
        raise ValueError(
            f"{path} has {families[0]} names of tensors ({some(found)}), not timm's; give weights that timm saved, "
            "such as the model.safetensors of its repositories on huggingface.co/timm"
        )
    if not set(found) & set(wanted):
        raise ValueError(f"{path} has none of the model's tensors; it has {some(found)}")
    if missing := [name for name in wanted if name not in found and not name.startswith(_HEAD)]:
        raise ValueError(f"{path} lacks {some(missing)}; choose the model.name, depth and pool that it was made with")
    if wrong := [name for name in wanted if name in found and found[name].shape != wanted[name].shape]:
        shapes = f"{tuple(found[wrong[0]].shape)} there, {tuple(wanted[wrong[0]].shape)} in the model"
        raise ValueError(
            f"{path} has other shapes: {some(wrong)} (the first: {shapes}); choose the model.name, width, heads and "
            "mlp_ratio that it was made with"
        )
    blocks = {_block(name) for name in wanted}
    beyond = [name for name in found if name not in wanted and _block(name) in blocks and not name.startswith(_SPARE)]
    if beyond:
        raise ValueError(
            f"{path} has tensors without which it computes something else, and which the model lacks: {some(beyond)}; "
            "choose the model.name that it was made with"
        )
    if broken := [name for name in wanted if name in found and not bool(found[name].float().isfinite().all())]:
        raise ValueError(f"{path} holds numbers that are not finite, in {some(broken)}; give other weights")


def _block(name: str) -> str:
    """Return which block a tensor belongs to, such as ``blocks.3``; empty for those of none."""
    found = re.match(r"blocks\.\d+", name)
    return found[0] if found else ""


def some(names: Iterable[str]) -> str:
    """Return the first five names in words, and how many more there are."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def save_model(folder: Path, state: dict[str, Tensor], description: dict) -> None:
    """Write ``model.safetensors`` (plain timm names) and ``model.json`` (how timm builds the model)."""
    write_together(folder, model_files(state, description))


def model_files(state: dict[str, Tensor], description: dict) -> dict[str, str | bytes]:
    """Return what ``save_model`` writes, by the names of the files."""
    weights = save({k: v.detach().cpu().contiguous() for k, v in state.items()})
    return {"model.safetensors": weights, "model.json": to_json(description)}


def read_description(folder: Path) -> dict:
    """Return what the ``model.json`` of a folder holds.

    Raises:
        ValueError: it is missing or malformed, or describes no model that vitmem builds.
    """
    found = load_json(folder / "model.json", {"timm?": dict, "adopted?": dict})
    try:
        if "adopted" in found:
            check_description(found["adopted"])
        else:
            build.check_arguments(found.get("timm"))
    except ValueError as error:
        raise ValueError(f"{folder / 'model.json'} is malformed: {error}") from error
    return found


def build_model(description: dict, device: str = "cpu") -> nn.Module:
    """Return the model that a ``model.json`` describes, with weights of no meaning."""
    if "adopted" in description:
        return create_foreign(description["adopted"], device)
    return build.create(description["timm"], device=device)


def load_model(folder: Path, described: Path | None = None) -> nn.Module:
    """Return the model that a folder holds.

    Args:
        folder: with the weights.
        described: folder whose ``model.json`` says how the model is built, where it is another.

    Raises:
        ValueError: a file is missing, damaged, or does not fit the other.
    """
    try:
        description = read_description(described or folder)
        state = load_file(folder / "model.safetensors")
        shapes = {name: value.shape for name, value in build_model(description, "meta").state_dict().items()}
        if wrong := [name for name, value in state.items() if shapes.get(name) != value.shape]:
            raise ValueError(f"model.json describes another model than the weights are of: {some(wrong)}")
        model = build_model(description)  # only now is memory taken for it
        model.load_state_dict(state)
    except Unknown:  # a plug-in that is not given
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"the model in {folder} cannot be loaded: {message[:300]}") from error
    return model.eval()
