import numpy as np
import pytest
import torch
from cases import DoubleLoader, vit
from torch import nn
from torch.nn import functional as F
from unlearning import (
    LOSS,
    MODEL,
    ONLY_FORGET,
    Known,
    Scaled,
    apply,
    changed,
    full_batch_gradient,
    kinds,
    random_examples,
)

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing.finetune import (
    NPO,
    CFk,
    EUk,
    FineTune,
    GradientAscent,
    RandomLabels,
)
from vitmem.editing.loop import Objective, Step


def test_random_labels_are_drawn_anew_from_all_classes():
    """The mean over draws is the mean over the classes, the wrong label's among them."""
    objective = RandomLabels().objective(Scaled(1.0), Scaled(1.0), None, keyed_generator(0))
    losses = [float(objective.loss(ONLY_FORGET).detach()) for _ in range(600)]
    assert np.mean(losses) == pytest.approx((LOSS["forget", 1] + LOSS["true labels of what is wrong", 1]) / 2, abs=0.07)
    assert len({round(loss, 9) for loss in losses}) == 4
    drawn = RandomLabels().label(Step(forget=random_batch()), 5, keyed_generator(0))
    assert set(drawn.tolist()) == set(range(5))


def random_batch(n=200):
    return next(iter(DoubleLoader(random_examples(n), n)))


def test_npo_becomes_ascent_as_beta_vanishes():
    gradients = []
    for edit in (NPO(beta=1e-7, alpha=0.0), GradientAscent()):
        student = Scaled(1.7)
        edit.objective(student, Scaled(1.0), None, keyed_generator(0)).loss(ONLY_FORGET).backward()
        gradients.append(float(student.scale.grad))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)


def test_two_steps_of_sgd_are_those_of_the_textbook():
    """Momentum v <- 0.9 v + g + decay * W, decay for matrices only; w <- w - lr v; the whole set in one batch."""
    edit = FineTune(lr=0.3, epochs=2, batch_size=100, weight_decay=0.02)
    examples = random_examples()
    batch = next(iter(Known(examples).retain(100)))
    reference, velocity = vit("token"), {}
    for _ in range(2):
        loss = F.cross_entropy(reference(batch.image), batch.true_label)
        for name, gradient in full_batch_gradient(reference, loss).items():
            parameter = reference.get_parameter(name)
            decayed = name.endswith(".weight") and "norm" not in name
            step = gradient + 0.02 * parameter.detach() * decayed
            velocity[name] = 0.9 * velocity.get(name, 0) + step
            parameter.data -= 0.3 * velocity[name]
    found = apply(edit, examples=examples)
    assert found.report["steps"] == 2
    for name, value in reference.state_dict().items():
        assert torch.allclose(found.state_dict[name], value, rtol=1e-9, atol=1e-12), name


def test_ascent_climbs_the_loss_of_the_wrong_labels_alone():
    edit = GradientAscent(lr=0.1, epochs=1, batch_size=100, weight_decay=0.0)
    batch = next(iter(Known(random_examples()).forget(100)))
    gradient = full_batch_gradient(MODEL, F.cross_entropy(MODEL(batch.image), batch.given_label))
    found = apply(edit).state_dict
    for name, value in MODEL.named_parameters():
        assert torch.allclose(found[name], value.detach() + 0.1 * gradient[name], rtol=1e-9, atol=1e-12)


def test_relabelling_passes_over_what_is_wrong_first():
    number, _, order = kinds(RandomLabels(epochs=2, batch_size=3, forget_batch_size=3), forget=1, retain=3, number=8)
    assert number == 8
    assert order == "FRRR" * 2
    assert kinds(RandomLabels(steps=5), forget=1, retain=3, number=1)[0] == 5


def test_the_learning_rate_of_cfk_falls_to_a_fifth():
    parameter, rates = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)), []

    def loss(step):
        rates.append(-float(parameter.detach()[0, 0]))
        return parameter.sum()

    edit = CFk(lr=1.0, steps=4, momentum=0.0, weight_decay=0.0)
    edit.fit({"w": parameter}, Objective(loss), edit.loaders(Known(random_examples()), 0))
    assert np.diff([*rates, -float(parameter.detach()[0, 0])]) == pytest.approx([1.0, 0.8, 0.6, 0.4])


CLASSIFIER = {"norm.weight", "norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("cls", [CFk, EUk])
def test_only_the_last_layers_are_trained(cls):
    everything = set(MODEL.state_dict())
    last = CLASSIFIER | {name for name in everything if name.startswith("blocks.1.")}
    both = last | {name for name in everything if name.startswith("blocks.0.")}
    expected = {1: CLASSIFIER, 2: last, 3: both, 4: everything, -1: everything}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= everything - both
    for k, names in expected.items():
        result = apply(cls(k=k, steps=2, lr=0.1))
        assert changed(result) == names, k
        assert {row["layer"] + ".weight" for row in result.report["layers"]} <= names


def test_exact_unlearning_starts_from_new_weights():
    found = apply(EUk(k=2, steps=1, lr=1e-30)).state_dict
    assert torch.equal(found["blocks.1.norm1.weight"], torch.ones(16, dtype=torch.float64))
    assert float(found["blocks.1.mlp.fc1.bias"].abs().max()) < 1e-20
    assert 0.01 < float(found["blocks.1.attn.qkv.weight"].std()) < 0.03  # timm draws with 0.02; ours has 0.2
    everything = apply(EUk(k=-1, steps=1, lr=1e-30)).state_dict
    assert float(everything["cls_token"].abs().max()) < 1e-4
    assert 0.01 < float(everything["pos_embed"].std()) < 0.03
