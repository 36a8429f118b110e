"""The contest of digits_contest.yaml in short, on ViT-Base and CIFAR-10, in a given time on one GPU.

    python experiments/gpu_contest.py [--minutes 30] [--root data] [--out runs] [--peak 989]
    python experiments/gpu_contest.py --toy --out runs/toy        the same on digits and a CPU, in a minute

Training takes as many epochs as fit into 60 % of the time at the measured speed, at most 200; then each method has the
fewest trials that matched strengths need. Writes runs/gpu_contest: results.csv, contest.md (the tables; of one seed,
without intervals), and facts.json (speed, model FLOPs utilisation, epochs, memorised accuracy). Before believing an
edit, see that base memorises at least 0.8 of the wrong labels.
"""

import argparse
import json
import sys
from pathlib import Path

import contest
import torch
import yaml

from vitmem.cli import main as vitmem
from vitmem.experiment.bisection import FEWEST
from vitmem.figures.tables import read_results
from vitmem.runs.config import RunConfig
from vitmem.runs.start import make_data, timm_arguments
from vitmem.runs.trained import TrainedRun
from vitmem.training import cost

TRAINING = 0.6  # share of the time
BASE = {
    "data": {"name": "cifar10", "root": "data"},
    "noise": {"kind": "symmetric", "rate": 0.1, "seed": 0},
    "model": {"name": "vit_base_patch16_224", "patch": 4},
    "augment": {"flip": True},
    "train": {"epochs": 200, "batch_size": 512, "lr": 5e-4, "weight_decay": 0.1, "warmup_epochs": 3, "eval_every": 5},
    "trainer": {"precision": "bf16-mixed"},
}
TOY = {
    "data": {"name": "digits"},
    "noise": {"kind": "symmetric", "rate": 0.1, "seed": 0},
    "model": {"width": 32, "depth": 2, "heads": 2, "patch": 4},
    "train": {"epochs": 60, "batch_size": 64, "lr": 2e-3, "warmup_epochs": 0.5},
    "trainer": {"accelerator": "cpu"},
}


def edits(last: int) -> list[dict]:
    """Return the methods; ``last`` is the number of the last block."""
    ends = f"blocks.{{0,{last}}}.mlp.*"
    few = {"examples": 5000, "labels": "sampled"}
    return [
        {"id": "published", "name": "kfac", "layers": ends, "tokens": "cls"},
        {"id": "published_all_layers", "name": "kfac", "examples": 5000},
        {"id": "graded", "name": "ekfac", **few},
        {"id": "graded_of_update", "name": "ekfac", "of": "update", **few},
        {"id": "inputs", "name": "input_filter", "examples": 5000},
        {"id": "svd_graded", "name": "svd", "filter": "graded"},
        {"id": "svd_graded_of_update", "name": "svd", "filter": "graded", "of": "update"},
        {"name": "scale"},
        {"name": "rewind"},
    ]


def planned(base: dict, minutes: float) -> tuple[dict, cost.Plan]:
    """Return a configuration whose training fits into its share of the time, and what was measured for that."""
    config = RunConfig.from_dict(base)
    data = make_data(config)
    measured = cost.plan(timm_arguments(config, data), data, config.train, config.trainer)
    per_epoch = measured.hours * 60 / config.train.epochs
    epochs = max(1, min(config.train.epochs, int(TRAINING * minutes / per_epoch)))
    return {**base, "train": {**base["train"], "epochs": epochs}}, measured


def main() -> int:
    """Train, edit and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--root", default="data", help="where CIFAR-10 is, or is to be downloaded to")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of the device in bfloat16")
    parser.add_argument("--toy", action="store_true", help="digits and a tiny model, on the CPU")
    options = parser.parse_args()
    base = TOY if options.toy else {**BASE, "data": {**BASE["data"], "root": options.root}}
    base, measured = planned(base, options.minutes)
    depth = base["model"].get("depth", 12)
    file, folder = options.out / "gpu_contest.yaml", options.out / "gpu_contest"
    options.out.mkdir(parents=True, exist_ok=True)
    content = {**base, "name": "gpu_contest", "references": [], "save_weights": False, "figures": False}
    content |= {"tune": FEWEST, "tuner": "bisect", "edits": edits(depth - 1)}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    if code := vitmem(["run", str(file), "--out", str(options.out)]):
        return code
    rows = read_results(folder / "results.csv")
    text = [line for point in contest.POINTS for line in contest.table(rows, point, ["scale", "rewind"], 0.02)]
    (folder / "contest.md").write_text("\n".join(text))
    seconds = json.loads((folder / "seed0" / "provenance.json").read_text())["train_seconds"]
    flops = 3 * measured.forward_flops * len(TrainedRun.open(folder / "seed0").data.fit_examples())
    flops *= base["train"]["epochs"]
    (unedited,) = [row for row in rows if row["id"] == "base"]
    facts = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "epochs": base["train"]["epochs"],
        "train_seconds": seconds,
        "images_per_second_probed": measured.train_speed,
        "model_flops_utilisation": flops / seconds / (options.peak * 1e12),
        "base_memorized": unedited["memorized_accuracy"],
        "base_validation": unedited["validation_accuracy"],
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print("\n".join(text))
    print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
