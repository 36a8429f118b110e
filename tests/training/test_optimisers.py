"""Optimisers, against a loop by hand over the same batches."""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create, is_decayed
from vitmem.models.config import ModelConfig
from vitmem.runs.config import RunConfig
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.errors import Interrupted
from vitmem.training.fit import fit
from vitmem.training.module import MemorisationModule, warmup_cosine
from vitmem.training.optimisers import MuonWithAdamW, ascend, hidden_matrices, orthogonalised

BATCH, EPOCHS, STEPS = 450, 2, 6
OPTIONS = {"epochs": EPOCHS, "batch_size": BATCH, "warmup_epochs": 1, "eval_every": 2, "weight_decay": 0.2, "clip": 0.5}


def started(dropout=0.0):
    """Return a model at step 0, and its data."""
    config = ModelConfig(width=16, depth=2, heads=2, patch=4, dropout=dropout)
    model = create(config.timm_arguments((1, 8, 8), 10), seed=3)
    return model, MemorisationData(Digits(), Symmetric(), batch_size=BATCH, seed=3)


def train(folder, dropout=0.0, **options):
    folder.mkdir(exist_ok=True)
    config, trainer = TrainConfig(**{**OPTIONS, **options}), TrainerConfig(accelerator="cpu")
    state, _ = fit(*started(dropout), config, trainer, seed=3, folder=folder)
    return state


def by_hand(lr, step):
    """Return weights, and each example's loss in each epoch, of a training whose steps are written out.

    Args:
        lr: peak.
        step: called with the model, its decayed parameters' names, the learning rate, and what takes the gradient.
    """
    model, data = started()
    model.train()
    decayed = {name for name, p in model.named_parameters() if is_decayed(name, p)}
    loader, losses, number = data.train_dataloader(), torch.zeros(EPOCHS, 1297), 0
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            with torch.no_grad():
                logits = model(batch.image)
                losses[epoch, batch.index] = F.cross_entropy(logits, batch.given_label, reduction="none")
            gradient(model, batch)
            step(model, decayed, lr * warmup_cosine(number, STEPS // EPOCHS, STEPS), lambda b=batch: gradient(model, b))
            number += 1
    assert number == STEPS
    return model.state_dict(), losses


def gradient(model, batch):
    model.zero_grad()
    F.cross_entropy(model(batch.image), batch.given_label).backward()


def clipped(model):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)


def sgd():
    momentum = {}

    @torch.no_grad()
    def step(model, decayed, lr, again):
        clipped(model)
        for name, p in model.named_parameters():
            g = p.grad + (0.2 * p if name in decayed else 0)
            momentum[name] = 0.9 * momentum[name] + g if name in momentum else g
            p -= lr * (g + 0.9 * momentum[name])

    return step


def adamw(p, g, lr, decay, state):
    """Step one parameter by the formulas of Loshchilov and Hutter (2019)."""
    state["t"] = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    p *= 1 - lr * decay
    p -= lr * (state["m"] / (1 - 0.9 ** state["t"])) / ((state["v"] / (1 - 0.999 ** state["t"])).sqrt() + 1e-8)


def muon():
    """Momentum whose matrix becomes nearly orthogonal."""
    state = {}

    @torch.no_grad()
    def step(model, decayed, lr, again):
        clipped(model)
        for name, p in model.named_parameters():
            own, g = state.setdefault(name, {}), p.grad
            decay = 0.2 if name in decayed else 0.0
            if not (name.startswith("blocks.") and name.endswith(".weight") and p.ndim == 2):
                adamw(p, g, lr, decay, own)
                continue
            own["b"] = 0.95 * own.get("b", 0) + 0.05 * g
            update = newton_schulz(0.05 * g + 0.95 * own["b"])
            p *= 1 - lr * decay
            p -= lr * 0.2 * max(p.shape) ** 0.5 * update

    return step


def newton_schulz(g):
    """Return the quintic iteration of Jordan et al. (2024), five times; theirs is in bfloat16."""
    x = g.double()
    if x.shape[0] > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if g.shape[0] > g.shape[1] else x).float()


def sam():
    state = {}

    def step(model, decayed, lr, again):
        named = dict(model.named_parameters())
        norm = torch.cat([p.grad.flatten() for p in named.values()]).norm()
        before = {name: p.detach().clone() for name, p in named.items()}
        with torch.no_grad():
            for p in named.values():
                p += 0.3 * p.grad / norm
        again()
        with torch.no_grad():
            for name, p in named.items():
                p.copy_(before[name])
            clipped(model)
            for name, p in named.items():
                adamw(p, p.grad, lr, 0.2 if name in decayed else 0.0, state.setdefault(name, {}))

    return step


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"optimiser": "sgd", "lr": 0.1}, sgd),
        ({"optimiser": "muon", "lr": 3e-3}, muon),
        ({"sam": 0.3, "lr": 3e-3}, sam),
    ],
    ids=["sgd", "muon", "sam"],
)
def test_a_training_is_that_of_a_loop_by_hand(tmp_path, options, step):
    state = train(tmp_path / "run", **options)
    expected, losses = by_hand(options["lr"], step())
    start = started()[0].state_dict()

    def distance(other):
        return torch.cat([(expected[name] - other[name]).flatten() for name in expected]).norm()

    assert distance(state) < 1e-3 * distance(start)
    assert distance(train(tmp_path / "adamw", lr=options["lr"])) > 3e-3 * distance(start)
    kept = load_file(tmp_path / "run" / "losses.safetensors")["losses"]
    assert (kept - losses).abs().mean() < 1e-3 * losses.std()  # before each step, at the weights themselves


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"optimiser": "sgd"}, {"optimiser": "muon"}, {"optimiser": "muon", "sam": 0.1}])
def test_a_training_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch, options):
    """With dropout, of which both gradients of a step of SAM have the same."""
    whole = train(tmp_path / "whole", dropout=0.2, checkpoint_minutes=0, **options)
    original = MemorisationModule.training_step

    def stepped(self, batch, batch_idx):
        if self.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(MemorisationModule, "training_step", stepped)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", dropout=0.2, checkpoint_minutes=0, **options)
    again = train(tmp_path / "run", dropout=0.2, checkpoint_minutes=0, **options)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert (tmp_path / "run" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5)])
def test_a_step_of_muon_is_that_of_pytorch(shape):
    """But for bfloat16, in which theirs multiplies: three digits."""
    torch.manual_seed(0)
    weight = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    group = {"params": [ours], "weight_decay": 0.3}
    stepped = [
        MuonWithAdamW([group], [{"params": [torch.nn.Parameter(torch.zeros(1))]}], 0.1, fused=False),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(4):
        gradient = torch.randn(shape)
        for p, optimiser in zip((ours, theirs), stepped, strict=True):
            p.grad = gradient.clone()
            optimiser.step()
        assert torch.equal(ours.grad, gradient)
    assert (ours - theirs).norm() < 0.03 * (ours - weight).norm()
    values = torch.linalg.svdvals(orthogonalised(torch.randn(30, 20)))
    assert 0.6 < values.min() < values.max() < 1.3


def test_the_classifier_and_the_embedding_are_not_muons():
    model, _ = started()
    names = {f"blocks.{k}.{part}.weight" for k in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert hidden_matrices(model) == names


def test_the_way_up_has_the_length_that_was_asked_for_and_leads_back():
    model = torch.nn.Linear(5, 4)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(3, 5)).square().sum().backward()
    back = ascend(model, 0.7)
    moves = [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]
    assert torch.cat([move.flatten() for move in moves]).norm() == pytest.approx(0.7, rel=1e-5)
    back()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("train", "trainer", "said"),
    [
        ({"optimiser": "lion"}, {}, "train.optimiser is 'lion'; choose from adamw, sgd, muon"),
        ({"sam": -1.0}, {}, "train.sam is -1.0; it must not be negative"),
        ({"sam": 0.1}, {"accumulate": 2}, "two gradients of one batch"),
        ({"sam": 0.1}, {"precision": "16-mixed"}, "two gradients of one batch"),
        ({"optimiser": "muon"}, {"strategy": "fsdp"}, "need whole weights"),
    ],
)
def test_what_cannot_be_combined_is_said(train, trainer, said):
    with pytest.raises(ValueError, match=said):
        RunConfig(train=TrainConfig(**train), trainer=TrainerConfig(**trainer))
