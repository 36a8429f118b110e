import copy
import itertools

import pytest
import torch
from torch.nn import functional as F
from unlearning import MODEL, Known, apply, kinds, random_examples

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.distill import SCRUB
from vitmem.editing.loop import Step
from vitmem.models.build import is_decayed


def test_scrub_passes_over_what_is_wrong_in_its_first_epochs():
    edit = SCRUB(epochs=3, max_epochs=1, batch_size=3, forget_batch_size=3)
    number, _, order = kinds(edit, forget=3, retain=2, number=9)
    assert number == 3 + 2 + 2 + 2
    assert order == "FFFRR" + "RR" + "RR"


def test_scrub_without_ascent_and_labels_stays_where_it_is():
    edit = SCRUB(max_epochs=0, gamma=0.0, alpha=1.0, weight_decay=0.0, optimiser="sgd", lr=0.1, steps=6)
    found = apply(edit).state_dict
    assert all(torch.allclose(found[name], p, atol=1e-12) for name, p in MODEL.named_parameters())


def rates(edit):
    return [edit.rate(Step(epoch=epoch)) for epoch in range(edit.epochs)]


def test_the_rate_of_scrub_falls_as_the_authors_adjust_it():
    # adjust_learning_rate: epochs count from 1, and epoch > 5, 8, 9 each take a tenth
    assert rates(SCRUB()) == pytest.approx([1] * 5 + [1e-1] * 3 + [1e-2, 1e-3])
    assert rates(SCRUB(drops="1,2", epochs=4)) == pytest.approx([1, 1e-1, 1e-2, 1e-2])
    assert rates(SCRUB(drops="none")) == [1] * 10


@pytest.mark.parametrize(("drops", "decayed"), [("1 2", "all"), ("none", "matrices")])
def test_scrub_is_adam_by_hand(drops, decayed):
    edit = SCRUB(
        drops=drops, decayed=decayed, epochs=3, max_epochs=1, batch_size=4, forget_batch_size=3, lr=0.01, alpha=0.3,
        gamma=0.7, temperature=3.0,
    )  # fmt: skip
    loaders = edit.loaders(Known(random_examples()), int(torch.randint(2**62, (), generator=keyed_generator(0))))
    student, teacher = copy.deepcopy(MODEL), MODEL
    parameters = dict(student.named_parameters())
    first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    for t, step in enumerate(itertools.islice(edit.stream(loaders), edit.number(loaders)), 1):
        batch = step.forget or step.retain
        q, p = (torch.log_softmax(model(batch.image) / 3, 1) for model in (student, teacher))
        divergence = 9 * (p.exp() * (p - q)).sum(1).mean()
        right = F.cross_entropy(student(batch.image), batch.given_label)
        loss = -divergence if step.forget else 0.3 * divergence + 0.7 * right
        lr = 0.01 / 10 ** (step.epoch if decayed == "all" else 0)
        for (name, value), slope in zip(
            parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
        ):
            with torch.no_grad():
                slope = slope + 0.1 * value * (decayed == "all" or is_decayed(name, value))
                first[name] = 0.9 * first[name] + 0.1 * slope
                second[name] = 0.999 * second[name] + 0.001 * slope**2
                value -= lr * first[name] / (1 - 0.9**t) / ((second[name] / (1 - 0.999**t)).sqrt() + 1e-8)
    assert t == 1 + 3 * 2
    found = apply(edit).state_dict
    for name, value in parameters.items():
        assert torch.allclose(found[name], value.detach(), atol=1e-9), name
