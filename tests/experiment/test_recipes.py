import dataclasses
import math
from pathlib import Path

import pytest

from vitmem.cli import main
from vitmem.models.build import create
from vitmem.models.layers import select_layers
from vitmem.training.module import warmup_cosine

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))
SHAPES = {  # of the images, and the number of classes
    "ablate": ((1, 8, 8), 10),
    "replicate": ((1, 8, 8), 10),
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
    "photographs": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "imagenet": ((3, 224, 224), 1000),
    "imagenet100": ((3, 224, 224), 100),
}


class Reached(BaseException):
    pass


@pytest.fixture
def planned(monkeypatch):
    """Return what an experiment file plans, without doing it."""

    def plan(path):
        found = []

        def reached(cells, folder, how, **options):
            found.append(dataclasses.replace(cells[0].experiment, name=folder.name))
            raise Reached

        monkeypatch.setattr("vitmem.experiment.run.run", reached)
        monkeypatch.setattr("vitmem.registry._LOADED", [])
        own = path.with_suffix(".py")  # edits of this experiment alone
        with pytest.raises(Reached):
            main(["run", str(path), *(["--plugin", str(own)] if "--plugin" in path.read_text() else [])])
        return found[0]

    return plan


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_models_and_edits_of_every_experiment_fit_each_other(path, planned):
    plan = planned(path)
    assert plan.name == path.stem
    shape, classes = SHAPES[path.stem.split("_")[0]]
    model = create(plan.run.model.timm_arguments(shape, classes), device="meta")
    for item in plan.edits:
        item.edit.check(model)
    assert plan.edits or path.stem == "photographs_pretrained"  # which others start from


def test_imagenet_is_trained_and_edited_as_published(planned):
    (path,) = [path for path in FILES if path.stem == "imagenet_vit_base"]
    plan = planned(path)
    train = plan.run.train
    steps = math.ceil(1_281_167 / train.batch_size)
    warmup = round(train.warmup_epochs * steps * train.epochs / train.epochs)
    assert warmup == 10_000
    assert warmup_cosine(9_999, warmup, 300 * steps) == 1.0
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == (300, 4096, 3e-3, 0.3)
    assert (train.clip, train.label_smoothing, plan.run.model.dropout) == (1.0, 0.0, 0.1)
    assert (plan.run.noise.kind, plan.run.noise.rate) == ("symmetric", 0.1)
    model = create(plan.run.model.timm_arguments((3, 224, 224), 1000), device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656
    edit = next(item.edit for item in plan.edits if item.edit_id == "published-rho0.75")
    assert list(select_layers(model, edit.layers)) == [f"blocks.{b}.mlp.fc{k}" for b in (0, 11) for k in (1, 2)]
    assert (edit.tokens, edit.labels, edit.draws, edit.examples) == ("cls", "sampled", 1, 10_000)
    assert (edit.scope, edit.filter, edit.moments) == ("layer", "hard", "kfac")
