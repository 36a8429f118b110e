"""Questions of reviewers that no verb answers, asked of the models of experiments/replicate.yaml, in one table.

    python experiments/replicate.py runs/replicate [--only curvature,doses] [--out FOLDER]

Writes OUT/measures.csv: `table` (the part), `name, mean, low, high, seeds`, means over seeds with 95 % t intervals;
what a part is, its function says. About three minutes a seed on one core. The pages replicate_*.md read it.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import replicate_stored
import torch
from replicate_curvature import Products, along, bands, matrices
from scipy.stats import spearmanr
from torch import Tensor, nn

from vitmem.analysis.answers import accuracies_of, answers_of
from vitmem.analysis.contract import AnalysisData
from vitmem.curvature.cache import LayerCurvature
from vitmem.datamodules.batch import Examples, keyed_generator
from vitmem.editing.contract import Edit
from vitmem.editing.kfac import EKFAC, KFAC
from vitmem.editing.shrink import Rewind, Scale
from vitmem.evaluation.formats import Table, to_csv
from vitmem.evaluation.statistics import t_interval
from vitmem.figures.tables import seed_folders
from vitmem.files import write_atomically
from vitmem.models.build import with_weights
from vitmem.runs.analyse import analysis_data
from vitmem.runs.trained import TrainedRun

PUBLISHED = KFAC(draws=8, rho=0.81)
IMAGES = 400  # of Hessian and Fisher, and of the factors that are compared with them
EXACT = KFAC(labels="exact", examples=IMAGES)
PROBES, DRAWS = 2, 2  # random vectors for each layer and seed, and for each band
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
ACCURACIES = ("memorized_accuracy", "ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A trained model and what belongs to it.

    Args:
        run: its folder.
        data: what there is to look at.
        generator: source of randomness.
    """

    run: TrainedRun
    data: AnalysisData
    generator: torch.Generator

    @classmethod
    def open(cls, folder: Path) -> "Subject":
        """Open a run folder."""
        run = TrainedRun.open(folder)
        return cls(run, analysis_data(run, "base", {})[0], torch.Generator())

    def asked(self, part: str) -> dict[str, float]:
        """Return the numbers of a part, whose random numbers do not depend on the other parts."""
        if part in STORED:
            return STORED[part](self.run.path)
        generator = keyed_generator(self.run.config.seed, 12, list(PARTS).index(part))
        return PARTS[part](dataclasses.replace(self, generator=generator))

    @property
    def model(self) -> nn.Module:
        """The unedited model."""
        return self.run.model

    @property
    def some(self) -> Examples:
        """The training images whose curvature is collected: the draw that edits make, too."""
        train = self.run.data.train_examples
        return train.subset(torch.randperm(len(train), generator=keyed_generator(EXACT.seed, 4))[:IMAGES].sort().values)

    def edited(self, edit: Edit) -> nn.Module:
        """Return the model that an edit makes."""
        return with_weights(self.model, edit.apply(self.model, self.data.seen, self.generator).state_dict)

    def layers(self, config: KFAC) -> dict[str, LayerCurvature]:
        """Return the curvature of the block layers."""
        return self.data.curvature(self.model, config.collected).layers

    def changed(self, matrices_OI: Mapping[str, Tensor]) -> nn.Module:
        """Return the model with the weights of some layers replaced."""
        state = {f"{name}.weight": value for name, value in matrices_OI.items()}
        return with_weights(self.model, {**self.model.state_dict(), **state})

    def accuracies(self, model: nn.Module) -> dict[str, float]:
        """Return the four accuracies of a model."""
        train = self.run.data.train_examples
        forget, clean = train.subset(train.to_forget), train.subset(train.to_retain)
        found = accuracies_of(model, self.run.data, forget, clean, self.run.data.validation_examples)
        return {name: found[name] for name in ACCURACIES}


def curvature(subject: Subject) -> dict[str, float]:
    """Fisher against Hessian of the training loss, K-FAC against both, bands of pairs, and the published edit's step.

    ``step``: the edit at rho 0.81, d = W' - W: change of the loss, beside what the gradient and H, or F alone, say.
    """
    layers, moments = subject.layers(EXACT), subject.layers(EKFAC(examples=IMAGES))
    smoothing = subject.run.config.train.label_smoothing
    products = Products(subject.model, subject.run.data, subject.some, list(layers), smoothing)
    numbers = matrices(products, layers, moments, PROBES, subject.generator)
    numbers |= bands(products, layers, DRAWS, subject.generator)
    edited = subject.edited(PUBLISHED).state_dict()
    moved = {name: edited[f"{name}.weight"] for name in layers}
    step = {name: moved[name] - layer.map.matrix() for name, layer in layers.items()}
    slope = sum(float((step[name] * value).sum()) for name, value in products.gradient().items())
    hessian, fisher = along(products, step)
    numbers["step: change of the loss"] = products.loss(moved) - products.loss()
    numbers["step: by the gradient"] = slope
    numbers["step: half d'Hd"], numbers["step: half d'Fd"] = hessian / 2, fisher / 2
    return numbers


def alignment(subject: Subject) -> dict[str, float]:
    """Overlap of the leading singular vectors of weights with the leading eigenvectors of the factors, and of the rest.

    Of as many directions as a tenth of the smaller side: mean squared cosine of the two subspaces, 1 if they are equal;
    ``random`` is what random subspaces have. ``gap``: ratio of neighbouring masses at the threshold of rho 0.81, median
    over layers, and the largest ratio within 100 ranks of it.
    """
    found: dict[str, list[float]] = {}
    for layer in subject.layers(PUBLISHED).values():
        w_OI = layer.map.matrix().double()
        u_OK, _, v_KI = torch.linalg.svd(w_OI, full_matrices=False)
        count = max(1, len(v_KI) // 10)
        sides = {"inputs": (v_KI.T, layer.basis.u_a_II), "outputs": (u_OK, layer.basis.u_g_OO)}
        for side, (singular, eigen) in sides.items():
            overlap = (singular[:, :count].T @ eigen[:, :count].double()).square().sum() / count
            found.setdefault(f"overlap, {side}", []).append(float(overlap))
            found.setdefault(f"overlap, {side}, random", []).append(count / len(eigen))
        mass = layer.mass.dense().flatten().sort(descending=True).values
        at = int((mass.cumsum(0) < PUBLISHED.rho * mass.sum()).sum())  # the pair that crosses, the last that is kept
        ratios = mass[max(at - 100, 0) : at + 100] / mass[max(at - 100, 0) + 1 : at + 101]
        found.setdefault("gap at the threshold", []).append(float(mass[at] / mass[at + 1]))
        found.setdefault("largest gap nearby", []).append(float(ratios.max()))
        found.setdefault("kept share of pairs", []).append((at + 1) / len(mass))
    return {name: float(torch.tensor(values).median()) for name, values in found.items()}


def places(subject: Subject) -> dict[str, float]:
    """Can layers be chosen without labels? Each of the 16 layers is halved; rank correlations with the memory it takes.

    Guesses: ``update`` (relative norm of what training changed), ``fisher`` (what F says that halving costs), ``flips``
    (share of all training images whose answer changes), ``curvature`` (K-FAC's total mass), ``norm`` of the weights.
    """
    train = subject.run.data.train_examples
    layers = subject.layers(EXACT)
    products = Products(subject.model, subject.run.data, subject.some, list(layers), 0.0)
    start, said = subject.run.initial_state, answers_of(subject.model, subject.run.data, train).prediction
    base = subject.accuracies(subject.model)
    guesses: dict[str, list[float]] = {}
    taken: dict[str, list[float]] = {"memory": [], "validation": []}
    for name, layer in layers.items():
        w_OI = layer.map.matrix()
        model = subject.changed({name: w_OI / 2})
        after = subject.accuracies(model)
        taken["memory"].append(base["memorized_accuracy"] - after["memorized_accuracy"])
        taken["validation"].append(base["validation_accuracy"] - after["validation_accuracy"])
        zero = {n: torch.zeros_like(c.map.matrix()) for n, c in layers.items()}
        own = {
            "update": float((w_OI - start[f"{name}.weight"]).norm() / w_OI.norm()),
            "fisher": float((products.fisher({**zero, name: w_OI / 2})[name] * w_OI / 2).sum()),
            "flips": float((answers_of(model, subject.run.data, train).prediction != said).double().mean()),
            "curvature": layer.mass.total,
            "norm": float(w_OI.norm()),
        }
        for guess, value in own.items():
            guesses.setdefault(guess, []).append(value)
    return {
        f"{guess} with {what} taken": float(spearmanr(values, lost).statistic)
        for guess, values in guesses.items()
        for what, lost in taken.items()
    }


def doses(subject: Subject) -> dict[str, float]:
    """Dose and response: the pairs that the published rule drops at rho 0.81, and those it keeps, times a factor.

    ``noise``: random normal steps of the same length in each layer as multiplying the dropped pairs.
    """
    layers = subject.layers(PUBLISHED)
    masks = PUBLISHED.hard(layers)
    numbers: dict[str, float] = {}
    for factor in FACTORS:
        moved: dict[str, dict[str, Tensor]] = {"dropped": {}, "kept": {}, "noise": {}}
        for name, layer in layers.items():
            c_OI, kept_OI = layer.coordinates_OI, masks[name]
            for part, mask in (("dropped", ~kept_OI), ("kept", kept_OI)):
                moved[part][name] = layer.basis.compose(torch.where(mask, factor * c_OI, c_OI))
            noise = torch.randn(c_OI.shape, generator=subject.generator)
            length = abs(factor - 1) * c_OI[~kept_OI].norm()
            moved["noise"][name] = layer.map.matrix() + noise * length / noise.norm()
        for part, matrices_OI in moved.items():
            for metric, value in subject.accuracies(subject.changed(matrices_OI)).items():
                numbers[f"{part} x {factor:g}, {metric}"] = value
    shares = [
        float(c.coordinates_OI[masks[n]].square().sum() / c.coordinates_OI.square().sum()) for n, c in layers.items()
    ]
    return numbers | {"squared norm in the kept pairs": sum(shares) / len(shares)}


def neighbours(subject: Subject) -> dict[str, float]:
    """What else goes? Validation by class, and clean training images that were learnt late, at memorized near 0.2.

    ``late``: the tenth of the clean images with the highest loss summed over training; ``rest``: the others.
    """
    data, train = subject.run.data, subject.run.data.train_examples
    clean = train.subset(train.to_retain)
    summed_N = subject.data.losses().nansum(0)[clean.index]
    late_N = summed_N >= summed_N.quantile(0.9)
    validation = data.validation_examples
    classes = range(data.data.num_classes)

    def seen(model: nn.Module) -> tuple[Tensor, Tensor]:
        right_V = (answers_of(model, data, validation).prediction == validation.true_label).double()
        by_class = torch.stack([right_V[validation.true_label == k].mean() for k in classes])
        return by_class, (answers_of(model, data, clean).prediction == clean.given_label).double()

    before, _ = seen(subject.model)
    ladder: dict[str, list[Edit]] = {
        "published": [dataclasses.replace(PUBLISHED, rho=rho) for rho in (0.81, 0.79, 0.77, 0.75, 0.73)],
        "graded": [EKFAC(rho=rho) for rho in (0.83, 0.8, 0.77, 0.74)],
        "scale": [Scale(factor=factor) for factor in (0.6, 0.57, 0.54, 0.51)],
        "rewind": [Rewind(keep=keep) for keep in (0.65, 0.6, 0.55, 0.5)],
    }
    models = {"retrain": subject.data.reference("retrain")}
    for family, edits in ladder.items():
        made = [subject.edited(edit) for edit in edits]
        models[family] = min(made, key=lambda m: abs(subject.accuracies(m)["memorized_accuracy"] - 0.2))
    numbers = {}
    for name, model in models.items():
        by_class, right_N = seen(model)
        lost = before - by_class
        numbers |= {
            f"{name}, memorized": subject.accuracies(model)["memorized_accuracy"],
            f"{name}, validation lost, mean of classes": float(lost.mean()),
            f"{name}, validation lost, worst class": float(lost.max()),
            f"{name}, clean lost, late": 1 - float(right_N[late_N].mean()),
            f"{name}, clean lost, rest": 1 - float(right_N[~late_N].mean()),
        }
    return numbers


def checkpoints(subject: Subject) -> dict[str, float]:
    """The published rule at rho 0.81 on weights along the second half of training: accuracies before and after."""
    numbers = {}
    for epoch, read in subject.data.epochs().items():
        if 2 * epoch <= subject.run.config.train.epochs:  # most of the memory is not there yet
            continue
        model = with_weights(subject.model, read())
        seen = subject.data.curvature(model, PUBLISHED.collected, keep=False)
        state, _ = PUBLISHED.edited(model, seen.layers, subject.generator, {})
        for when, one in (("before", model), ("after", with_weights(model, state))):
            found = subject.accuracies(one)
            numbers |= {f"epoch {epoch}, {when}, {metric}": value for metric, value in found.items()}
    return numbers


PARTS: dict[str, Callable[[Subject], dict[str, float]]] = {
    part.__name__: part for part in (curvature, alignment, places, doses, neighbours, checkpoints)
}
STORED: dict[str, Callable[[Path], dict[str, float]]] = {
    part.__name__: part
    for part in (
        replicate_stored.smoothness,
        replicate_stored.drawn,
        replicate_stored.tails,
        replicate_stored.relearning,
    )
}


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[dict]]:
    """Return, by part, a row for each number: its mean over seeds with a 95 % t interval.

    Args:
        found: by part, the numbers of each seed.
    """
    rows: dict[str, list[dict]] = {part: [] for part in found}
    for part, by_seed in found.items():
        for name in dict.fromkeys(name for numbers in by_seed for name in numbers):
            mean = t_interval([numbers.get(name, math.nan) for numbers in by_seed])
            own = {"mean": mean.mean, "low": mean.low, "high": mean.high}
            digits = {key: float(f"{value:.5g}") for key, value in own.items()}
            rows[part].append({"name": name, **digits, "seeds": mean.n})
    return rows


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="experiment folder of experiments/replicate.yaml")
    parser.add_argument("--only", default=",".join([*PARTS, *STORED]), help="parts, comma-separated")
    parser.add_argument("--out", type=Path, help="where measures.csv is written; the experiment folder by default")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := [part for part in parts if part not in PARTS | STORED]:
        parser.error(f"--only: {unknown[0]!r} is none of {', '.join(PARTS | STORED)}")
    found: dict[str, list[dict[str, float]]] = {part: [] for part in parts}
    for seed, folder in seed_folders(options.folder).items():
        subject = Subject.open(folder)
        for part in parts:
            found[part].append(subject.asked(part))
            print(f"seed {seed}: {part}", flush=True)
    tables = [Table(part, [], [], rows=rows) for part, rows in table(found).items()]
    write_atomically((options.out or options.folder) / "measures.csv", to_csv(tables))


if __name__ == "__main__":
    main()
