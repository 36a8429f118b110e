"""No file that vitmem reads runs code: it is planted in each, in the form that some reader would run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import QUICK
from faults.damage import changed
from faults.outcomes import EXPERIMENT, RUN, TUNED, outcome
from faults.plants import PLANTS, RAN, Poke, mend
from photographs import make_folder

from vitmem.runs.folder import SETTINGS

pytestmark = pytest.mark.slow

TRAIN = ("train", "--out=made", *QUICK)
EVAL = ("eval", RUN)
EDIT = ("edit", "kfac", RUN, "--rho=0.8", "--examples=200", "--id=another")
QUANTIZE = ("eval", RUN, "--edits=base", "--attacks=[{name: quantize, bits: [4], groups: [32]}]")
MEMBERSHIP = ("eval", RUN, "--edits=base", "--attacks=[{name: membership, shadows: 2}]")
SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin", ".safetensors")

# File of a finished run -> the form of the code, and a command that reads the file.
FILES = {
    "provenance.json": ("pickle 0", EVAL),
    "config.yaml": ("yaml", EVAL),
    "model.json": ("pickle 0", EVAL),
    "model.safetensors": ("pickle 2", EVAL),
    "noise.csv": ("pickle 0", EVAL),
    "noise.json": ("yaml", EVAL),
    "metrics.csv": ("pickle 0", ("run", EXPERIMENT)),
    "edits/kfac-rho0.9/edit.json": ("pickle 0", EVAL),
    "edits/kfac-rho0.9/model.json": ("yaml", EVAL),
    "edits/kfac-rho0.9/model.safetensors": ("torch", EVAL),
    "evals/base/metrics.json": ("pickle 0", EVAL),
    "evals/base/examples.npz": ("npz", EVAL),
    "evals/base/attacks/quantize.json": ("pickle 0", QUANTIZE),
    "attacks/membership/base.npz": ("npz", MEMBERSHIP),
    "attacks/shadows-*/shadow0000.npz": ("npz", MEMBERSHIP),
    "attacks/shadows-*/memorization.npz": ("npz", MEMBERSHIP),
    "factors/*.safetensors": ("torch", EDIT),
    "factors/*.spectra.npz": ("npz", ("check", RUN)),
    "tuning/scale.jsonl": ("yaml", ("run", TUNED)),
}
# Arguments that make timm load a file, or look for one elsewhere.
ARGUMENTS = {
    "checkpoint_path": "evil.pth",
    "pretrained_cfg": {"file": "evil.pth", "custom_load": False},
    "pretrained_cfg_overlay": {"file": "evil.pth"},
    "pretrained": True,
    "cache_dir": ".",
    "model_name": "local-dir:.",
    "weight_init": "jax",
    "norm_layer": "os.system",
}

EVERY_FORM = [form for form in PLANTS if form != "npz"]
NPZ, FOLDER = "--data.name=npz --data.path=a.npz", "--data.name=imagefolder --data.root=."
IMAGENET, CIFAR, FASHION = (
    f"--data.name={name} --data.root=. --offline" for name in ("imagenet", "cifar10", "fashion_mnist")
)
LABELS = "--noise.kind={} --noise.file=labels{}"
# File of data -> options that read it, and the forms of the code.
DATA = {
    "a.npz": (NPZ, ["npz", "pickle 2", "torch"]),
    "train/cat/0000.png": (FOLDER, ["pickle 2"]),
    ".vitmem_cache/train*.npy": (FOLDER, ["npy", "pickle 2"]),
    "train.txt": (f"{FOLDER} --data.classes=train.txt", ["yaml"]),
    "meta.bin": (IMAGENET, EVERY_FORM),
    "cifar-10-batches-py/data_batch_1": (CIFAR, ["pickle 2"]),
    "cifar-10-batches-py/batches.meta": (CIFAR, ["pickle 2"]),
    "FashionMNIST/processed/training.pt": (FASHION, ["pickle 2", "torch", "torch, legacy"]),
    "FashionMNIST/raw/train-images-idx3-ubyte": (FASHION, ["pickle 2"]),
    "train_32x32.mat": ("--data.name=svhn --data.root=. --offline", ["pickle 2"]),
    **{f"labels{end}": (LABELS.format("human", end), EVERY_FORM) for end in (".pt", ".npy", ".csv")},
    "labels.txt": (LABELS.format("file", ".txt"), ["pickle 0", "yaml"]),
    "plan.yaml": ("--config=plan.yaml", ["yaml", "pickle 0"]),
}


def plant(form, file):
    PLANTS[form][0](file)


def without_code(*command, codes=(0, 1, 2)):
    """Give a command in the working directory, and return what it says: it ends in order, and the code did not run."""
    code, said, error = outcome(command)
    assert not Path(RAN).exists()
    assert code in codes, error
    assert "Traceback" not in error
    return said + error


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", PLANTS)
def test_the_code_runs_where_a_file_is_trusted(form, folder):
    np.savez("planted.npz", index=np.arange(3))
    file = Path("planted.npz")
    plant(form, file)
    assert not Path(RAN).exists()
    PLANTS[form][1](file)
    assert Path(RAN).exists()


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_run(name, scene):
    form, command = FILES[name]
    (file,) = Path(RUN).glob(name)
    plant(form, file)
    mend(Path(RUN), file)
    if "shadows" in name:
        Path(RUN, "evals/base/attacks/membership.json").unlink()
    without_code(*command)


@pytest.mark.parametrize("name", ["last.ckpt", "previous.ckpt"])
@pytest.mark.parametrize("form", [form for form in PLANTS if "torch" in form or "pickle" in form])
def test_checkpoints_of_a_training_that_goes_on(name, form, scene):
    sealed = json.loads(Path(RUN, "provenance.json").read_text())["sha256"]
    changed("sha256", to={name: sealed[name] for name in SETTINGS})(Path(RUN, "provenance.json"))
    Path(RUN, "checkpoints/last.ckpt").unlink()
    plant(form, Path(RUN, "checkpoints", name))
    assert "damaged" in without_code("run", EXPERIMENT, codes=(3,))  # the stage of the training failed


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", [form for form in PLANTS if form not in ("npy", "npz")])
def test_weights_to_start_from(suffix, form, folder):
    file = folder / f"weights{suffix}"
    plant(form, file)
    assert file.name in without_code(*TRAIN, f"--model.pretrained={file}", codes=(2,))


def test_weights_that_are_written_to_while_they_are_read(folder):
    torch.save({"head.weight": Poke()}, "poked.pth")
    assert "poked.pth holds other things than tensors" in without_code(
        *TRAIN, "--model.pretrained=poked.pth", codes=(2,)
    )


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("where", [".", "edits/kfac-rho0.9"])
def test_arguments_of_a_model(argument, where, scene):
    plant("torch", Path("evil.pth"))
    run = Path(RUN)
    file = run / where / "model.json"
    changed("timm", argument, to=ARGUMENTS[argument])(file)
    mend(run, file)
    command = EDIT if where == "." else ("check", RUN)
    assert any(word in without_code(*command, codes=(1, 2)) for word in ("model.json", "unknown model"))


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, (_, forms) in DATA.items() for form in forms])
def test_files_of_data(name, form, folder):
    pixels = np.zeros((9, 8, 8), np.uint8)
    np.savez("a.npz", x_train=pixels, y_train=np.arange(9) % 3, x_test=pixels, y_test=np.arange(9) % 3)
    if "imagefolder" in DATA[name][0] or name == "meta.bin":
        make_folder(folder, side=(8, 8))
    if name == "meta.bin":
        (folder / "val").rename("elsewhere")
        (folder / "elsewhere/cat").rename("val")  # without folders of classes
    command = [*TRAIN, *DATA[name][0].split(), "--train.epochs=1"]
    if "cache" in name:
        assert outcome(command)[0] == 0
    (file,) = folder.glob(name) if "*" in name else [folder / name]
    file.parent.mkdir(parents=True, exist_ok=True)
    plant(form, file)
    without_code(*command, codes=(0,) if "cache" in name else (2,))


OPTIONS = ("--train.epochs=", "--data.name=", "--model=", "--noise.kind=", "--name=", "--data.classes=", "--config=")


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option, folder):
    plant("yaml", Path("planted.yaml"))
    without_code(*TRAIN, option + Path("planted.yaml").read_text().removeprefix("seed: "), codes=(2,))


@pytest.mark.parametrize("verb", ["run", "list", "check", "eval", "clean", "edit"])
def test_what_is_no_run_and_no_experiment(verb, folder):
    for form in PLANTS:
        if form != "npz":
            plant(form, Path("planted.yaml"))
            without_code(verb, *(["kfac"] if verb == "edit" else []), "planted.yaml", codes=(2,))
