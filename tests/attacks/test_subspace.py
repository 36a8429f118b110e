"""Relearning within the subspace that an edit changed, beside it, and in a random one of the same rank."""

import dataclasses
import json

import pytest
import torch
from attacked import generator

from vitmem.attacks import attacks
from vitmem.attacks.finetune import fine_tuned
from vitmem.attacks.subspace import changed_subspace, projected, projection, random_subspace
from vitmem.models.build import with_weights

SMALL = {"arms": ("noisy",), "lrs": (1e-3,), "steps": 4, "batch_size": 8}


@pytest.fixture
def edited(model):
    """A model of which an edit took two singular directions of one matrix, the first larger, and half of another."""
    state = dict(model.state_dict())
    u, _ = torch.linalg.qr(torch.randn(48, 2, generator=generator()))
    v, _ = torch.linalg.qr(torch.randn(16, 2, generator=generator()))
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"] - (u * torch.tensor([3.0, 1.0])) @ v.T
    state["blocks.1.mlp.fc1.weight"] = state["blocks.1.mlp.fc1.weight"] / 2
    return with_weights(model, state), u, v


def test_the_subspace_is_what_the_edit_took_most_from(model, edited):
    after, u, v = edited
    assert model.get_submodule("blocks.0.attn.qkv").weight.shape == (48, 16)
    subspace = changed_subspace(after, model, 1.0)
    left, right = subspace["blocks.0.attn.qkv.weight"]
    torch.testing.assert_close(left @ left.T, u @ u.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(right @ right.T, v @ v.T, atol=1e-5, rtol=0)
    assert subspace["head.weight"].left.shape[1] == 0  # not changed
    assert subspace["blocks.1.mlp.fc1.weight"].left.shape[1] == 16
    left, _ = changed_subspace(after, model, 0.05)["blocks.0.attn.qkv.weight"]  # ceil(0.05 * 16)
    torch.testing.assert_close(left @ left.T, u[:, :1] @ u[:, :1].T, atol=1e-5, rtol=0)


def test_projections_are_idempotent_and_add_up_to_everything(model, edited):
    subspace = changed_subspace(edited[0], model, 0.3)
    removed, complement = (projection(subspace, within) for within in ("removed", "complement"))
    assert projection(subspace, "all") is None
    for name, weight in model.named_parameters():
        update = torch.randn(weight.shape, generator=generator())
        inside, outside = removed(name, update), complement(name, update)
        torch.testing.assert_close(inside + outside, update)
        torch.testing.assert_close(removed(name, inside), inside, atol=1e-5, rtol=0)
        torch.testing.assert_close(removed(name, outside), torch.zeros_like(update), atol=1e-5, rtol=0)
        assert name in subspace or not inside.any()
        if name in subspace and subspace[name].left.shape[1]:
            assert 0 < inside.norm() < update.norm()


def test_a_random_subspace_has_the_same_ranks_and_other_directions(model, edited):
    subspace = changed_subspace(edited[0], model, 0.3)
    drawn = random_subspace(subspace, generator())
    assert {n: [side.shape for side in s] for n, s in drawn.items()} == {
        n: [side.shape for side in s] for n, s in subspace.items()
    }
    left, right = drawn["blocks.1.mlp.fc1.weight"]
    for side in (left, right):
        torch.testing.assert_close(side.T @ side, torch.eye(side.shape[1]), atol=1e-5, rtol=0)
    update = torch.randn(48, 16, generator=generator())
    ours, theirs = (projected(update, s["blocks.0.attn.qkv.weight"]) for s in (subspace, drawn))
    assert not torch.allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize("within", ["removed", "complement"])
def test_weights_go_only_where_they_may(within, data, model, edited):
    after, *_ = edited
    subspace = changed_subspace(after, model, 0.3)
    noisy = data.train_examples.subset(data.train_examples.is_noisy)
    keep = projection(subspace, within)
    ((_, student),) = fine_tuned(after, data.loader(noisy, 8), [5], lr=1e-2, keep=keep)
    before, moved = dict(after.named_parameters()), 0
    for name, weight in student.named_parameters():
        change = (weight - before[name]).detach()
        torch.testing.assert_close(keep(name, change), change, atol=1e-5, rtol=0)
        moved += bool(change.any())
    assert moved == (2 if within == "removed" else len(before))  # two matrices were edited


def test_relearning_everywhere_is_what_it_was(data, model, known):
    plain, named = (
        attacks()["relearn"](**SMALL, **more).apply(model, known, generator())
        for more in ({}, {"within": "all", "rank": 0.5})
    )
    assert json.dumps(plain.rows) == json.dumps(named.rows)
    assert "ranks" not in plain.report
    noisy = data.train_examples.subset(data.train_examples.is_noisy)
    loader = data.loader(noisy, 8)
    everything, free = (
        fine_tuned(model, loader, [3], lr=1e-3, keep=keep) for keep in (lambda name, update: update, None)
    )
    for one, other in zip(next(everything)[1].parameters(), next(free)[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_did_not_change_cannot_be_relearnt_within_it(model, known):
    rows = attacks()["relearn"](**SMALL, within="removed").apply(model, known, generator()).rows
    assert len({json.dumps({**row, "step": 0}) for row in rows}) == 1
    result = attacks()["relearn"](**SMALL, within="complement").apply(model, known, generator())
    assert set(result.report["ranks"].values()) == {0}
    free = attacks()["relearn"](**SMALL).apply(model, known, generator()).rows
    for row, same in zip(result.rows, free, strict=True):
        assert row == pytest.approx(same, abs=1e-4)


def test_without_the_unedited_model_there_is_no_subspace(model, known):
    alone = dataclasses.replace(known, reference=lambda name: None)
    with pytest.raises(ValueError, match="within: removed needs the unedited model"):
        attacks()["relearn"](**SMALL, within="removed").apply(model, alone, generator())
