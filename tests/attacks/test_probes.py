import copy
import math

import numpy as np
import pytest
import torch
from cases import vit

from vitmem.attacks import attacks
from vitmem.attacks.contract import AttackData
from vitmem.attacks.probes import HEAD, Imprint, Probes, features_of, label_probe, new_head, other_task, permuted
from vitmem.datamodules.batch import Examples, keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import is_decayed

pytestmark = pytest.mark.slow

CLASSES, N = 5, 200


def labels():
    return torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(3))


def probe(x, count=20):
    generator = keyed_generator(1)
    order = torch.randperm(N, generator=generator)
    return label_probe(x, permuted(labels(), count, generator), order, CLASSES, generator)


def test_planted_labels_are_found():
    noise = 0.1 * torch.randn(N, 16, generator=torch.Generator().manual_seed(4))
    found = probe(torch.eye(16)[labels()] + noise)
    assert found["accuracy"] == 1.0
    assert found["n"] == N
    assert found["p_value"] == pytest.approx(1 / 21)
    # permuted labels are at chance: 20 means over 200 examples; four standard errors, with dependence doubled
    assert found["permuted_mean"] == pytest.approx(1 / CLASSES, abs=8 * math.sqrt(0.16 / N / 20))
    assert found["excess_over_permuted"] == pytest.approx(1 - found["permuted_mean"])


def test_features_without_the_labels_are_at_chance():
    found = probe(torch.randn(N, 16, generator=torch.Generator().manual_seed(5)))
    assert found["accuracy"] == pytest.approx(1 / CLASSES, abs=4 * math.sqrt(0.16 / N))  # four standard errors
    assert found["p_value"] > 0.05


def test_every_example_is_tested_by_a_probe_that_did_not_see_it():
    x = torch.eye(N)  # a feature for each example: what is seen is learned, and tells nothing of the rest
    label = torch.arange(N) % CLASSES
    found = label_probe(x, permuted(label, 2, keyed_generator(0)), torch.arange(N), CLASSES, keyed_generator(0))
    assert found["accuracy"] <= 0.3


def test_permuted_keeps_the_counts():
    found = permuted(labels(), 3, keyed_generator(0))
    assert torch.equal(found[0], labels())
    assert all(torch.equal(row.sort().values, labels().sort().values) for row in found)
    assert len({tuple(row.tolist()) for row in found}) == 4


@pytest.fixture(scope="module")
def data():
    return MemorisationData(Digits(), Symmetric())


@pytest.mark.parametrize("name", ["token", "avg"])
def test_features_are_pooled_as_the_classifier_reads_them(name, data):
    model = vit(name, 10, torch.float32).eval()
    examples = data.validation_examples.subset(torch.arange(7))
    found = features_of(model, data, examples)
    assert list(found) == ["blocks.0", "blocks.1", HEAD]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        image = next(iter(data.loader(examples))).image
        assert torch.allclose(model.head(found[HEAD]), model(image), atol=1e-5)
        tokens = model.forward_intermediates(
            image, return_prefix_tokens=True, intermediates_only=True, output_fmt="NLC"
        )
    for i, (patches, prefix) in enumerate(tokens):
        wanted = prefix[:, 0] if name == "token" else patches.mean(1)
        assert torch.allclose(found[f"blocks.{i}"], wanted, atol=1e-5)


def test_a_new_head_reads_what_the_features_hold():
    true = torch.arange(90) % 3
    given = torch.where(torch.arange(90) < 30, (true + 1) % 3, true)
    image = torch.zeros(90, 1, 2, 2)
    examples = Examples(image, given, true, torch.arange(90))
    noisy, clean = examples.subset(examples.is_noisy), examples.subset(~examples.is_noisy)
    for says in ("given", "true"):
        features = [torch.eye(3)[getattr(part, f"{says}_label")] for part in (clean, noisy, clean)]
        found = new_head(features, clean, noisy, clean, 3, keyed_generator(0))
        assert found["memorized_accuracy"] == (says == "given")
        assert found["ground_truth_accuracy"] == (says == "true")
        assert found["clean_train_accuracy"] == found["validation_accuracy"] == 1.0


def test_other_tasks_by_hand():
    image = torch.arange(4.0).view(1, 1, 2, 2).repeat(40, 1, 1, 1)
    clean = Examples(image, torch.arange(40) % 5, torch.arange(40) % 5, torch.arange(40))
    turned = other_task(clean, "rotation", 5, keyed_generator(0))
    assert set(turned.true_label.tolist()) == {0, 1, 2, 3}
    for k in range(40):
        assert np.array_equal(turned.image[k, 0].numpy(), np.rot90(image[k, 0].numpy(), int(turned.true_label[k])))
    assert torch.equal(image[0], image[39])  # the original is left alone
    shifted = other_task(clean, "labels", 5, keyed_generator(0))
    assert len(set(((shifted.given_label - clean.true_label) % 5).tolist())) == 1
    assert (shifted.given_label != clean.true_label).all()
    with pytest.raises(ValueError, match="2 x 1 pixels and 5 outputs: use task labels"):
        other_task(Examples(image[..., :1], clean.given_label, clean.true_label, clean.index), "rotation", 5, None)


@pytest.mark.parametrize(
    "attack",
    [Probes(permutations=2, examples=60), Imprint(permutations=2, examples=30, steps=3, weight_decays=(100.0,))],
)
def test_the_model_is_left_alone_and_the_same_seed_gives_the_same_rows(attack, data, tmp_path):
    model = vit("token", 10, torch.float32).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = AttackData(data, "base", {}.get, tmp_path)
    first, second = (attack.apply(model, given, keyed_generator(0)) for _ in range(2))
    assert first.rows == second.rows
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    probes = ["given", "given", "given", "head"]
    if isinstance(attack, Imprint):
        probes += ["task", "old_head"]
        assert {row["weight_decay"] for row in first.rows} == {100.0}
    assert [row["probe"] for row in first.rows] == probes
    assert first.report["undefined"] == {}


def imprint(data, folder, **options):
    """Return a tiny model and the rows of the attack on it, by probe, place and weight decay."""
    model = vit("token", 10, torch.float32).eval()
    attack = Imprint(permutations=2, **options)
    found = attack.apply(model, AttackData(data, "base", {}.get, folder), keyed_generator(0))
    return model, {(row["probe"], row["place"], row["weight_decay"]): row for row in found.rows}


def test_each_weight_decay_starts_from_the_same_model_and_draws_the_same(monkeypatch, data, tmp_path):
    def probed(self, model, data, generator):
        size = float(sum(p.norm() for p in model.parameters()))
        return [
            {"probe": "given", "place": HEAD, "size": size, "drawn": float(torch.rand((), generator=generator))}
        ], {}

    monkeypatch.setattr(Imprint, "probe", probed)
    decays = (3e4, 0.0)  # with lr 3e-5 the first leaves a hundredth after two steps
    _, together = imprint(data, tmp_path, examples=60, steps=2, weight_decays=decays)
    _, alone = imprint(data, tmp_path, examples=60, steps=2, weight_decays=(0.0,))
    assert {(probe, decay) for probe, _, decay in together} == {
        (probe, decay) for probe in ("given", "task", "old_head") for decay in decays
    }
    assert {key: row for key, row in together.items() if key[2] == 0.0} == alone
    shrunk, plain = (together["given", HEAD, decay] for decay in decays)
    assert shrunk["size"] < plain["size"]
    assert shrunk["drawn"] == plain["drawn"]


def test_the_old_head_on_a_model_that_barely_moved_says_what_the_model_said(data, tmp_path):
    model, rows = imprint(data, tmp_path, steps=1, lr=1e-12, weight_decays=(0.0,))
    for name, metric in (("given", "memorized_accuracy"), ("true", "ground_truth_accuracy")):
        noisy = data.train_examples.subset(data.train_examples.is_noisy)
        with torch.no_grad():
            said = torch.cat([model(batch.image).argmax(1) for batch in data.loader(noisy)])
        share = (said == getattr(noisy, f"{name}_label")).double().mean()
        assert rows["old_head", HEAD, 0.0][metric] == pytest.approx(float(share))


@pytest.mark.parametrize("decay", [0.0, 500.0])
def test_where_the_loss_moves_nothing_weight_decay_alone_shrinks_matrices(monkeypatch, data, tmp_path, decay):
    tuned = {}
    keep = lambda self, model, *rest: tuned.update(copy.deepcopy(model.state_dict())) or ([], {})  # noqa: E731
    monkeypatch.setattr(Imprint, "probe", keep)
    monkeypatch.setattr("torch.nn.functional.cross_entropy", lambda logits, label: logits.sum() * 0)
    model, _ = imprint(data, tmp_path, steps=3, lr=1e-3, weight_decays=(decay,))
    for name, value in model.named_parameters():
        left = 0.5**3 if decay and is_decayed(name, value) else 1.0  # (1 - lr * weight_decay)^steps
        assert torch.allclose(tuned[name], left * value, rtol=1e-5), name


def test_without_noisy_examples_the_reason_is_told(tmp_path):
    data = MemorisationData(Digits(), Symmetric(rate=0.0))
    attack = Probes(permutations=1, examples=60)
    found = attack.apply(
        vit("token", 10, torch.float32), AttackData(data, "base", {}.get, tmp_path), keyed_generator(0)
    )
    assert found.report["undefined"] == {"given": "needs at least 4 noisy examples; there are 0"}
    (row,) = found.rows
    assert math.isnan(row["memorized_accuracy"])
    assert row["validation_accuracy"] > 0


def test_options_and_registry():
    assert (attacks()["probes"], attacks()["imprint"]) == (Probes, Imprint)
    for made, options, message in (
        (Probes, {"permutations": 0}, "permutations is 0"),
        (Imprint, {"task": "jigsaw"}, "task is 'jigsaw'; choose rotation or labels"),
        (Imprint, {"weight_decays": ()}, "weight_decays needs at least one value"),
        (
            Imprint,
            {"weight_decays": (0.0, -1.0)},
            "weight_decays: -1.0 is out of range; with lr 3e-05, give 0 to below",
        ),
        (Imprint, {"weight_decays": (1e3,), "lr": 1e-3}, "weight_decays: 1000.0 is out of range"),
        (Imprint, {"weight_decays": (math.inf,)}, "weight_decays: inf is out of range"),
        (Imprint, {"examples": 0}, "examples is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)
