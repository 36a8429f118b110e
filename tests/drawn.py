"""Result tables that the tests of figures share."""

import csv

import numpy as np

from vitmem.figures import style

ACCURACIES = list(style.ACCURACIES)


SHEET = {
    "image": np.linspace(0, 1, 3 * 16).reshape(3, 4, 4),
    "given": [0, 1, 2],
    "true": [1, 2, 0],
    "before": [0, 1, 2],
    "after": [1, 1, 1],
    "class_names": ["cat", "dog", "flying_squirrel"],
    "title_after": "kfac, rho 0.5",
}


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_history(folder, offset=0.0):
    # Evaluated after the second and the fourth epoch only.
    rows = [[e, e, 0.1, 1.0, *([0.1 * e + offset] * 4 if e % 2 else [""] * 4)] for e in range(4)]
    write_csv(folder / "metrics.csv", ["epoch", "step", "lr", "train_loss", *ACCURACIES], rows)


def write_results(path, seeds=(0,), models=None):
    models = models or {"base": ("", "", ""), "kfac-rho0.5": ("kfac", "rho", 0.5), "kfac-rho0.9": ("kfac", "rho", 0.9)}
    header = ["experiment", "seed", "id", "edit", "option", "value"]
    header += [column for name in ACCURACIES for column in (name, f"{name}_low", f"{name}_high", f"{name}_n")]
    rows = [
        ["digits", seed, name, *options, *[0.2 * number + 0.1 * seed, 0.2 * number, 0.2 * number + 0.05, 100] * 4]
        for seed in seeds
        for number, (name, options) in enumerate(models.items())
    ]
    write_csv(path, header, rows)


def write_spectra(path, size=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = 5.0 / np.arange(1, size + 1) ** 2
    values[-1] = 0  # the factors are often singular
    layers = ["blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head"]
    np.savez(path, **{f"{layer}/{factor}": values for layer in layers for factor in "AG"})


SIZES = {"attn.qkv": (12, 7), "attn.proj": (4, 9), "mlp.fc2": (6, 15)}


def write_random_spectra(folder):
    """Write spectra of two blocks with zeros at the end, and return lambda and mu by layer."""
    random = np.random.default_rng(0)
    layers = {
        f"blocks.{block}.{kind}": [np.append(np.sort(random.exponential(size=n - 2) ** 4)[::-1], [0, 0]) for n in shape]
        for block in range(2)
        for kind, shape in SIZES.items()
    }
    path = folder / "seed0/factors/0123456789abcdef.spectra.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{f"{layer}/{f}": v for layer, pair in layers.items() for f, v in zip("GA", pair, strict=True)})
    return layers
