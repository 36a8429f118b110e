"""Cost of collecting curvature, as ratios; all sides of one comparison run in turn, and medians of turns are printed.

    OMP_NUM_THREADS=1 python experiments/bench_curvature.py [PART ...] [--width 768 --image 224 --patch 16]

A CPU is timed by the seconds that it works for this process, so that neighbours matter less; a GPU by the clock.

- collect: on a ViT, a few batches of one size, all qkv, proj, fc1 and fc2: ``pass``, forward and backward for
  activation gradients only, from the first chosen layer on (what any method must pay); ``products``, the plain
  covariance products x^T x of all inputs and output gradients, all tokens; ``cls`` and ``all``, our factors with these
  tokens (sampled labels, one draw); K-FAC of curvlinops (mc, expand) and of kronfluence (sampled labels, with biases)
  where they are installed; then decomposing against collecting 10,000 images.
- strength: one further rho for a 3072 x 768 matrix against its two products.
- memory: forecast, and measured peak of collecting, for fc1 and fc2 in blocks 0 and 11 of a ViT-B/16 at 224 pixels.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from vitmem.curvature.cache import CurvatureConfig, LayerCurvature
from vitmem.curvature.collect import collect_factors, collect_moments, observed
from vitmem.curvature.cost import requirements
from vitmem.curvature.filters import hard_masks
from vitmem.curvature.layers import LinearMap, linear_maps
from vitmem.curvature.spectrum import Eigenbasis, KroneckerMass, Target, decompose_all, find_threshold
from vitmem.datamodules.batch import Batch
from vitmem.editing.kfac import KFAC, filtered
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.models.layers import select_layers


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(sides: dict, turns: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each side in each turn, after one warm-up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            synchronise(device)
            start = clock()
            side()
            synchronise(device)
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def build(options) -> tuple[torch.nn.Module, Batch, dict]:
    """Return a ViT, one batch, and the linear maps of its blocks."""
    config = ModelConfig(width=options.width, depth=options.depth, heads=options.width // 64, patch=options.patch)
    image = options.image
    model = create(config.timm_arguments((3, image, image), options.classes), seed=0).to(options.device).eval()
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(options.classes, (options.batch,), generator=generator)
    batch = Batch(
        torch.randn(options.batch, 3, image, image, generator=generator).to(options.device),
        label, label, torch.zeros(options.batch, dtype=torch.bool), torch.arange(options.batch),
    )  # fmt: skip
    return model, batch, linear_maps(select_layers(model, "blocks.*"))


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


def kronfluence_side(options):
    """Return a function that computes kronfluence's covariances on a model of its own, or None."""
    try:
        from kronfluence.analyzer import prepare_model
        from kronfluence.arguments import FactorArguments
        from kronfluence.factor.covariance import fit_covariance_matrices_with_loader
        from kronfluence.task import Task
        from kronfluence.utils.state import State
    except ImportError:
        return None
    model, batch, maps = build(options)

    class Classify(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits, label = model(batch[0]), batch[1]
            if sample:
                label = torch.multinomial(logits.detach().softmax(1), 1).flatten()
            return F.cross_entropy(logits, label, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self):
            return list(maps)

    task, state = Classify(), State(cpu=options.device == "cpu")
    model = prepare_model(model, task)
    loader = [(batch.image, batch.given_label.to(batch.image.device))] * options.batches
    how = FactorArguments(strategy="kfac")
    return lambda: fit_covariance_matrices_with_loader(model, state, task, loader, how, disable_tqdm=True)


def median_ratio(above, below) -> str:
    """Return the median over turns of the ratio of two lists of seconds."""
    return f"{statistics.median(a / b for a, b in zip(above, below, strict=True)):.3f}"


def collecting(options) -> None:
    """Print the cost of collecting, and of decomposing."""
    model, batch, maps = build(options)
    device = torch.device(options.device)
    seen: list[torch.Tensor] = []
    modules = {name: m.module for name, m in maps.items()}
    with observed(model, modules, lambda n, a: seen.append(a), lambda n, g: seen.append(g.clone())) as forward:
        logits = forward(batch.image)
        logits.backward(torch.softmax(logits.detach(), 1))
    rows = [x.flatten(0, -2).clone() for x in seen]
    batches = [batch] * options.batches
    factors = collect_factors(model, batches, maps)
    others = {"curvlinops": curvlinops_side(model, batches, maps), "kronfluence": kronfluence_side(options)}
    sides = {
        "pass": lambda: activation_pass(model, batches, maps),
        "products": lambda: [x.T @ x for _ in batches for x in rows],
        "cls": lambda: collect_factors(model, batches, maps, tokens="cls"),
        "all": lambda: collect_factors(model, batches, maps, tokens="all"),
        **{name: side for name, side in others.items() if side},
    }
    seconds = in_turn(sides, options.turns, device)
    tokens = (options.image // options.patch) ** 2 + 1
    print(f"collect: width {options.width}, depth {options.depth}, {tokens} tokens, {options.batches} batches of "
          f"{options.batch}, {options.turns} turns")  # fmt: skip
    for name, values in seconds.items():
        print(f"  {name:<12} median {statistics.median(values):.3f} s ({min(values):.3f} to {max(values):.3f})")
    beyond = [a - p for a, p in zip(seconds["all"], seconds["pass"], strict=True)]
    print(f"  cls / pass                {median_ratio(seconds['cls'], seconds['pass'])}")
    print(f"  (all - pass) / products   {median_ratio(beyond, seconds['products'])}")
    for name, side in others.items():
        told = median_ratio(seconds[name], seconds["all"]) if side else "skipped: not installed"
        print(f"  {name + ' / all':<25} {told}")
    solved = in_turn({"eigh": lambda: decompose_all(factors, torch.float32)}, 1, device)["eigh"]
    for tokens in ("cls", "all"):
        whole = 10_000 / (options.batch * options.batches) * statistics.median(seconds[tokens])
        print(f"  decomposing / collecting 10,000 images, {tokens:<4} {solved[0] / whole:.3f}")


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

    def masked() -> torch.Tensor:
        (mask,) = hard_masks([mass], find_threshold([mass], Target("rho", next(rhos))))
        return basis.compose(filtered(c_OI, mask))

    sides = {
        "products": lambda: u_OO @ c_OI @ u_II.T,
        "rho": masked,
        "edit": lambda: KFAC(layers="fc1", rho=next(rhos)).edited(model, layers, generator, {}),
        "threshold": lambda: find_threshold([mass], Target("rho", next(rhos))),
    }
    seconds = in_turn(sides, 3 * options.turns, device)
    print(f"strength: 3072 x 768, {3 * options.turns} turns")
    print(f"  one further rho / its two products   {median_ratio(seconds['rho'], seconds['products'])}")
    print(f"  the same with the edit's report      {median_ratio(seconds['edit'], seconds['products'])}")
    print(f"  threshold / the two products         {median_ratio(seconds['threshold'], seconds['products'])}")


CASES = {
    "class token, 32 images": {"tokens": "cls", "batch_size": 32},
    "all tokens, 16 images": {"tokens": "all", "batch_size": 16},
    "EK-FAC, 16 images": {"moments": "ekfac", "batch_size": 16},
}


def memory_worker(options) -> None:
    """Print the forecast, and by how many bytes curvature raises the memory in use, in a process of its own."""
    config = CurvatureConfig(layers="blocks.{0,11}.mlp.*", **CASES[options.worker])
    model = create(ModelConfig().timm_arguments((3, 224, 224), 1000), seed=0).to(options.device).eval()
    maps = linear_maps(select_layers(model, config.layers))

    def batch(images: int) -> Batch:
        label = torch.zeros(images, dtype=torch.int64)
        image = torch.randn(images, 3, 224, 224).to(options.device)
        return Batch(image, label, label, label.bool(), torch.arange(images))

    collect_factors(model, [batch(1)], maps)  # libraries set up buffers of their own
    data = [batch(config.batch_size)]
    forecast = requirements(model, maps, config, 1, (3, 224, 224)).memory
    if options.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again at what is in use
        before = resident("VmRSS")
    else:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    if config.moments == "ekfac":  # any bases take as much
        eye = partial(torch.eye, device=options.device)
        bases = {
            name: Eigenbasis(eye(m.outputs), torch.ones(m.outputs), eye(m.inputs), torch.ones(m.inputs), 0.0, 0.0)
            for name, m in maps.items()
        }
        _sums = collect_moments(model, data, maps, bases)
    else:
        _sums = collect_factors(model, data, maps, tokens=config.tokens)
    peak = resident("VmHWM") if options.device == "cpu" else torch.cuda.max_memory_allocated()
    print(forecast, peak - before)  # the sums are still held


def resident(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def memory(options) -> None:
    """Print forecasts beside measured peaks."""
    print("memory: ViT-B/16, 224 pixels, fc1 and fc2 of blocks 0 and 11")
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed tensors go back to the system
    for case in CASES:
        command = [sys.executable, __file__, "--device", options.device, "--worker", case]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"  {case:<24} skipped: {done.stderr.strip().splitlines()[-1]}")
            continue
        forecast, peak = (int(value) for value in done.stdout.splitlines()[-1].split())
        print(f"  {case:<24} forecast {forecast / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, ratio {forecast / peak:.3f}")


PARTS = {"collect": collecting, "strength": further_rho, "memory": memory}


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    defaults = {"width": 192, "depth": 6, "image": 32, "patch": 4, "batch": 64, "classes": 10, "turns": 7, "batches": 4}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {min(unknown)!r}; parts are {', '.join(PARTS)}")
    if options.worker:
        memory_worker(options)
        return
    for part in options.parts or PARTS:
        PARTS[part](options)


if __name__ == "__main__":
    main()
