"""A model of a run, base or edited, for other tools: a folder that its library and Hugging Face Transformers open."""

import contextlib
import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from vitmem.files import Damaged, sweep, unfinished, write_atomically
from vitmem.models.outputs import logits_of
from vitmem.models.weights import load_model
from vitmem.runs.card import card
from vitmem.runs.folder import RunFolder
from vitmem.runs.layouts import CONFIG, PREPROCESSOR, WEIGHTS, Layout, layout_of
from vitmem.runs.trained import BASE, TrainedRun

ISSUES = "issues.csv"
FILES = (WEIGHTS, PREPROCESSOR, "noise.csv", "noise.json", ISSUES, "README.md", CONFIG)  # the last opens the folder
_CLOSE = 1e-6  # of logits


def export(run: TrainedRun, edit_id: str, folder: Path, *, force: bool = False, issues: str | None = None) -> None:
    """Write the base model or an edit as a folder that timm and Hugging Face Transformers open: whole, or not at all.

    Args:
        run: whose model it is.
        edit_id: ``base``, or the id of an edit.
        folder: where to.
        force: replace an exported model that is there; other files in the folder stay.
        issues: a table of suspect labels to write beside it.

    Raises:
        ValueError: there is no such edit, its weights were not stored, the folder is not empty or part of a run, or
            timm does not open the model as the same function.
    """
    if "\0" in str(folder):
        raise ValueError(f"{str(folder)!r} cannot be the name of a folder")
    folder = folder.resolve()
    _check_folder(folder, force)
    layout = layout_of(run.path, _weights(run, edit_id))
    text = card(run, edit_id, layout)
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent, inside=False)  # what an export that was killed left
    with unfinished(folder) as own:
        own.mkdir()
        for name, content in layout.files.items():
            if name != CONFIG:
                write_atomically(own / name, content)
        for name in ("noise.csv", "noise.json"):
            write_atomically(own / name, (run.path / name).read_bytes())
        if issues is not None:
            write_atomically(own / ISSUES, issues)
        write_atomically(own / "README.md", text)
        write_atomically(own / CONFIG, layout.files[CONFIG])
        _check_opens(own, layout, run, edit_id)
        _put(own, folder)


def _check_folder(folder: Path, force: bool) -> None:
    """Raise ValueError if a folder is not one to write to."""
    for path in (folder, *folder.parents):
        if RunFolder(path).is_run:
            raise ValueError(f"{folder} is part of the run folder {path}; give a folder outside of it")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give another")
    if not force and folder.is_dir() and (names := sorted(os.listdir(folder))):
        raise ValueError(
            f"{folder} is not empty (it holds {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}); give another "
            "folder, or --force to replace an exported model in it"
        )


def _weights(run: TrainedRun, edit_id: str) -> bytes:
    """Return the file of weights, checked."""
    file, expected = run.path / WEIGHTS, run.weights_sha256
    if edit_id != BASE:
        file, expected = run.stored_weights(edit_id), run.edit(edit_id)["weights_sha256"]
    found = file.read_bytes()
    if hashlib.sha256(found).hexdigest() != expected:
        raise Damaged(f"{file} was changed while it was read; give the command again")
    return found


@torch.no_grad()
def _check_opens(folder: Path, layout: Layout, run: TrainedRun, edit_id: str) -> None:
    """Raise ValueError unless the model's library opens a folder as the function that the run has."""
    version = f"{layout.library} {importlib.import_module(layout.library).__version__}"
    try:
        opened = layout.opened(folder).eval()
    except Exception as error:  # libraries fail in many ways
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{version} cannot open the exported model: {why}; nothing is written") from error
    where = run.path if edit_id == BASE else run.edit_folder(edit_id)
    generator = torch.Generator().manual_seed(0)
    image_BCHW = torch.randn(2, *layout.config["pretrained_cfg"]["input_size"], generator=generator)
    ours, theirs = load_model(where, described=run.path)(image_BCHW), logits_of(opened(image_BCHW))
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=_CLOSE, atol=_CLOSE):
        raise ValueError(f"{version} opens the exported model as another function (logits differ); nothing is written")


def _put(own: Path, folder: Path) -> None:
    """Put what was written in its place: at once where nothing is there, else file by file, the last one last."""
    if folder.is_dir() and any(folder.iterdir()):
        (folder / CONFIG).unlink(missing_ok=True)
        for name in FILES:
            if (own / name).exists():
                os.replace(own / name, folder / name)
            elif name == ISSUES:  # of what was exported before
                (folder / name).unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
    os.replace(own, folder)


def hub(repository: str) -> Callable[[Path], str]:
    """Return what uploads an exported folder to the Hugging Face hub, and returns its address.

    A repository that is not there is made, private.

    Args:
        repository: such as ``name/model``.

    Raises:
        ValueError: huggingface_hub is not installed, or the name is none of a repository.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise ValueError("--hub needs huggingface_hub; pip install 'vitmem[hub]', or leave it out") from error
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ValueError(f"--hub is {repository!r}, which is no name of a repository, such as name/model") from error

    def upload(folder: Path) -> str:
        try:
            api = HfApi()
            api.create_repo(repository, private=True, exist_ok=True)
            return str(api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(FILES)))
        except Exception as error:  # of the network, of the account, of the hub
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{folder} is written, but was not uploaded to {repository}: {why}") from error

    return upload
