"""Cost of collecting curvature, as ratios; all sides of one comparison run in turn, and medians are printed.

    python experiments/bench_curvature.py [--device cuda --width 768 --depth 12 --image 224 --patch 16] [--turns 7]

On a ViT, a few batches of one size, all qkv, proj, fc1 and fc2:

- pass: forward and backward for activation gradients only, from the first chosen layer on (what any method must pay);
- products: the plain covariance products x^T x of all inputs and output gradients, all tokens;
- cls, all: collecting our factors with these tokens (sampled labels, one draw);
- curvlinops: its K-FAC (mc, expand) on the same layers, if it is installed.

Then one further value of rho for a 3072 x 768 matrix against its two products, and the memory of collecting.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from vitmem import models
from vitmem.curvature.cache import LayerCurvature
from vitmem.curvature.collect import collect_factors, observed
from vitmem.curvature.filters import hard_masks
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.curvature.spectrum import Eigenbasis, KroneckerMass, Target, find_threshold
from vitmem.datamodules.batch import Batch
from vitmem.editing.kfac import KFAC


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(sides: dict, turns: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each side in each turn, after one warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            synchronise(device)
            start = time.perf_counter()
            side()
            synchronise(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def build(options) -> tuple[torch.nn.Module, Batch, dict]:
    """Return a ViT, one batch, and the linear maps of its blocks."""
    config = models.ModelConfig(
        width=options.width, depth=options.depth, heads=options.width // 64, patch=options.patch
    )
    image = options.image
    model = models.create(config.timm_arguments((3, image, image), options.classes), seed=0).to(options.device).eval()
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(options.classes, (options.batch,), generator=generator)
    batch = Batch(
        torch.randn(options.batch, 3, image, image, generator=generator).to(options.device),
        label, label, torch.zeros(options.batch, dtype=torch.bool), torch.arange(options.batch),
    )  # fmt: skip
    return model, batch, linear_maps(models.select_layers(model, "blocks.*"))


def activation_pass(model, batches: list[Batch], maps: dict) -> None:
    """Run forward, and backward down to the output of the first chosen layer."""
    first = dict(list(maps.items())[:1])
    modules = {name: m.module for name, m in first.items()}
    with observed(model, modules, lambda *_: None, lambda *_: None) as forward:
        for batch in batches:
            logits = forward(batch.image)
            logits.backward(torch.softmax(logits.detach(), 1))


def curvlinops_side(model, batches: list[Batch], maps: dict):
    """Return a function that computes curvlinops' factors, or None."""
    try:
        from curvlinops import KFACLinearOperator
    except ImportError:
        return None
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    parameters = [m.module.weight.requires_grad_(True) for m in maps.values()]
    loss = torch.nn.CrossEntropyLoss(reduction="mean")

    def side() -> None:
        data = [(batch.image, batch.given_label.to(batch.image.device)) for batch in batches]
        operator = KFACLinearOperator(
            model, loss, parameters, data, fisher_type="mc", kfac_approx="expand", check_deterministic=False
        )
        operator.compute_kronecker_factors()

    return side


def collecting(options) -> None:
    """Print the cost of collecting."""
    model, batch, maps = build(options)
    device = torch.device(options.device)
    seen: list[torch.Tensor] = []
    modules = {name: m.module for name, m in maps.items()}
    with observed(model, modules, lambda n, a: seen.append(a), lambda n, g: seen.append(g.clone())) as forward:
        logits = forward(batch.image)
        logits.backward(torch.softmax(logits.detach(), 1))
    rows = [x.flatten(0, -2).clone() for x in seen]
    batches = [batch] * options.batches
    sides = {
        "pass": lambda: activation_pass(model, batches, maps),
        "products": lambda: [x.T @ x for _ in batches for x in rows],
        "cls": lambda: collect_factors(model, batches, maps, tokens="cls"),
        "all": lambda: collect_factors(model, batches, maps, tokens="all"),
    }
    if (other := curvlinops_side(model, batches, maps)) is not None:
        sides["curvlinops"] = other
    seconds = in_turn(sides, options.turns, device)
    for name, values in seconds.items():
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"{name:<10} median {statistics.median(values):.3f} s ({spread})")

    def ratio(above, below) -> float:
        turns = range(options.turns)
        return statistics.median(above(i) / below(i) for i in turns)

    print(
        f"cls / pass                            {ratio(lambda i: seconds['cls'][i], lambda i: seconds['pass'][i]):.3f}"
    )
    share = ratio(lambda i: seconds["all"][i] - seconds["pass"][i], lambda i: seconds["products"][i])
    print(f"(all - pass) / products               {share:.3f}")
    if other is not None:
        speed = ratio(lambda i: seconds["curvlinops"][i], lambda i: seconds["all"][i])
        print(f"curvlinops / all                      {speed:.3f}")


def further_rho(options) -> None:
    """Print the cost of one further rho against the two products of the edit."""
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    spectra = [
        torch.rand(n, generator=generator, dtype=torch.float64).pow(12).sort(descending=True).values
        for n in (3072, 768)
    ]
    mass = KroneckerMass(*(s.to(device) for s in spectra))
    c_OI = torch.randn(3072, 768, generator=generator).to(device)
    u_OO, u_II = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q.to(device) for n in (3072, 768))
    model = torch.nn.ModuleDict({"fc1": torch.nn.Linear(768, 3072)}).to(device)
    basis = Eigenbasis(u_OO, mass.lambda_O, u_II, mass.mu_I, 0.0, 0.0)
    layers = {"fc1": LayerCurvature(LinearMap("fc1", model["fc1"]), basis, mass, c_OI)}
    rhos = iter(torch.linspace(0.5, 0.99, 1000).tolist())
    sides = {
        "products": lambda: u_OO @ c_OI @ u_II.T,
        "rho": lambda: (
            u_OO @ (c_OI * hard_masks([mass], find_threshold([mass], Target("rho", next(rhos))))[0]) @ u_II.T
        ),
        "edit": lambda: KFAC(layers="fc1", rho=next(rhos)).edited(model, layers, generator),
        "threshold": lambda: find_threshold([mass], Target("rho", next(rhos))),
    }
    seconds = in_turn(sides, options.turns, device)
    ratio, edit = (
        statistics.median(a / b for a, b in zip(seconds[side], seconds["products"], strict=True))
        for side in ("rho", "edit")
    )
    threshold = statistics.median(seconds["threshold"])
    print(f"one further rho / its two products    {ratio:.3f} (threshold alone {1000 * threshold:.1f} ms)")
    print(f"the same with the edit's report       {edit:.3f}")


def memory_worker(options) -> None:
    """Print by how many bytes one side raises the memory in use, in a process of its own."""
    model, batch, maps = build(options)
    sides = {
        "pass": lambda: activation_pass(model, [batch], maps),
        "plain": lambda: F.cross_entropy(model(batch.image), batch.given_label.to(batch.image.device)).backward(),
        "collect": lambda: collect_factors(model, [batch], maps, tokens="all"),
    }
    if batch.image.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        sides[options.worker]()
        print(torch.cuda.max_memory_allocated() - before)
        return
    activation_pass(model, [batch.map(lambda field: field[:1])], maps)  # libraries set up buffers of their own
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again at what is in use
    before = resident("VmRSS")
    sides[options.worker]()
    print(resident("VmHWM") - before)


def resident(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def memory(options) -> None:
    """Print the peak memory of collecting beside that of the passes."""
    peak = {}
    for side in ("pass", "plain", "collect"):
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", side]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed tensors go back to the system
        done = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(3)]
        values = [int(run.stdout) for run in done]
        peak[side] = statistics.median(values)
    _, _, maps = build(options)
    tokens = (options.image // options.patch) ** 2 + 1
    factors = sum(4 * (m.inputs**2 + m.outputs**2) for m in maps.values())
    largest = max(4 * options.batch * tokens * (m.inputs + m.outputs) for m in maps.values())
    for side, name in (("pass", "activation gradients only"), ("plain", "plain forward and backward")):
        over = (peak["collect"] - peak[side] - factors) / largest
        print(f"collecting, all tokens, over {name}: {(peak['collect'] - peak[side]) / 1e6:.1f} MB, of which factors "
              f"{factors / 1e6:.1f} MB; the rest is {over:.2f} of the largest layer's input and gradient")  # fmt: skip


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"width": 192, "depth": 6, "image": 32, "patch": 4, "batch": 64, "classes": 10, "turns": 7, "batches": 4}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", choices=("pass", "plain", "collect"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        memory_worker(options)
        return
    collecting(options)
    further_rho(options)
    memory(options)


if __name__ == "__main__":
    main()
