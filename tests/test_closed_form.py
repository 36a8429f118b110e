"""Closed-form and weight-space edits against hand computations and slow, explicit oracles."""

import math

import numpy as np
import pytest
import torch
from cases import loader, vit
from torch.nn import functional as F

from vitmem.curvature.layers import linear_maps
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing import edits
from vitmem.editing import parameters as shared
from vitmem.editing.contract import EditDiverged
from vitmem.editing.dampening import SSD, Potion, cross_entropy, dampening, importances, logit_length, top_threshold
from vitmem.editing.data import EditData
from vitmem.editing.prune import Magnitude, Wanda, largest
from vitmem.editing.sap import SAP, first, projection
from vitmem.editing.svd import SVD
from vitmem.editing.task_vector import TaskVector
from vitmem.editing.weight_space import Midpoint, WeightDistance, WeightDistortion, midpoint, rms_distance
from vitmem.models.layers import select_layers

DATA = MemorisationData(Digits(), Symmetric())
MODEL = vit("token", classes=10, dtype=torch.float32).eval()
NEW = ("magnitude", "midpoint", "potion", "sap", "ssd", "task_vector", "wanda", "weight_dist_reg", "weight_distortion")


def apply(edit, seed=0):
    return edit.apply(MODEL, EditData(DATA, edit.sees), keyed_generator(seed))


def before(name):
    return MODEL.state_dict()[name]


class TestDampening:
    def test_by_hand(self):
        forget = torch.tensor([1.0, 6.0, 20.0, 20.0, 0.0, 3.0])
        reference = torch.tensor([1.0, 1.0, 1.0, 4.0, 0.0, 0.0])
        found = dampening(forget, reference, alpha=5.0, lam=2.0)
        assert found.tolist() == pytest.approx([1.0, 2 / 6, 2 / 20, 1.0, 1.0, 0.0])  # 20 is not above 5 * 4
        assert dampening(forget, reference, 0.5, 30.0).max() == 1.0  # never more than it was

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_importances_square_the_gradient_of_each_batch(self, batch_size):
        model = vit("one_block")
        names, batches = ["head.weight", "cls_token"], list(loader(11, batch_size))
        found = importances(model, names, batches, cross_entropy, torch.square)
        for name in names:
            squares = []
            for batch in batches:
                loss = F.cross_entropy(model(batch.image), batch.given_label)
                squares.append(torch.autograd.grad(loss, model.get_parameter(name))[0] ** 2)
            counts = torch.tensor([float(len(batch.index)) for batch in batches], dtype=torch.float64)
            expected = torch.tensordot(counts / counts.sum(), torch.stack(squares), 1)
            torch.testing.assert_close(found[name], expected)

    def test_label_free_importances_read_no_label(self):
        model = vit("one_block")
        batches = list(loader(8, 4))
        found = importances(model, ["head.bias"], batches, logit_length, torch.abs)["head.bias"]
        expected = torch.zeros(5, dtype=torch.float64)
        for batch in batches:  # d |f| / d bias = f / |f|
            logits = model(batch.image).detach()
            expected += (logits / logits.norm(dim=1, keepdim=True)).mean(0).abs() / len(batches)
        torch.testing.assert_close(found, expected)

    def test_ssd_follows_its_formula(self):
        edit = SSD(layers="blocks.1.mlp.fc1", alpha=1.5, lam=0.5)
        found = apply(edit).state_dict["blocks.1.mlp.fc1.weight"]
        twin = shared.working_copy(MODEL, ["blocks.1.mlp.fc1.weight"])
        data = EditData(DATA, edit.sees)
        forget, reference = (
            importances(twin, ["blocks.1.mlp.fc1.weight"], batches, cross_entropy, torch.square)
            for batches in (data.forget(64), data.given(10**6, 64))
        )
        f, d = (v["blocks.1.mlp.fc1.weight"].numpy() for v in (forget, reference))
        w = before("blocks.1.mlp.fc1.weight").numpy()
        expected = np.where(f > 1.5 * d, w * np.minimum(0.5 * d / np.maximum(f, 1e-30), 1), w)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
        assert 0 < (f > 1.5 * d).mean() < 1

    @pytest.mark.parametrize("options", [{"alpha": 1e30}, {"lam": 1e30}])
    def test_ssd_without_bite_changes_nothing(self, options):
        state = apply(SSD(**options)).state_dict
        assert all(torch.equal(value, before(name)) for name, value in state.items())

    def test_what_ssd_compares_with_is_declared(self):
        assert SSD().sees == {"forget", "given"}
        assert SSD(reference="retain").sees == {"forget", "retain"}
        assert not torch.equal(
            apply(SSD(alpha=1.2)).state_dict["head.weight"],
            apply(SSD(alpha=1.2, reference="retain")).state_dict["head.weight"],
        )

    def test_the_share_that_is_dampened_grows_slowly(self):
        ordered = torch.arange(100000.0)
        for fraction in (0.001, 0.1, 5.0):
            above = int((ordered > top_threshold(ordered, fraction)).sum())
            assert above == pytest.approx(1000 * math.log(1 + 100 * fraction), abs=1)

    def test_potion_stops_as_soon_as_it_is_enough(self, monkeypatch):
        accuracies = iter([0.8, 0.7, 0.5, 0.39, 0.1])
        monkeypatch.setattr("vitmem.editing.dampening.accuracy", lambda model, batches: next(accuracies))
        report = apply(Potion(stop=0.5)).report
        assert (report["tries"], report["reached"], report["forget_accuracy"]) == (3, True, 0.39)

    def test_a_try_of_potion_dampens_the_unedited_weights_a_little_further(self, monkeypatch):
        monkeypatch.setattr("vitmem.editing.dampening.accuracy", lambda model, batches: 0.8)
        name = "blocks.1.mlp.fc1.weight"
        edit = Potion(layers="blocks.1.mlp.fc1", tries=2)
        found = apply(edit).state_dict[name]
        data, twin = EditData(DATA, edit.sees), shared.working_copy(MODEL, [name])
        loaders = data.forget(64), data.retain(64)
        forget, reference = (importances(twin, [name], b, logit_length, torch.abs)[name] for b in loaders)
        wrong, right = (len(b.examples) for b in loaders)
        fraction = 1.1 * wrong / (wrong + right) / 25  # of the second try
        above = math.log1p(100 * fraction) / 100 * forget.numel()
        ratio = (forget / reference).flatten()
        chosen = ratio >= ratio.sort(descending=True).values[math.floor(above) - 1]
        expected = torch.where(chosen.view_as(forget), before(name) / ratio.view_as(forget), before(name))
        torch.testing.assert_close(found, expected)

    def test_potion_gives_up(self, monkeypatch):
        monkeypatch.setattr("vitmem.editing.dampening.accuracy", lambda model, batches: 0.8)
        report = apply(Potion(tries=2)).report
        assert (report["tries"], report["reached"]) == (2, False)


class TestProjection:
    MOMENT = torch.diag(torch.tensor([8.0, 2.0, 0.0], dtype=torch.float64))

    def test_by_hand(self):
        turn = torch.linalg.qr(torch.arange(9.0, dtype=torch.float64).view(3, 3) ** 2 + torch.eye(3))[0]
        found = turn.T @ projection(turn @ self.MOMENT @ turn.T, 4.0) @ turn
        expected = torch.diag(torch.tensor([3.2 / 3.4, 0.8 / 1.6, 0.0], dtype=torch.float64))
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)

    def test_a_large_alpha_projects_on_the_span_of_the_inputs(self):
        inputs = torch.randn(2, 5, generator=keyed_generator(0), dtype=torch.float64)
        found = projection(inputs.T @ inputs, 1e10)
        torch.testing.assert_close(found, torch.linalg.pinv(inputs) @ inputs, atol=1e-4, rtol=0)

    def test_the_layer_answers_to_projected_inputs(self):
        name = "blocks.0.mlp.fc1"
        edit = SAP(layers=name, alpha=30.0, examples=10**6)
        found = apply(edit).state_dict[f"{name}.weight"].double()
        seen = []
        module = MODEL.get_submodule(name)
        handle = module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach().flatten(0, 1)))
        with torch.no_grad():
            for batch in EditData(DATA, edit.sees).retain(64):
                MODEL(batch.image)
        handle.remove()
        u, s, _ = np.linalg.svd(torch.cat(seen).double().numpy().T, full_matrices=False)
        share = s**2 / (s**2).sum()
        w = before(f"{name}.weight").double().numpy()
        expected = w @ u @ np.diag(30 * share / (29 * share + 1)) @ u.T
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)

    def test_no_more_examples_are_trusted_than_asked_for(self):
        assert [len(b.index) for b in first(loader(11, 4), 6)] == [4, 2]
        assert [len(b.index) for b in first(loader(11, 4), 4)] == [4]
        assert sum(len(b.index) for b in first(loader(11, 4), 99)) == 11


class TestPruning:
    def test_the_largest_by_hand(self):
        score = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
        assert largest(score, 0.5).tolist() == [[True, False, True], [False, True, True]]
        assert largest(torch.zeros(5), 0.4).sum() == 2  # ties do not change the number

    @pytest.mark.parametrize("scope", ["layer", "global"])
    def test_magnitude_keeps_the_largest(self, scope):
        state = apply(Magnitude(keep=0.3, scope=scope)).state_dict
        names = [f"{name}.weight" for name in select_layers(MODEL, "blocks.*")]
        for group in [[name] for name in names] if scope == "layer" else [names]:
            old = torch.cat([before(n).flatten() for n in group])
            new = torch.cat([state[n].flatten() for n in group])
            assert int((new != 0).sum()) == math.ceil(0.3 * old.numel())
            assert torch.equal(new[new != 0], old[new != 0])
            assert old[new == 0].abs().max() <= old[new != 0].abs().min()

    def wanda_scores(self, name, examples):
        """Weight times length of the input, by plain means."""
        seen = []
        handle = MODEL.get_submodule(name).register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
        with torch.no_grad():
            for batch in DATA.loader(examples):
                MODEL(batch.image)
        handle.remove()
        return before(f"{name}.weight").double().abs() * torch.cat(seen).flatten(0, 1).double().norm(dim=0)

    def test_wanda_ranks_each_output_by_weight_times_input(self):
        name = "blocks.1.attn.proj"
        found = apply(Wanda(layers=name, keep=0.25, examples=10**6)).state_dict[f"{name}.weight"]
        for row, (score, kept) in enumerate(zip(self.wanda_scores(name, DATA.train_examples), found, strict=True)):
            assert set(kept.nonzero().flatten().tolist()) == set(score.argsort()[-4:].tolist()), row  # 16 inputs

    def test_what_right_examples_need_is_not_removed_for_wrong_ones(self):
        name = "blocks.0.mlp.fc2.weight"
        state = {
            o: apply(Wanda(layers="blocks.0.mlp.fc2", forget=0.2, keep=o)).state_dict[name] for o in (0.01, 0.3, 1.0)
        }
        assert torch.equal(state[1.0], before(name))
        removed = (state[0.01] == 0).float().mean(1)
        assert ((removed > 0.1) & (removed <= 0.2 + 1 / 64)).all()
        noisy = DATA.train_examples.is_noisy
        parts = (DATA.train_examples.subset(mask) for mask in (noisy, ~noisy))
        wrong, right = (self.wanda_scores("blocks.0.mlp.fc2", part) for part in parts)
        k = math.ceil(0.2 * wrong.shape[1])
        gone = state[0.3] == 0
        for o in range(len(gone)):  # the largest for wrong examples, but for the largest for right ones
            best = set(right[o].topk(math.ceil(0.3 * right.shape[1])).indices.tolist())
            assert set(gone[o].nonzero()[:, 0].tolist()) == set(wrong[o].topk(k).indices.tolist()) - best
        assert Wanda(forget=0.2).sees == {"forget", "retain"}


class TestTaskVector:
    def test_a_step_against_the_mean_of_the_fine_tunings(self, monkeypatch):
        """A fine-tuning that adds 1, then one that adds 3: tau is 2."""
        added = iter([1.0, 3.0])

        def add(loader, loss, optimiser, epochs):
            amount = next(added)
            with torch.no_grad():
                for parameter in optimiser.param_groups[0]["params"]:
                    parameter.add_(amount)

        monkeypatch.setattr("vitmem.editing.task_vector.descend", add)
        state = apply(TaskVector(scale=0.5)).state_dict
        for name, _ in MODEL.named_parameters():
            torch.testing.assert_close(state[name], before(name) - 1.0, atol=1e-6, rtol=0)

    def test_every_label_of_the_proxy_is_wrong_and_half_of_the_validation_set_stays_unseen(self):
        data = EditData(DATA, frozenset({"validation"}))
        proxies = [TaskVector().proxy_set(data, 10, keyed_generator(seed)) for seed in (0, 1)]
        examples = [proxy.examples for proxy in proxies]
        assert examples[0].is_noisy.all()
        assert (examples[0].index % 2 == 0).all()
        counts = (examples[0].given_label - examples[0].true_label).remainder(10).bincount(minlength=10)
        assert counts[0] == 0
        assert counts[1:].min() > 0
        assert not torch.equal(examples[0].given_label, examples[1].given_label)

    def test_going_back_forgets_what_the_proxy_teaches(self):
        """Steps towards the wrong labels lower their loss, so the step back raises it."""
        batches = list(EditData(DATA, frozenset({"forget"})).forget(64))
        twin = shared.working_copy(MODEL)

        def loss(state):
            twin.load_state_dict(state)
            with torch.no_grad():
                return sum(float(F.cross_entropy(twin(b.image), b.given_label)) for b in batches)

        assert loss(apply(TaskVector(proxy="forget", epochs=2, draws=1)).state_dict) > loss(MODEL.state_dict())


class TestWeightSpace:
    def test_the_distance_by_hand(self):
        old = {"a": torch.zeros(3), "b": torch.ones(1)}
        new = {"a": torch.tensor([2.0, 0.0, 0.0]), "b": torch.tensor([1.0])}
        assert float(rms_distance(new, old)) == pytest.approx(math.sqrt(4 / 4 + 1e-8))
        assert float(rms_distance(old, old)) == pytest.approx(1e-4)

    def test_the_midpoint_by_hand(self):
        weights = {"a": torch.tensor([3.0], requires_grad=True)}
        found = midpoint({"a": torch.tensor([1.0])}, weights)["a"]
        assert found.item() == 2.0
        assert torch.autograd.grad(found, weights["a"])[0].item() == 0.5

    def test_the_barrier_is_the_loss_of_the_midpoint_on_right_and_wrong_examples(self):
        data = EditData(DATA, Midpoint.sees)
        names = [name for name, _ in MODEL.named_parameters()]
        twin = shared.working_copy(MODEL, names)
        start = {name: twin.get_parameter(name).detach() for name in names}
        weights = {name: (1.5 * value).requires_grad_() for name, value in start.items()}
        edit = Midpoint(alpha=0.3, batch_size=10**6)
        found = edit.penalty(start, twin, data, seed=0)(weights).detach()
        middle = shared.working_copy(MODEL)
        middle.load_state_dict({name: 1.25 * value for name, value in start.items()})
        with torch.no_grad():
            loss = torch.cat(
                [
                    F.cross_entropy(middle(b.image), b.given_label, reduction="none")
                    for loader in (data.retain(500), data.forget(500))
                    for b in loader
                ]
            ).mean()
        assert float(found) == pytest.approx(-0.3 * float(loss), rel=1e-5)
        capped = Midpoint(alpha=0.3, gamma=0.5, batch_size=10**6).penalty(start, twin, data, seed=0)(weights).detach()
        assert float(capped) == pytest.approx(-0.3 * 0.5)

    def test_the_noise_has_the_given_size(self):
        report = apply(WeightDistortion(std=0.1, lr=1e-12, epochs=1)).report
        number = sum(p.numel() for p in MODEL.parameters())
        assert report["distance"] == pytest.approx(0.1 * math.sqrt(number), rel=0.03)

    def test_a_stronger_push_goes_further(self):
        distances = [apply(WeightDistance(alpha=a, epochs=2, lr=1e-3)).report["distance"] for a in (1e-6, 100.0)]
        assert distances[1] > 1.3 * distances[0]

    def test_only_the_chosen_layers_are_trained(self):
        state = apply(WeightDistance(layers="head", epochs=1)).state_dict
        changed = {name for name, value in state.items() if not torch.equal(value, before(name))}
        assert changed == {"head.weight", "head.bias"}


class TestSVD:
    SINGULAR = torch.tensor([4.0, 2.0, 2.0, 1.0, 0.0], dtype=torch.float64)  # squares 16 4 4 1 0 of 25

    @pytest.mark.parametrize(
        ("share", "keep", "rank"),
        [
            ("rank", 0.3, 2), ("rank", 1.0, 5), ("pruned", 0.3, 4), ("pruned", 0.4, 3), ("pruned", 0.05, 5),
            ("energy", 0.64, 1), ("energy", 0.65, 2), ("energy", 0.9, 3), ("energy", 1.0, 4),
        ],
    )  # fmt: skip
    def test_three_conventions_by_hand(self, share, keep, rank):
        assert SVD(keep=keep, share=share).rank(self.SINGULAR) == rank

    def test_a_rank_of_nothing_is_refused(self):
        with pytest.raises(ValueError, match="would cut everything away"):
            SVD(keep=1.0, share="pruned")


def test_what_is_not_finite_is_an_edit_that_diverged():
    with pytest.raises(EditDiverged, match=r"the loss is .* in epoch 0"):
        apply(WeightDistortion(std=1e30, epochs=1))
    with pytest.raises(EditDiverged, match="head.weight is not finite"):
        shared.result(MODEL, {"head.weight": torch.full_like(before("head.weight"), math.nan)}, 0.0, 0)


def test_all_parameters_or_those_of_layers():
    assert shared.chosen_parameters(MODEL, "*") == [name for name, _ in MODEL.named_parameters()]
    assert shared.chosen_parameters(MODEL, "head blocks.0.mlp.fc1") == [
        "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias", "head.weight", "head.bias",
    ]  # fmt: skip


def test_inputs_are_those_of_every_position():
    seen = []
    maps = linear_maps(select_layers(MODEL, "patch_embed.proj"))
    batch = next(iter(DATA.val_dataloader()[1]))
    shared.watch_inputs(MODEL, maps, [batch], lambda name, rows: seen.append(rows))
    patches = batch.image.double().view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 16)
    torch.testing.assert_close(seen[0], patches)


@pytest.mark.parametrize("name", sorted(edits()))
def test_search_spaces_hold_for_options_that_exist(name):
    edit = edits()[name]
    assert edit.search or name not in NEW
    for option, (kind, *values) in edit.search.items():
        assert kind in ("log", "uniform", "int", "choice")
        assert kind == "choice" or (len(values) == 2 and values[0] < values[1])
        for value in values:
            edit(**{option: value})


@pytest.mark.parametrize(
    ("edit", "options", "message"),
    [
        (SSD, {"alpha": 0.0}, "alpha is 0.0"),
        (SSD, {"lam": -1.0}, "lam is -1.0"),
        (Potion, {"stop": 1.0}, "stop is 1.0"),
        (Potion, {"tries": 0}, "tries is 0"),
        (SAP, {"alpha": 0.5}, "alpha is 0.5; it must be at least 1"),
        (SAP, {"examples": 0}, "examples is 0"),
        (Magnitude, {"keep": 0.0}, "keep is 0.0"),
        (Wanda, {"forget": 2.0}, "forget is 2.0"),
        (TaskVector, {"scale": 0.0}, "scale is 0.0"),
        (TaskVector, {"draws": 0}, "draws is 0"),
        (WeightDistortion, {"std": math.nan}, "std is nan"),
        (WeightDistance, {"epochs": 0}, "epochs is 0"),
        (Midpoint, {"alpha": 0.0}, "alpha is 0.0"),
    ],
)
def test_options_out_of_range(edit, options, message):
    with pytest.raises(ValueError, match=message):
        edit(**options)
