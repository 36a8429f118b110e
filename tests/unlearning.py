"""A model, examples and losses by hand that the tests of trained edits share."""

import dataclasses
import math

import torch
from cases import DoubleLoader, vit
from torch import nn

from vitmem.datamodules.batch import Batch, Examples, keyed_generator
from vitmem.editing import edits
from vitmem.editing.loop import Step

MODEL = vit("token")


class Known:
    """Serves float64 examples as ``EditData`` does, and notes what was asked for."""

    def __init__(self, examples: Examples):
        self.examples, self.asked = examples, set()

    def forget(self, batch_size, **options):
        self.asked.add("forget")
        return DoubleLoader(self.examples.subset(self.examples.is_noisy), batch_size, **options)

    def retain(self, batch_size, **options):
        self.asked.add("retain")
        return DoubleLoader(self.examples.subset(~self.examples.is_noisy), batch_size, **options)

    def serve(self, examples, batch_size, **options):
        return DoubleLoader(examples, batch_size, **options)


def random_examples(n=13, classes=5):
    generator = torch.Generator().manual_seed(3)
    true = torch.randint(classes, (n,), generator=generator)
    given = torch.where(torch.arange(n) % 3 == 0, (true + 1) % classes, true)
    return Examples(torch.rand(n, 1, 8, 8, generator=generator), given, true, torch.arange(n))


def apply(edit, model=MODEL, seed=0, examples=None):
    return edit.apply(model, Known(examples or random_examples()), keyed_generator(seed))


def quick(name, **options):
    return edits()[name](**{"epochs": 2, "steps": 4, "batch_size": 3, **options})


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale], dtype=torch.float64))
        self.spare = nn.Parameter(torch.tensor([-2.0, 0.5], dtype=torch.float64))

    def init_weights(self):
        nn.init.zeros_(self.scale)  # untrained: both classes are as likely

    def forward(self, image):
        return image.flatten(1) * self.scale


ODDS = {"forget": (3.0, 4.0), "retain": (2.0, 5.0)}


def logit_batch(kind, given, true):
    first, second = map(math.log, ODDS[kind])
    image = torch.tensor([[first, 0.0], [0.0, second]], dtype=torch.float64).view(2, 1, 1, 2)
    given, true = torch.tensor(given), torch.tensor(true)
    return Batch(image, given, true, given != true, torch.arange(2))


FORGET, RETAIN = logit_batch("forget", [1, 0], [0, 1]), logit_batch("retain", [0, 1], [0, 1])


BOTH, ONLY_FORGET, ONLY_RETAIN = Step(FORGET, RETAIN), Step(forget=FORGET), Step(retain=RETAIN)


LOSS = {  # mean cross-entropies by scale
    ("forget", 1): (math.log(4) + math.log(5)) / 2,
    ("retain", 1): (math.log(3 / 2) + math.log(6 / 5)) / 2,
    ("forget", 2): (math.log(10) + math.log(17)) / 2,
    ("retain", 2): (math.log(5 / 4) + math.log(26 / 25)) / 2,
    ("true labels of what is wrong", 1): (math.log(4 / 3) + math.log(5 / 4)) / 2,
    ("true labels of what is wrong", 2): (math.log(10 / 9) + math.log(17 / 16)) / 2,
}


def full_batch_gradient(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def kinds(edit, forget, retain, number):
    examples = random_examples(3 * (forget + retain))
    noisy = torch.arange(len(examples)) < 3 * forget
    examples = dataclasses.replace(examples, given_label=(examples.true_label + noisy.long()) % 5)
    data = Known(examples)
    loaders = edit.loaders(data, 0)
    stream = edit.stream(loaders)
    steps = [next(stream) for _ in range(number)]
    return (
        edit.number(loaders),
        steps,
        "".join("F" * (s.forget is not None) + "R" * (s.retain is not None) for s in steps),
    )


def changed(result, model=MODEL):
    before = model.state_dict()
    return {key for key, value in result.state_dict.items() if not torch.equal(value, before[key])}
