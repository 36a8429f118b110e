import dataclasses
import math

import numpy as np
import pytest
import torch
from cases import vit
from torch import nn
from unlearning import (
    BOTH,
    LOSS,
    MODEL,
    ODDS,
    ONLY_FORGET,
    ONLY_RETAIN,
    RETAIN,
    Known,
    Scaled,
    apply,
    kinds,
    quick,
    random_examples,
)

from vitmem.datamodules.batch import keyed_generator
from vitmem.editing import edits
from vitmem.editing.contract import EditDiverged
from vitmem.editing.distill import SCRUB, BadTeacher
from vitmem.editing.finetune import (
    NPO,
    CFk,
    FineTune,
    GradientAscent,
    L1Sparse,
    NegGrad,
    OracleLabels,
    RandomLabels,
)
from vitmem.editing.loop import (
    Objective,
    Step,
    Training,
    fresh_copy,
    frozen_copy,
    parameter_count,
    thawed_copy,
)
from vitmem.editing.salun import SalUn
from vitmem.editing.subnet import BalancedSubnet, Subnet

TRAINED = sorted(name for name, edit in edits().items() if issubclass(edit, Training))


def divergence(teacher, student):
    """Return the mean over two examples of sum p log(p / q), in numpy."""
    p, q = np.array(teacher), np.array(student)
    return float((p * np.log(p / q)).sum(1).mean())


def softened(kind, scale, temperature):
    """Return the probabilities of two examples when the logits are multiplied by scale / temperature."""
    odds = np.array(ODDS[kind]) ** (scale / temperature)
    p = odds / (1 + odds)
    return [[p[0], 1 - p[0]], [1 - p[1], p[1]]]


BY_HAND = {
    "gradient_ascent": (GradientAscent(), ONLY_FORGET, -LOSS["forget", 2]),
    "neggrad": (NegGrad(alpha=0.9), BOTH, 0.9 * LOSS["retain", 2] - 0.1 * LOSS["forget", 2]),
    # log odds against the reference: log(10 / 4) and log(17 / 5), so the sigmoids are 10/14 and 17/22
    "npo": (NPO(beta=1.0, alpha=0.0), ONLY_FORGET, math.log(14 / 10) + math.log(22 / 17)),
    "npo_half": (
        NPO(beta=0.5, alpha=0.0), ONLY_FORGET,
        2 * (math.log(1 + (4 / 10) ** 0.5) + math.log(1 + (5 / 17) ** 0.5)),
    ),
    "npo_retain": (
        NPO(beta=1.0, alpha=3.0), BOTH, math.log(14 / 10) + math.log(22 / 17) + 3 * LOSS["retain", 2]
    ),
    "finetune": (FineTune(), ONLY_RETAIN, LOSS["retain", 2]),
    "cfk": (CFk(), ONLY_RETAIN, LOSS["retain", 2]),
    "l1_sparse": (L1Sparse(alpha=0.1), Step(retain=RETAIN, done=0.25), LOSS["retain", 2] + 0.1 * 0.75 * (2 + 2 + 0.5)),
    "random_labels_retain": (RandomLabels(), ONLY_RETAIN, LOSS["retain", 2]),
    "oracle_labels": (OracleLabels(), ONLY_FORGET, LOSS["true labels of what is wrong", 2]),
    "scrub_forget": (SCRUB(), ONLY_FORGET, -4 * divergence(softened("forget", 1, 2), softened("forget", 2, 2))),
    "scrub_retain": (
        SCRUB(alpha=0.3, gamma=0.7, temperature=3.0), ONLY_RETAIN,
        0.3 * 9 * divergence(softened("retain", 1, 3), softened("retain", 2, 3)) + 0.7 * LOSS["retain", 2],
    ),
    "bad_teacher": (
        BadTeacher(), BOTH,
        divergence([[0.5, 0.5]] * 2, softened("forget", 2, 1)) / 2
        + divergence(softened("retain", 1, 1), softened("retain", 2, 1)) / 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_the_loss_of_two_examples_is_the_one_computed_by_hand(name):
    edit, step, expected = BY_HAND[name]
    objective = edit.objective(Scaled(2.0), Scaled(1.0), None, keyed_generator(0))
    assert float(objective.loss(step).detach()) == pytest.approx(expected, rel=1e-12)


def test_clipping_bounds_the_step():
    def moved(clip):
        edit = FineTune(lr=1.0, steps=1, batch_size=100, weight_decay=0.0, clip=clip)
        found = apply(edit).state_dict
        return math.sqrt(sum(float((found[n] - p.detach()).square().sum()) for n, p in MODEL.named_parameters()))

    assert moved(1e-3) == pytest.approx(1e-3, rel=1e-3)
    assert moved(0.0) > 0.01


def test_both_sets_at_once_until_the_longer_one_is_through():
    number, steps, order = kinds(NegGrad(epochs=2, batch_size=3, forget_batch_size=3), forget=2, retain=3, number=6)
    assert number == 6
    assert order == "FR" * 6
    first, second = (torch.cat([s.retain.index for s in part]).tolist() for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(6, 15))
    assert first != second  # a new order
    assert sorted(torch.cat([s.forget.index for s in steps]).tolist()) == sorted(list(range(6)) * 3)


def test_a_ragged_batch_is_no_step_of_its_own():
    number, steps, _ = kinds(GradientAscent(epochs=3, batch_size=4), forget=2, retain=0, number=3)
    assert number == 3
    assert [len(step.forget.index) for step in steps] == [4, 4, 4]
    assert len({i for step in steps for i in step.forget.index.tolist()}) > 4  # another order each time


@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_that_is_not_finite_stops_the_edit(name):
    model = vit("token")
    with torch.no_grad():
        model.head.bias.fill_(math.nan)
    if name == "euk":
        pytest.skip("the head is initialised anew")
    with pytest.raises(EditDiverged, match="loss is not finite at step 0; lower lr"):
        apply(quick(name), model)


def test_weights_that_are_not_finite_stop_the_edit():
    edit, parameter = FineTune(lr=1e200, steps=1), nn.Parameter(torch.ones(2, dtype=torch.float64))
    with pytest.raises(EditDiverged, match="weights are not finite after step 0; lower lr"):
        edit.fit(
            {"w": parameter},
            Objective(lambda step: 1e200 * parameter.sum()),
            edit.loaders(Known(random_examples()), 0),
        )


@pytest.mark.parametrize("name", TRAINED)
def test_an_edit_asks_for_what_it_declares_and_needs_it(name):
    edit, examples = quick(name), random_examples()
    data = Known(examples)
    edit.apply(MODEL, data, keyed_generator(0))
    assert data.asked == edit.sees
    missing = examples.subset(~examples.is_noisy) if "forget" in edit.sees else examples.subset(examples.is_noisy)
    with pytest.raises(ValueError, match="no example is known to be (wrong|right), and this edit needs some"):
        apply(edit, examples=missing)


@pytest.mark.parametrize("name", TRAINED)
def test_the_given_model_is_left_alone_in_whatever_mode_it_is(name):
    model = vit("token").train()
    model(torch.rand(2, 1, 8, 8, dtype=torch.float64)).sum().backward()
    model.pos_embed.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gradient = model.head.weight.grad.clone()
    found = apply(quick(name), model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not model.pos_embed.requires_grad
    assert torch.equal(model.head.weight.grad, gradient)
    storage = {value.data_ptr() for value in model.state_dict().values()}
    changed = [v for k, v in found.state_dict.items() if not torch.equal(v, before[k])]
    assert changed
    assert storage.isdisjoint(value.data_ptr() for value in changed)
    assert not any(value.requires_grad for value in found.state_dict.values())


@pytest.mark.parametrize("name", TRAINED)
def test_the_seed_decides(name):
    one, same, other = (apply(quick(name), seed=seed).state_dict for seed in (1, 1, 2))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("name", TRAINED)
def test_the_report_has_options_and_what_was_held(name):
    edit = quick(name)
    report = apply(edit).report
    weights = sum(p.numel() for p in MODEL.parameters())
    masked = sum(b.mlp.fc1.weight.numel() + b.mlp.fc2.weight.numel() for b in MODEL.blocks)
    held = {"npo": weights, "scrub": weights, "bad_teacher": 2 * weights, "salun": 2 * weights}
    held |= {"subnet": masked, "balanced_subnet": masked}
    assert report["extra_parameters"] == held.get(name, 0)
    assert report["options"] == dataclasses.asdict(edit)
    assert report["steps"] == 4
    assert math.isfinite(report["final_loss"])


@pytest.mark.parametrize("name", TRAINED)
def test_every_value_that_a_tuner_may_try_is_allowed_and_the_default_is_one(name):
    for option, (kind, *values) in edits()[name].search.items():
        default = getattr(edits()[name](), option)
        if kind == "choice":
            assert default in values
        else:
            assert kind in ("log", "uniform", "int")
            assert values[0] <= default <= values[1]
            assert kind != "log" or values[0] > 0
        for value in values:
            assert getattr(edits()[name](**{option: value}), option) == value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FineTune(lr=0.0), "lr is 0.0; it must be positive and finite"),
        (lambda: FineTune(epochs=0), "epochs is 0; it must be at least 1"),
        (lambda: FineTune(steps=0), "steps is 0; it must be at least 1"),
        (lambda: NegGrad(forget_batch_size=0), "forget_batch_size is 0"),
        (lambda: FineTune(momentum=1.0), "momentum is 1.0; it must be in"),
        (lambda: FineTune(weight_decay=-1.0), "weight_decay is -1.0"),
        (lambda: L1Sparse(alpha=math.inf), "alpha is inf; it must be finite and not negative"),
        (lambda: NegGrad(alpha=1.5), "alpha is 1.5; it is the weight"),
        (lambda: NPO(beta=0.0), "beta is 0.0"),
        (lambda: SCRUB(temperature=0.0), "temperature is 0.0"),
        (lambda: SCRUB(max_epochs=-1), "max_epochs is -1"),
        (lambda: SalUn(fraction=0.0), "fraction is 0.0"),
        (lambda: Subnet(ratio=1.0), "ratio is 1.0; it is the share of weights to remove"),
        (lambda: BalancedSubnet(w=2.0), "w is 2.0"),
        (lambda: SCRUB(drops="5 x"), "drops is '5 x'; give numbers of epochs, separated by spaces, or none"),
        (lambda: SCRUB(drops=""), "drops is ''"),
        (lambda: SCRUB(decayed="biases"), "decayed is 'biases'; choose all or matrices"),
        (lambda: BalancedSubnet(batches="both"), "batches is 'both'; choose mixed or apart"),
        (lambda: BalancedSubnet(preset="others"), "preset is 'others'; choose from authors, merullo, digits"),
        (lambda: CFk(k=0), "k is 0; it is the number of layers to train"),
        (lambda: CFk(k=5).check(MODEL), "k is 5; this model has 4 layers"),
        (lambda: Subnet(ratio=1e-6).check(MODEL), "ratio is 1e-06; the largest matrix has 1024 weights, so none"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", TRAINED)
def test_no_method_forgets_the_bounds_that_all_share(name):
    for option in ("lr", "batch_size", "epochs"):
        with pytest.raises(ValueError, match=f"^{option} is 0"):
            edits()[name](**{option: 0})


@pytest.mark.parametrize("seed", range(4))
def test_a_fresh_copy_is_what_timm_draws_from_the_seed_that_was_drawn(seed):
    drawn = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(seed)))
    state = torch.get_rng_state()
    found = fresh_copy(MODEL, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), state)
    expected = thawed_copy(MODEL)
    with torch.random.fork_rng():
        torch.manual_seed(drawn)
        for module in expected.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        expected.init_weights()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    assert not found.training


def test_copies_to_train_and_to_learn_from():
    trained, teacher = thawed_copy(MODEL), frozen_copy(MODEL)
    assert all(p.requires_grad and p.grad is None for p in trained.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not trained.training
    assert parameter_count(MODEL) == sum(p.numel() for p in MODEL.parameters())


@pytest.mark.parametrize(("decay", "optimiser"), [(0.1, "sgd"), (0.2, "adam"), (0.3, "adamw")])
def test_the_optimiser_decays_matrices_alone(decay, optimiser):
    parameters = dict(MODEL.named_parameters())
    made = FineTune(weight_decay=decay, optimiser=optimiser, lr=0.5, momentum=0.25).make_optimiser(parameters)
    kinds_of = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    assert type(made) is kinds_of[optimiser]
    decayed, plain = made.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"], decayed["lr"]) == (decay, 0.0, 0.5)
    assert len(decayed["params"]) + len(plain["params"]) == len(parameters)
    assert all(p.ndim == 2 or p.ndim == 4 for p in decayed["params"])
    assert any(p is MODEL.pos_embed for p in plain["params"])
    if optimiser == "sgd":
        assert decayed["momentum"] == 0.25


def test_how_much_is_done_is_told_to_the_loss():
    done = []
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    edit = FineTune(steps=4, batch_size=3)
    held = Objective(lambda step: done.append(step.done) or parameter.sum(), 5)
    report = edit.fit({"w": parameter}, held, edit.loaders(Known(random_examples()), 0))
    assert done == [0, 0.25, 0.5, 0.75]
    assert (report["steps"], report["extra_parameters"]) == (4, 5)
    assert report["final_loss"] == pytest.approx(-2 * 0.01 * (1 + 1.9 + 2.71))  # lr, and momentum 0.9
