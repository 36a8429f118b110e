import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from unlearning import BOTH, FORGET, LOSS, MODEL, RETAIN, Scaled, apply, changed, kinds, quick

from vitmem.datamodules.batch import Examples
from vitmem.editing.loop import Step
from vitmem.editing.subnet import PRESETS, BalancedSubnet, KeepLargest, Subnet


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Subnet(), -LOSS["forget", 1]),
        (BalancedSubnet(w=0.7), 0.7 * LOSS["retain", 1] - 0.3 * LOSS["forget", 1]),
    ],
)
def test_the_loss_of_masks_is_the_one_computed_by_hand(edit, expected):
    assert float(edit.loss(Scaled(1.0), BOTH).detach()) == pytest.approx(expected, rel=1e-12)


def test_the_mask_removes_the_smallest_and_exactly_as_many_among_equals():
    score = torch.tensor([[0.3, 0.1, 0.4], [0.2, 0.5, 0.0]])
    assert KeepLargest.apply(score, 3).tolist() == [[1, 0, 1], [0, 1, 0]]
    for zeros in range(7):
        for equal in (torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 1.0]])):
            mask = KeepLargest.apply(equal, zeros)
            assert int((mask == 0).sum()) == zeros
            if 0 < zeros < 6:
                assert equal[mask == 0].max() <= equal[mask == 1].min()


def test_gradients_pass_straight_through_the_mask():
    score = torch.tensor([-0.3, 0.1, 0.4, -0.2], requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 3.0, -4.0])
    (KeepLargest.apply(score.abs(), 2) * weight * 10).sum().backward()
    assert score.grad.tolist() == [-10.0, -20.0, 30.0, 40.0]  # d loss / d mask, times the sign of the score


@pytest.mark.parametrize("name", ["subnet", "balanced_subnet"])
@pytest.mark.parametrize("ratio", [0.003, 0.1, 0.37])
def test_exactly_the_ratio_of_each_matrix_is_zero_and_the_rest_is_as_it_was(name, ratio):
    result = apply(quick(name, ratio=ratio, layers="patch_embed.proj blocks.*.attn.*"))
    chosen = {"patch_embed.proj.weight", *(f"blocks.{b}.attn.{m}.weight" for b in (0, 1) for m in ("qkv", "proj"))}
    assert changed(result) == {key for key in chosen if int(ratio * MODEL.state_dict()[key].numel())}
    for row in result.report["layers"]:
        before, after = (state[f"{row['layer']}.weight"] for state in (MODEL.state_dict(), result.state_dict))
        kept = after != 0
        assert int((~kept).sum()) == row["removed"] == int(ratio * before.numel())
        assert torch.equal(after[kept], before[kept])
        assert row["relative_change"] == pytest.approx(float(before[~kept].norm() / before.norm()))


def test_a_kind_that_a_mixed_batch_lacks_adds_nothing_to_the_loss():
    none = FORGET.map(lambda field: field[:0])
    edit = BalancedSubnet(w=0.7)
    found = [float(edit.loss(Scaled(1.0), step).detach()) for step in (Step(none, RETAIN), Step(FORGET, none))]
    assert found == pytest.approx([0.7 * LOSS["retain", 1], -0.3 * LOSS["forget", 1]], rel=1e-12)


def test_mixed_batches_hold_both_kinds_in_their_natural_shares():
    edit = BalancedSubnet(batch_size=4, epochs=2)
    number, steps, _ = kinds(edit, forget=2, retain=3, number=8)
    assert number == 8  # two passes over 15 examples
    assert [len(s.forget.index) + len(s.retain.index) for s in steps] == [4, 4, 4, 3] * 2
    passes = [
        [torch.cat([s.forget.index, s.retain.index]).sort().values for s in part] for part in (steps[:4], steps[4:])
    ]
    assert [torch.cat(one).sort().values.tolist() for one in passes] == [list(range(15))] * 2
    assert any(not torch.equal(*pair) for pair in zip(*passes, strict=True))  # a new order
    assert all((s.forget.index < 6).all() and (s.retain.index >= 6).all() for s in steps)
    assert len({len(s.forget.index) for s in steps}) > 1
    _, steps, _ = kinds(dataclasses.replace(edit, batches="apart", forget_batch_size=3), forget=2, retain=3, number=2)
    assert [(len(s.forget.index), len(s.retain.index)) for s in steps] == [(3, 4)] * 2


def test_a_step_on_a_mixed_batch_is_sgd_by_hand(monkeypatch):
    """One linear layer, so that the mean cross-entropies' gradient by the mask is written down."""
    scores = 0.5 + torch.rand(4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    monkeypatch.setattr("vitmem.editing.subnet.initial_score", lambda w, generator: scores.clone())
    model, examples, _ = planted()
    edit = BalancedSubnet(layers="1", ratio=0.4, lr=50.0, epochs=1, batch_size=16, weight_decay=0.0, momentum=0.0)
    found = apply(edit, model, examples=examples).state_dict["1.weight"]  # one batch, of all
    zeros = int(0.4 * 32)
    weight, x = model[1].weight.detach().numpy(), examples.image.flatten(1).double().numpy()

    def mask(score):
        kept = np.ones(score.size)
        kept[np.argsort(score.ravel())[:zeros]] = 0
        return kept.reshape(score.shape)

    z = x @ (weight * mask(scores.numpy())).T
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(4)[examples.given_label]
    wrong = examples.is_noisy.numpy()
    share = np.where(wrong, -0.95 / wrong.sum(), 0.05 / (~wrong).sum())  # of each example in the loss
    after = scores.numpy() - 50.0 * ((share[:, None] * p).T @ x) * weight
    assert (mask(np.abs(after)) != mask(scores.numpy())).any()
    assert np.array_equal(found.numpy() != 0, mask(np.abs(after)).astype(bool))


def planted():
    """Return a linear classifier, its examples, and the weights by which it memorised wrong labels.

    Each of four classes has a pixel. A wrongly labelled example has one more, of its own, and the classifier a weight
    from there to the wrong label that is larger than the one from the class's pixel to the right one.
    """
    true = torch.arange(16) % 4
    given = torch.where(torch.arange(16) < 4, (true + 1) % 4, true)
    image = torch.zeros(16, 1, 2, 4)
    image[torch.arange(16), 0, 0, true] = 1.0
    image[range(4), 0, 1, range(4)] = 1.0
    memory = torch.zeros(4, 8, dtype=torch.bool)
    memory[given[:4], range(4, 8)] = True
    weight = 0.1 * torch.randn(4, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weight[range(4), range(4)] = 2.0
    weight[memory] = 3.0
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4, bias=False, dtype=torch.float64))
    model[1].weight.data = weight
    return model, Examples(image, given, true, torch.arange(16)), memory


@pytest.mark.parametrize("edit", [Subnet, BalancedSubnet])
def test_masks_find_the_weights_that_were_planted(edit):
    model, examples, memory = planted()
    assert torch.equal(model(examples.image.double()).argmax(1), examples.given_label)
    options = {"w": 0.5} if edit is BalancedSubnet else {}
    chosen = edit(layers="1", ratio=8 / 32, lr=0.02, steps=250, momentum=0.0, weight_decay=0.0, **options)
    result = apply(chosen, model, examples=examples)  # twice as many as were planted: the rest are small weights
    assert not result.state_dict["1.weight"][memory].any()
    model.load_state_dict(result.state_dict)
    assert torch.equal(model(examples.image.double()).argmax(1), examples.true_label)


def test_presets_fill_what_is_left_out():
    for preset, options in PRESETS.items():
        assert {key: getattr(BalancedSubnet(preset=preset), key) for key in options} == options
    edit = BalancedSubnet(preset="merullo", ratio=0.2)
    assert (edit.ratio, edit.w, edit.lr) == (0.2, 0.7, 0.3)
    assert BalancedSubnet().w == 0.05
    assert dataclasses.replace(edit, w=0.6) == BalancedSubnet(preset="merullo", ratio=0.2, w=0.6)
