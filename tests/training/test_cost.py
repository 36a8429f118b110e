"""The plan of a training against closed forms and against what PyTorch holds."""

import re

import pytest
import torch
from cases import QUICK
from torch import nn
from torch.nn import functional as F

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.progress import duration
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.cost import Plan, forward_flops, image_bytes, saved_bytes, state_bytes
from vitmem.training.optimisers import optimiser_of


def vit_flops(pixels, patch, channels, width, depth, classes, mlp_ratio=4):
    """Matrix products of a ViT with a class token; an addition and a multiplication count as 2."""
    patches = (pixels // patch) ** 2
    tokens = patches + 1
    projections = 2 * tokens * width * width * (3 + 1 + 2 * mlp_ratio)
    attention = 2 * 2 * tokens * tokens * width
    return 2 * patches * patch**2 * channels * width + depth * (projections + attention) + 2 * width * classes


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("pixels", "patch", "width", "depth", "heads"), [(8, 4, 16, 2, 2), (32, 8, 24, 3, 4)])
def test_forward_flops_are_those_of_the_closed_form(pixels, patch, width, depth, heads, device):
    config = ModelConfig(width=width, depth=depth, heads=heads, patch=patch)
    model = create(config.timm_arguments((3, pixels, pixels), 7), device=device)
    assert forward_flops(model, (3, pixels, pixels)) == vit_flops(pixels, patch, 3, width, depth, 7)


def test_vit_base_has_its_published_size_and_cost():
    model = create(ModelConfig().timm_arguments((3, 224, 224), 1000), device="meta")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(86e6, rel=0.01)  # Dosovitskiy et al. 2020
    assert forward_flops(model, (3, 224, 224)) == pytest.approx(2 * 17.6e9, rel=0.01)  # Touvron et al. 2021


def test_saved_bytes_of_an_mlp_by_hand():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
    image, label = torch.rand(5, 6), torch.zeros(5, dtype=torch.int64)
    with saved_bytes(model) as count:
        F.cross_entropy(model(image), label)
    floats = 6 + 8 + 8 + 3  # what each layer read, and the log-probabilities
    assert count[0] == pytest.approx(5 * (4 * floats + 8), abs=8)  # labels, and the total weight


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_state_bytes_are_those_that_a_step_leaves(precision, optimiser):
    model = nn.Linear(30, 20).to(torch.float64 if precision == "64-true" else torch.float32)
    train = TrainConfig(optimiser=optimiser)
    stepped = optimiser_of(train, list(model.named_parameters()), set(), set(), fused=False)
    model(torch.ones(1, 30, dtype=model.weight.dtype)).sum().backward()
    stepped.step()
    held = [*model.parameters(), *(p.grad for p in model.parameters())]
    held += [value for state in stepped.state.values() for value in state.values() if value.ndim]
    counted = state_bytes(620, train, TrainerConfig(precision=precision), 1)
    assert counted == sum(t.numel() * t.element_size() for t in held)


def test_state_bytes_on_several_devices():
    train, fsdp = TrainConfig(), TrainerConfig(strategy="fsdp")
    assert state_bytes(100, train, TrainerConfig(), 1) == 1600
    assert state_bytes(100, train, TrainerConfig(), 4) == 2000
    assert state_bytes(100, train, fsdp, 4) == 400
    assert state_bytes(100, train, TrainerConfig(precision="bf16-true"), 1) == 800
    assert state_bytes(100, TrainConfig(ema=0.9), TrainerConfig(), 1) == 2000
    assert state_bytes(100, TrainConfig(ema=0.9), fsdp, 4) == 500
    assert state_bytes(100, TrainConfig(optimiser="sgd", sam=0.1), TrainerConfig(), 1) == 1600


@pytest.mark.parametrize(("train_on", "images"), [("noisy", 1297 + 500), ("retrain", 1297 + 500 + 1297 - 130)])
def test_decoded_images_are_counted_once_and_their_copies_too(train_on, images):
    data = MemorisationData(Digits(), Symmetric(), train_on=train_on)
    assert image_bytes(data) == images * 64 * data.data.train_image.element_size()


def test_hours_add_training_and_evaluation():
    plan = Plan(1, 1, 1, 1, 1, 1, 1, train_speed=100.0, eval_speed=400.0, train_images=360_000, eval_images=720_000)
    assert plan.hours == pytest.approx(1.0 + 0.5)


def test_a_dry_run_does_not_compile(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("vitmem.training.cost.PROBE_SECONDS", 0.2)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_: pytest.fail("it was compiled"))
    options = ["--trainer.accelerator=cpu", "--trainer.compile=true", "--dry_run"]
    code, printed, errors = cli("train", f"--out={tmp_path}", *QUICK, *options)
    assert (code, errors) == (0, "")
    assert "200 images at a time, not compiled)" in printed


@pytest.mark.parametrize("options", [[], ["--trainer.precision=bf16-mixed", "--trainer.grad_checkpointing=true"]])
def test_a_dry_run_tells_and_writes_nothing(cli, tmp_path, monkeypatch, options):
    monkeypatch.setattr("vitmem.training.cost.PROBE_SECONDS", 0.2)
    told = []
    monkeypatch.setattr("vitmem.training.cost.duration", lambda seconds: told.append(seconds) or duration(seconds))
    code, printed, errors = cli(
        "train", f"--out={tmp_path}", *QUICK, "--train.eval_every=2", "--trainer.accelerator=cpu", "--dry_run", *options
    )
    assert (code, errors) == (0, "")
    assert list(tmp_path.iterdir()) == []
    assert "2,594 training images" in printed  # 2 epochs of 1,297
    assert "1,797 evaluated images" in printed  # once, 1,297 and 500
    assert "of 200 images at a time" in printed
    assert re.search(r"time: about \d+ s", printed)
    assert f"time: about {duration(told[0])}" in printed
    assert told[0] > 0
