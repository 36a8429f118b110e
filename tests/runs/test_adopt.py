"""``vitmem adopt``: weights of every family, in every wrapper, and what is refused."""

import argparse
import json
import pickle

import numpy as np
import pytest
import torch
from families import CLASSES, PIXELS, family
from PIL import Image
from safetensors.torch import load_file, save_file

from vitmem.evaluation.predict import TRAIN, predict
from vitmem.models.weights import load_model
from vitmem.runs.trained import TrainedRun

pytestmark = pytest.mark.slow

MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)
NORMALISED = ["--normalise.mean", "0.4,0.5,0.6", "--normalise.std", "0.3,0.2,0.25"]
VIT = {"patch_size": 4, "embed_dim": 16, "num_heads": 2, "depth": 2}
TIMM = {
    "timm vit": ("vit_tiny_patch16_224", VIT),
    "timm deit3": ("deit3_small_patch16_224", VIT),
    "timm deit, distilled": ("deit_tiny_distilled_patch16_224", VIT),
    "timm eva02": ("eva02_tiny_patch14_224", VIT),
    "timm beit": ("beit_base_patch16_224", VIT),
    "timm swin": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2]},
    ),
    "torchvision vit": (
        "torchvision/VisionTransformer",
        {"image_size": PIXELS, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32},
    ),
}


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """A file of tiny images and what it holds."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("npz") / "data.npz"

    def images(number):
        colour = random.integers(0, 200, (number, 1, 1, 3))
        return (colour + random.integers(0, 56, (number, PIXELS, PIXELS, 3))).astype(np.uint8)

    arrays = {
        "train_images": images(60),
        "train_labels": np.arange(60) % CLASSES,
        "val_images": images(40),
        "val_labels": np.arange(40) % CLASSES,
    }
    np.savez(path, **arrays)
    return path, arrays


def data_of(npz):
    return ["--data.name", "npz", "--data.path", str(npz[0]), "--noise.rate", "0.2"]


def plain_answers(model, images):
    """Return what plain PyTorch says."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        out = model(x)
    return getattr(out, "logits", out)


def adopted(cli, tmp_path, weights, npz, *more):
    code, out, err = cli("adopt", weights, *data_of(npz), f"--out={tmp_path / 'runs'}", *more)
    return code, out, err, tmp_path / "runs" / "adopted" / "seed0"


@pytest.mark.parametrize("name", TIMM)
def test_a_family_is_adopted_and_measured_to_the_digit(name, cli, tmp_path, npz):
    model, (architecture, arguments) = family(name), TIMM[name]
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    options = ["--architecture", architecture, "--architecture_args", json.dumps(arguments), *NORMALISED]
    code, out, err, path = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *options)
    assert code == 0, err
    assert "normalised with mean 0.4,0.5,0.6 and std 0.3,0.2,0.25 (given)" in out
    check_adopted(cli, path, model, npz)


def check_adopted(cli, path, model, npz):
    """The run reports what plain PyTorch does; it is edited, measured, attacked and checked like any other."""
    run = TrainedRun.open(path)
    logits = plain_answers(model, npz[1]["train_images"])
    table = predict(run.model, {TRAIN: run.data.val_dataloader()[0]})
    assert torch.equal(torch.from_numpy(table.prediction), logits.argmax(1))
    expected = logits.log_softmax(1).gather(1, torch.from_numpy(run.manifest.given_label)[:, None])[:, 0]
    assert torch.allclose(torch.from_numpy(table.log_prob_given), expected, atol=1e-5)
    assert cli("edit", "kfac", path, "--rho", "0.5", "--examples", "30")[0] == 0
    code, out, err = cli("eval", path, "--attacks", "[{name: compress, draws: 1, rank: [0.5]}]")
    assert code == 0, err
    assert "kfac-rho0.5" in out
    code, out, err = cli("check", path)
    assert code == 0, out + err
    code, out, err = cli("export", path, "kfac-rho0.5", path.parents[2] / "exported")
    assert code == 0, err
    row = (path / "evals" / "results.csv").read_text().splitlines()[1]
    accuracy = (logits.argmax(1).numpy() == run.manifest.given_label)[run.manifest.is_noisy].mean()
    assert f"{accuracy:.6g}"[:6] in row


def test_a_folder_of_hugging_face_says_what_it_holds(cli, tmp_path, npz):
    model = family("Hugging Face ViT")
    model.save_pretrained(tmp_path / "hub")
    settings = {"image_mean": MEAN, "image_std": STD, "size": {"height": PIXELS, "width": PIXELS}, "resample": 2}
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(settings))
    code, out, err, path = adopted(cli, tmp_path, tmp_path / "hub", npz)
    assert code == 0, err
    assert "preprocessor_config.json" in out
    check_adopted(cli, path, model, npz)


def test_a_folder_of_timm_says_what_it_holds(cli, tmp_path, npz):
    (tmp_path / "hub").mkdir()
    model = family("timm vit")
    torch.save(model.state_dict(), tmp_path / "hub" / "pytorch_model.bin")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {**VIT, "img_size": PIXELS}}
    config["pretrained_cfg"] = {"mean": MEAN, "std": STD, "input_size": [3, PIXELS, PIXELS]}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    code, _, err, path = adopted(cli, tmp_path, tmp_path / "hub", npz)
    assert code == 0, err
    check_adopted(cli, path, model, npz)


VIT_OPTIONS = ["--architecture", "vit_tiny_patch16_224", "--architecture_args", json.dumps(VIT), *NORMALISED]


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "more"),
    [
        (lambda s: s, []),
        (lambda s: {"state_dict": prefixed("module.", s), "epoch": 3}, []),
        (lambda s: {"model": prefixed("_orig_mod.", s), "args": argparse.Namespace(lr=1.0)}, []),
        (lambda s: {"state_dict": prefixed("model.", s) | {"criterion.weight": torch.ones(3)}}, []),
        (lambda s: {"model": prefixed("module._orig_mod.", s)}, []),
        (lambda s: {"model": {n: torch.zeros_like(v) for n, v in s.items()}, "model_ema": s}, ["--ema"]),
    ],
)
def test_wrappers_are_taken_off(wrap, more, cli, tmp_path, npz):
    model = family("timm vit")
    torch.save(wrap(model.state_dict()), tmp_path / "w.pth")
    code, _, err, path = adopted(cli, tmp_path, tmp_path / "w.pth", npz, *VIT_OPTIONS, *more)
    assert code == 0, err
    loaded = load_model(path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_wrong_normalisation_is_refused_and_named(cli, tmp_path, npz):
    """The right accuracies are those with 0.5 and 0.5; of a likely cause that explains them it is said how."""
    model = family("timm vit")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    x = torch.from_numpy(npz[1]["val_images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        arrays = {**npz[1], "val_labels": model(x).argmax(1).numpy()}
    np.savez(tmp_path / "known.npz", **arrays)
    npz, options = (tmp_path / "known.npz", arrays), VIT_OPTIONS[:4]
    half = ["--normalise.mean", "0.5,0.5,0.5", "--normalise.std", "0.5,0.5,0.5"]
    wrong = ["--normalise.mean", "9,9,9", "--normalise.std", "0.1,0.1,0.1"]
    expect = ["--expect_validation", "1", "--tolerance", "0.001"]
    code, _, err, path = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *options, *wrong, *expect)
    assert (code, path.exists()) == (2, False), err
    assert "with 0.5 and 0.5 it would be 1.000: give --normalise.mean 0.5,0.5,0.5" in err
    code, _, err, path = adopted(
        cli, tmp_path, tmp_path / "w.safetensors", npz, *options, *half, "--expect_memorized", "0.97"
    )
    assert (code, path.exists()) == (2, False)
    for words in ("--expect_memorized is 0.97", "nothing was adopted", "likely causes", "the order of the classes"):
        assert words in err
    code, _, err, path = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *options, *half, *expect)
    assert code == 0, err
    assert not [left for left in tmp_path.rglob(".*") if left.name.endswith(".partial")]


def test_classes_in_another_order_are_noticed(cli, tmp_path, npz):
    model = family("timm vit")
    said = plain_answers(model, npz[1]["val_images"]).argmax(1).numpy()
    arrays = {**npz[1], "val_labels": (said + 1) % CLASSES}
    np.savez(tmp_path / "other.npz", **arrays)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    options = [*VIT_OPTIONS, "--expect_validation", "1"]
    code, _, err, _ = adopted(cli, tmp_path, tmp_path / "w.safetensors", (tmp_path / "other.npz", arrays), *options)
    assert code == 2
    assert "with the classes in another order it would be 1.000" in err


def test_position_embeddings_are_resampled_only_when_asked(cli, tmp_path, npz):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, img_size=24, **VIT)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    code, _, err, _ = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *VIT_OPTIONS)
    assert code == 2
    assert "pos_embed" in err
    assert "--resample" in err
    code, _, err, path = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *VIT_OPTIONS, "--resample")
    assert code == 0, err
    assert load_model(path).pos_embed.shape[1] == 17


class Malicious:
    """A pickle that would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "does not say which model it is of; give --architecture"),
        (["--architecture", "vit_tinny"], "timm has no model 'vit_tinny'"),
        (["--architecture", "torchvision/vit_x"], "torchvision has no classifier 'vit_x'"),
        (["--architecture", "torchvision/deeplabv3_resnet50"], "torchvision has no classifier"),
        (["--architecture", "hf-hub:someone/model"], "name"),
        (["--architecture", "local-dir:/tmp"], "name"),
        ([*VIT_OPTIONS[:3], "{depth: 3}", *NORMALISED], "patch_embed.proj.weight"),
        ([*VIT_OPTIONS[:3], '{pretrained_cfg: "x"}', *NORMALISED], "no option of timm"),
        ([*VIT_OPTIONS[:3], "{depth: 99999999}", *NORMALISED], "depth is"),
        ([*VIT_OPTIONS, "--train.lr", "0.1"], "train.lr is 0.1, which an adopted model has not"),
        ([*VIT_OPTIONS, "--expect_memorized", "92"], "--expect_memorized is 92"),
        ([*VIT_OPTIONS, "--ema"], "holds no averaged weights"),
        ([*VIT_OPTIONS[:4], "--normalise.mean", "0.5", "--normalise.std", "0.5"], "one for each channel"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options, words, cli, tmp_path, npz):
    torch.save(family("timm vit").state_dict(), tmp_path / "w.pth")
    code, out, err, path = adopted(cli, tmp_path, tmp_path / "w.pth", npz, *options)
    assert code == 2, out
    assert words in err
    assert err.count("\n") == 1
    assert not path.exists()


def test_files_that_are_no_weights_of_the_model(cli, tmp_path, npz):
    state = family("timm vit").state_dict()
    cases = {
        "code.pth": lambda path: torch.save({"state_dict": state, "more": Malicious(tmp_path / "ran")}, path),
        "plain.pth": lambda path: path.write_bytes(pickle.dumps({"state_dict": Malicious(tmp_path / "ran")})),
        "nothing.pth": lambda path: torch.save({"epoch": 3}, path),
        "less.pth": lambda path: torch.save({n: v for n, v in state.items() if "norm" not in n}, path),
        "more.pth": lambda path: torch.save(state | {"blocks.0.ls1.gamma": torch.ones(16)}, path),
        "classes.pth": lambda path: torch.save(
            state | {"head.weight": torch.ones(7, 16), "head.bias": torch.ones(7)}, path
        ),
        "nan.pth": lambda path: torch.save(state | {"norm.bias": torch.full((16,), float("nan"))}, path),
        "cut.safetensors": lambda path: path.write_bytes(b"\x10\0\0"),
    }
    said = {
        "code": "refused", "plain": "no file of tensors", "nothing": "no tensors by name", "less": "lacks",
        "more": "which the model lacks",
        "classes": "another number of classes", "nan": "not finite", "cut": "truncated or damaged",
    }  # fmt: skip
    for name, write in cases.items():
        write(tmp_path / name)
        code, out, err, path = adopted(cli, tmp_path, tmp_path / name, npz, *VIT_OPTIONS)
        assert code == 2, (name, out)
        assert said[name.partition(".")[0]] in err, (name, err)
        assert err.count("\n") == 1
        assert not path.exists()
    assert not (tmp_path / "ran").exists()
    code, _, err, _ = adopted(cli, tmp_path, tmp_path / "absent.pth", npz, *VIT_OPTIONS)
    assert (code, "there is no file" in err) == (2, True)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[1]", "holds a list"),
        ("{", "config.json"),
        ("{}", "names no model"),
        ('{"architecture": 3}', "malformed"),
        ('{"model_type": "llama"}', "none of those that vitmem adopts"),
        ('{"model_type": "../x"}', "name"),
        ('{"model_type": "vit", "hidden_size": "__import__(1)"}', "plain word"),
        ('{"model_type": "vit", "backbone": "/etc/passwd"}', "plain word"),
    ],
)
def test_a_config_of_a_folder_is_data(config, words, cli, tmp_path, npz):
    (tmp_path / "hub").mkdir()
    save_file(family("timm vit").state_dict(), tmp_path / "hub" / "model.safetensors")
    (tmp_path / "hub" / "config.json").write_text(config)
    code, out, err, path = adopted(cli, tmp_path, tmp_path / "hub", npz, *NORMALISED)
    assert code == 2, out
    assert words in err
    assert not path.exists()


def test_what_an_adopted_run_lacks_is_said(cli, tmp_path, npz):
    save_file(family("timm vit").state_dict(), tmp_path / "w.safetensors")
    *_, path = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *VIT_OPTIONS)
    code, _, err = cli("edit", "rewind", path)
    assert (code, "was adopted: the weights that its training started from are not known" in err) == (2, True)
    code, _, err = cli("eval", path, "--attacks", "[{name: membership, shadows: 2}]")
    assert code == 2
    assert "it is not known how this model was trained" in err
    code, _, err, _ = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *VIT_OPTIONS)
    assert (code, "holds a run already" in err) == (2, True)
    assert adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *VIT_OPTIONS, "--force")[0] == 0


@pytest.mark.parametrize("name", ["timm swin", "torchvision vit", "Hugging Face ViT"])
def test_what_is_adopted_goes_out_as_its_library_stores_it(name, cli, tmp_path, npz):
    model = family(name)
    if name in TIMM:
        save_file(model.state_dict(), tmp_path / "w.safetensors")
        architecture, arguments = TIMM[name]
        options = ["--architecture", architecture, "--architecture_args", json.dumps(arguments), *NORMALISED]
        code, _, err, path = adopted(cli, tmp_path, tmp_path / "w.safetensors", npz, *options)
    else:
        model.save_pretrained(tmp_path / "hub")
        code, _, err, path = adopted(cli, tmp_path, tmp_path / "hub", npz, *NORMALISED)
    assert code == 0, err
    code, _, err = cli("export", path, "base", tmp_path / "out")
    assert code == 0, err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained elsewhere" in card
    if name == "torchvision vit":
        model.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    image = torch.randn(2, 3, PIXELS, PIXELS)
    source = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(tmp_path / "out"))
    names: dict = {}
    exec(source, names)
    with torch.no_grad():
        one, two = (getattr(out, "logits", out) for out in (names["model"].eval()(image), model(image)))
    assert torch.allclose(one, two, atol=1e-6)


def test_images_of_a_folder_are_made_as_the_models_were(cli, tmp_path):
    random = np.random.default_rng(1)
    for split, number in (("train", 4), ("val", 2)):
        for label in range(CLASSES):
            (tmp_path / "data" / split / f"c{label}").mkdir(parents=True)
            for k in range(number):
                pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / f"c{label}" / f"{k}.png")
    family("Hugging Face ViT").save_pretrained(tmp_path / "hub")
    settings = {"image_mean": MEAN, "image_std": STD, "size": {"height": PIXELS, "width": PIXELS}, "resample": 3}
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(settings))
    data = ["--data.name", "imagefolder", "--data.root", str(tmp_path / "data"), "--noise.rate", "0.2"]
    code, out, err = cli("adopt", tmp_path / "hub", *data, f"--out={tmp_path / 'runs'}")
    assert code == 0, err
    assert f"data.size {PIXELS}, data.interpolation bicubic" in out
    run = TrainedRun.open(tmp_path / "runs" / "adopted" / "seed0")
    assert (run.config.data.size, run.config.data.interpolation) == (PIXELS, "bicubic")
    assert run.data.mean_std == (MEAN, STD)
    assert cli("export", run.path, "base", tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["resample"] == 3
