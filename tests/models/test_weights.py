import json
import os
import pickle

import pytest
import timm
import torch
from cases import QUICK
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.models.weights import find_weights, load_model, read_pretrained, save_model

SIZES = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4}


def from_timm(**options):
    torch.manual_seed(0)
    arguments = {"img_size": 16, "num_classes": 7, "in_chans": 3} | SIZES | options
    model = timm.create_model("vit_base_patch16_224", **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(image=(1, 8, 8), classes=10, **options):
    config = ModelConfig(**({"width": 16, "depth": 2, "heads": 2, "patch": 4} | options))
    return create(config.timm_arguments(image, classes), seed=1)


@pytest.fixture
def file(tmp_path):
    """Weights of a model for 16 x 16 colour images of 7 classes, as timm's models save them."""
    path = tmp_path / "weights" / "model.safetensors"
    path.parent.mkdir()
    save_file(from_timm().state_dict(), path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
def test_the_same_size_gives_the_same_function(tmp_path, suffix):
    source = from_timm().eval()
    path = tmp_path / f"weights{suffix}"
    if suffix != ".safetensors":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, path)
    else:
        save_file(source.state_dict(), path)
    model = ours((3, 16, 16), 7).eval()
    weights, notes = read_pretrained(find_weights(str(tmp_path)), model)
    model.load_state_dict(weights)
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(image), source(image))
    assert notes == []


def test_other_sizes_channels_and_classes(file):
    source, model = load_file(file), ours((1, 8, 8), 10)
    weights, notes = read_pretrained(file, model)
    assert notes == ["start anew: head.weight, head.bias"]
    assert not {"head.weight", "head.bias"} & set(weights)
    assert torch.allclose(weights["patch_embed.proj.weight"], source["patch_embed.proj.weight"].sum(1, keepdim=True))
    assert torch.equal(weights["pos_embed"][:, 0], source["pos_embed"][:, 0])  # of the class token
    grid = source["pos_embed"][:, 1:].view(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (2, 2), mode="bicubic", antialias=True).permute(0, 2, 3, 1).view(1, 4, 16)
    assert torch.allclose(weights["pos_embed"][:, 1:], expected, atol=1e-6)
    same = [name for name in weights if name.startswith("blocks")]
    assert len(same) == 24
    assert all(torch.equal(weights[name], source[name]) for name in same)


def test_another_patch_size_is_resampled(file):
    weights, _ = read_pretrained(file, ours((3, 16, 16), 7, patch=8))
    assert weights["patch_embed.proj.weight"].shape == (16, 3, 8, 8)
    assert weights["pos_embed"].shape == (1, 5, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 32},
            r"has other shapes: cls_token, .* and \d+ more \(the first: \(1, 1, 16\) there, \(1, 1, 32\) in",
        ),
        ({"depth": 3}, r"lacks blocks.2.norm1.weight, .* and 7 more; choose the model.name, depth"),
        ({"pool": "avg"}, "lacks fc_norm.weight, fc_norm.bias; choose the model.name, depth and pool"),
    ],
)
def test_models_of_another_shape_are_refused(file, options, message):
    with pytest.raises(ValueError, match=message) as error:
        read_pretrained(file, ours((3, 16, 16), 7, **options))
    assert "\n" not in str(error.value)


def test_what_the_model_lacks_is_told(file):
    _, notes = read_pretrained(file, ours((3, 16, 16), 7, depth=1))
    assert len(notes) == 1
    assert notes[0].startswith("are not used: blocks.1.")
    assert notes[0].endswith(" and 7 more")


@pytest.mark.parametrize("extra", ["blocks.0.ls1.gamma", "blocks.1.attn.q_norm.weight", "norm_pre.weight", "reg_token"])
def test_tensors_that_the_model_lacks_and_its_blocks_would_need_are_refused(file, extra):
    save_file(load_file(file) | {extra: torch.ones(16)}, file)
    with pytest.raises(ValueError, match=f"which the model lacks: {extra}; choose the model.name"):
        read_pretrained(file, ours((3, 16, 16), 7))


def test_parts_that_only_pretraining_uses_are_told(file):
    save_file(load_file(file) | {"decoder_embed.weight": torch.ones(16), "head_dist.weight": torch.ones(16)}, file)
    assert read_pretrained(file, ours((3, 16, 16), 7))[1] == ["are not used: decoder_embed.weight, head_dist.weight"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.layers.encoder_layer_0.ln_1.weight", "has torchvision's names of tensors"),
        ("vit.embeddings.patch_embeddings.projection.weight", "has Hugging Face Transformers' names of tensors"),
        ("layer1.0.conv1.weight", "has none of the model's tensors; it has layer1.0.conv1.weight"),
    ],
)
def test_weights_under_other_names_are_named_as_such(tmp_path, name, message):
    save_file({name: torch.ones(4)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        read_pretrained(tmp_path / "a.safetensors", ours())


def test_weights_that_are_not_finite_are_refused(file):
    weights = load_file(file)
    weights["blocks.1.mlp.fc1.bias"][3] = float("nan")
    save_file(weights, file)
    with pytest.raises(ValueError, match="holds numbers that are not finite, in blocks.1.mlp.fc1.bias"):
        read_pretrained(file, ours((3, 16, 16), 7))


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_weights_that_were_cut_are_said_to_be_so(file, tmp_path, form):
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    whole = tmp_path / "whole"
    if form == "safetensors":
        whole = file
    else:
        torch.save(load_file(file), whole, _use_new_zipfile_serialization=form == "zip")
    content = whole.read_bytes()
    for length in (5, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="cannot be read as weights: it is truncated or damaged"):
            read_pretrained(path, ours((3, 16, 16), 7))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_weights_under_another_ending(file, tmp_path, name):
    if name == "a.pth":
        (tmp_path / name).write_bytes(file.read_bytes())
    else:
        torch.save(load_file(file), tmp_path / name)
    with pytest.raises(ValueError, match=r"by its content it is a \.\w+ file; rename it"):
        read_pretrained(tmp_path / name, ours((3, 16, 16), 7))


def test_a_pipe_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds 0 files of weights"):
        find_weights(str(tmp_path))
    with pytest.raises(ValueError, match="there is no file"):
        find_weights(str(tmp_path / "a.pth"))


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ValueError, match="holds other things than tensors, which could run code"):
        read_pretrained(path, ours())
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.safetensors", "cannot be read as weights: it is truncated or damaged"),
        (b"", "a.pth", "cannot be read as weights: it is truncated or damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a.safetensors", "it is a Git LFS pointer"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a.pth", "it is a Git LFS pointer"),
        (b"\n<!doctype html><html>", "a.pth", "it is a web page, not the file itself"),
        (b"\n<html>", "a.safetensors", "it is a web page, not the file itself"),
        (b'{"error": "not found"}', "a.pth", "it is no file of tensors that torch.save wrote"),
        (pickle.dumps([1], 2), "a.pth", "a.pth "),
        (b"no weights", "a.pth", "a.pth "),
        (b"PK\x03\x04 no archive", "a.bin", "a.bin "),
        (b"x", "a.npz", "does not end in .safetensors, .pth, .pth.tar, .pt, .bin"),
        (None, "a.pth", "there is no file .*a.pth; give weights"),
        (None, "", r"holds 0 files of weights \(none\); name one file"),
    ],
)
def test_files_that_are_no_weights(cli, tmp_path, content, name, message):
    path = tmp_path / "weights" / name
    path.parent.mkdir(exist_ok=True)
    if not name:
        path.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    code, _, error = cli("train", f"--out={tmp_path / 'runs'}", *QUICK, f"--model.pretrained={path}")
    assert code == 2
    assert error.count("\n") == 1
    assert "could run code" not in error
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_starts_from_the_file_and_remembers_it(cli, file, tmp_path):
    command = ["train", f"--out={tmp_path / 'runs'}", *QUICK, f"--model.pretrained={file.parent}", "--train.lr=1e-12"]
    code, out, _ = cli(*command)
    assert code == 0
    assert "tensors; start anew: head.weight, head.bias\n" in out
    run = tmp_path / "runs" / "default" / "seed0"
    weights, source = load_file(run / "model.safetensors"), load_file(file)
    assert torch.allclose(weights["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"], atol=1e-6)
    assert len(json.loads((run / "provenance.json").read_text())["pretrained_sha256"]) == 64
    assert "already trained" in cli(*command)[1]
    source["norm.bias"] += 1
    save_file(source, file)
    code, _, error = cli(*command)
    assert code == 2
    assert "is not the file that" in error
    file.unlink()
    assert cli("eval", run)[0] == 0  # a finished run needs it no more


def test_recorded_arguments_are_data():
    """Nothing but what a configuration writes reaches timm: no file to load, no code, no other shape of value."""
    good = ModelConfig(width=16, depth=2, heads=2, patch=4, dropout=0.1, drop_path=0.1).timm_arguments((1, 8, 8), 10)
    create(good)
    for name, value in (
        ("checkpoint_path", "evil.pth"),
        ("pretrained", True),
        ("pretrained_cfg", {"file": "evil.pth"}),
        ("depth", "2"),
        ("depth", 1e30),
        ("depth", True),
        ("depth", 100_000),
        ("num_heads", 0),
        ("img_size", [8, 8, 8]),
        ("img_size", 8),
        ("model_name", ["vit"]),
        ("mlp_ratio", float("nan")),
    ):
        with pytest.raises(ValueError, match=name):
            create({**good, name: value})
    with pytest.raises(ValueError, match="lack img_size"):
        create({name: value for name, value in good.items() if name != "img_size"})
    with pytest.raises(ValueError, match="are a list"):
        create([])


@pytest.mark.parametrize("content", ["[]", "null", '{"timm": []}', '{"timm": {"model_name": 3}}', "{", "\xff"])
def test_a_malformed_description_is_one_error(tmp_path, content):
    save_model(tmp_path, ours().state_dict(), {})
    (tmp_path / "model.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(tmp_path)


def test_a_description_of_a_larger_model_takes_no_memory(tmp_path):
    model = ours()
    arguments = ModelConfig(width=16, depth=2, heads=2, patch=4).timm_arguments((1, 8, 8), 10)
    save_model(tmp_path, model.state_dict(), {"timm": arguments | {"embed_dim": 60_000, "depth": 100}})
    with pytest.raises(ValueError, match="model.json describes another model than the weights are of: blocks.0.attn"):
        load_model(tmp_path)
