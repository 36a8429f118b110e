import collections
import hashlib
import json

import numpy as np
import pytest
import torch
from labels import LABELS, cifar, labelled

from vitmem.datamodules.class_names import CIFAR10, CIFAR100, CIFAR100_SUPERCLASSES
from vitmem.datamodules.clusters import Cluster
from vitmem.datamodules.corruption import Asymmetric, Instance
from vitmem.datamodules.noise import PairFlip, Symmetric, SymmetricInclusive, noises
from vitmem.datamodules.sources import ImageData


@pytest.fixture
def ready(tmp_path):
    """Every kind, with the file that it may need."""
    table = "index,label,clean,worse\n" + "".join(f"{k},{(y + 1) % 7},{y},{y}\n" for k, y in enumerate(LABELS))
    (tmp_path / "labels.csv").write_text(table)

    def make(kind, **options):
        needs_file = {"file": str(tmp_path / "labels.csv")} if hasattr(noises()[kind], "file") else {}
        return noises()[kind](**needs_file, **options)

    return make


@pytest.mark.parametrize("kind", sorted(noises()))
def test_every_kind_keeps_the_contract(ready, kind):
    data = cifar()
    first, again = (ready(kind, rate=0.3).manifest(data) for _ in range(2))
    assert first.given_label.dtype == np.int64
    assert (first.given_label == again.given_label).all()
    assert first.given_label.min() >= 0
    assert first.given_label.max() < 10
    assert (first.true_label == LABELS).all()  # never written to
    assert json.loads(json.dumps(first.header())) == first.header()
    if noises()[kind].has_rate:
        assert not ready(kind, rate=0.0).manifest(data).is_noisy.any()
    else:
        assert first.rate == first.realised_rate


@pytest.mark.parametrize("kind", ["symmetric", "symmetric_inclusive", "pair_flip"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_exactly_the_selected_share_may_change(kind, rate):
    given = noises()[kind](rate=rate).manifest(labelled()).given_label
    changed = (given != LABELS).sum()
    if kind == "symmetric_inclusive":
        expected, sd = rate * 4000 * 6 / 7, np.sqrt(rate * 4000 * 6 / 49)
        assert abs(changed - expected) <= 5 * sd
        assert changed <= round(rate * 4000)
    else:
        assert changed == round(rate * 4000)
    assert given.min() >= 0
    assert given.max() < 7


def test_symmetric_reaches_every_other_class_evenly():
    given = Symmetric(rate=1.0).manifest(labelled()).given_label
    shift = np.bincount((given - LABELS) % 7, minlength=7)
    assert shift[0] == 0
    assert np.abs(shift[1:] - 4000 / 6).max() < 5 * np.sqrt(4000 / 6)


def test_inclusive_draws_the_true_class_too():
    given = SymmetricInclusive(rate=1.0).manifest(labelled()).given_label
    assert 0.1 < (given == LABELS).mean() < 0.19  # 1/7 = 0.143


def test_pair_flip_is_the_next_class():
    given = PairFlip(rate=0.3).manifest(labelled()).given_label
    changed = given != LABELS
    assert ((LABELS[changed] + 1) % 7 == given[changed]).all()


def test_noise_seed_decides_and_bernoulli_selection_varies():
    assert (
        Symmetric(seed=1).manifest(labelled()).given_label == Symmetric(seed=1).manifest(labelled()).given_label
    ).all()
    assert (
        Symmetric(seed=1).manifest(labelled()).given_label != Symmetric(seed=2).manifest(labelled()).given_label
    ).any()
    counts = {int((Symmetric(seed=s, exact=False).manifest(labelled()).given_label != LABELS).sum()) for s in range(8)}
    assert len(counts) > 1
    assert all(abs(c - 400) < 5 * np.sqrt(360) for c in counts)


@pytest.mark.parametrize("rate", [-0.1, 1.5, 10, float("nan")])
def test_rate_outside_the_unit_interval(rate):
    with pytest.raises(ValueError, match=r"fraction in \[0, 1\]"):
        Symmetric(rate=rate)


def test_one_class_cannot_be_corrupted():
    with pytest.raises(ValueError, match="at least 2 classes"):
        Symmetric().manifest(labelled(np.zeros(3, int), ("a",)))


@pytest.mark.parametrize("order", [CIFAR10, CIFAR10[::-1]], ids=["sorted", "reversed"])
def test_asymmetric_follows_the_names_of_cifar10(order):
    label = np.arange(1000) % 10
    given = Asymmetric(rate=1.0).manifest(cifar(label, order)).given_label
    found = {(order[y], order[g]) for y, g in zip(label, given, strict=True)}
    flips = {("truck", "automobile"), ("bird", "airplane"), ("deer", "horse"), ("cat", "dog"), ("dog", "cat")}
    assert found == flips | {(name, name) for name in ("airplane", "automobile", "frog", "horse", "ship")}
    assert Asymmetric(rate=0.4).manifest(cifar(label, order)).realised_rate == pytest.approx(0.2, abs=0.05)


def test_asymmetric_stays_inside_the_real_superclasses_of_cifar100():
    assert len(CIFAR100) == len(set(CIFAR100)) == 100
    assert all(len(group) == 5 and list(group) == sorted(group) for group in CIFAR100_SUPERCLASSES.values())
    given = Asymmetric(rate=1.0).manifest(cifar(np.arange(100), CIFAR100)).given_label
    assert sorted(given) == list(range(100))  # cycles
    superclass = {name: group for group, names in CIFAR100_SUPERCLASSES.items() for name in names}
    assert all(superclass[CIFAR100[y]] == superclass[CIFAR100[g]] and y != g for y, g in enumerate(given))
    assert CIFAR100[given[CIFAR100.index("beaver")]] == "dolphin"
    assert CIFAR100[given[CIFAR100.index("whale")]] == "beaver"


def test_asymmetric_is_refused_for_other_classes():
    with pytest.raises(ValueError, match=r"CIFAR-10 and CIFAR-100; the data set has 7 classes \(a, b, c, d, e"):
        Asymmetric().manifest(labelled())


def test_instance_noise_depends_on_the_image():
    data = cifar(side=3)
    manifest = Instance(rate=0.3).manifest(data)
    assert manifest.realised_rate == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 4000))
    image = data.train_image[:2].repeat(2000, 1, 1, 1)  # two images, by turns
    twins = ImageData(image, data.train_label, image[:1], torch.tensor([0]), CIFAR10)
    given = Instance(rate=0.5, logit_scale=1e3).manifest(twins).given_label
    targets = collections.defaultdict(set)
    for k in np.flatnonzero(given != LABELS):
        targets[k % 2, LABELS[k]].add(given[k])
    assert [len(found) for found in targets.values()] == [1] * 14  # an image and its true class settle the target
    assert len(set.union(*targets.values())) > 3  # by a matrix of its own for each class


def test_instance_target_entropy():
    data = cifar(side=4)
    entropy = [Instance(logit_scale=scale).manifest(data).header()["target_entropy"] for scale in (0, 0.1, 1, 100)]
    assert entropy[0] == pytest.approx(np.log(9))
    assert entropy == sorted(entropy, reverse=True)
    assert entropy[-1] < 0.05
    uniform = Instance(rate=1.0, logit_scale=0).manifest(data)
    flipped = uniform.given_label[uniform.is_noisy]
    assert np.bincount((flipped - LABELS[uniform.is_noisy]) % 10)[0] == 0
    assert np.abs(np.bincount(flipped[LABELS[uniform.is_noisy] == 3], minlength=10)[[0, 9]] / 57 - 1).max() < 0.6


def test_low_rates_of_instance_noise_are_exceeded_as_documented():
    assert Instance(rate=0.1).manifest(cifar()).realised_rate == pytest.approx(0.1288, abs=0.03)


def test_cluster_noise_mislabels_images_that_look_alike_as_one():
    """Each class is made of four looks, and each look is a group; a group that is taken has one wrong label."""
    rng = np.random.RandomState(0)
    look = rng.randint(4, size=len(LABELS))
    image = rng.random_sample((7, 4, 3, 5, 5))[LABELS, look] + 0.01 * rng.random_sample((len(LABELS), 3, 5, 5))
    train = torch.tensor(image).float(), torch.tensor(LABELS)
    data = ImageData(*train, torch.zeros(1, 3, 5, 5), torch.tensor([0]), CIFAR10)
    manifest = Cluster(rate=0.3, clusters=4).manifest(data)
    assert manifest.is_noisy.sum() == round(0.3 * len(LABELS))
    assert manifest.header()["num_groups"] == 28
    shares, targets = [], set()
    for y in range(7):
        for k in range(4):
            inside = (y == LABELS) & (look == k)
            shares.append(manifest.is_noisy[inside].mean())
            wrong = set(manifest.given_label[inside & manifest.is_noisy].tolist())
            assert len(wrong) <= 1
            targets |= wrong
    assert sum(0 < share < 1 for share in shares) == 1  # the last group that was needed
    assert shares.count(1.0) == manifest.header()["num_wrong_groups"] - 1
    assert len(targets) > 2
    last = next(k for k, share in enumerate(shares) if 0 < share < 1)
    inside = np.flatnonzero((last // 4 == LABELS) & (look == last % 4))
    distance = np.linalg.norm((image[inside] - image[inside].mean(0)).reshape(len(inside), -1), axis=1)
    wrong = manifest.is_noisy[inside]
    assert distance[wrong].max() <= distance[~wrong].min()


@pytest.mark.slow
def test_cluster_noise_has_its_own_seed_and_every_size_of_group():
    data = cifar(side=9)  # averaged to 8 x 8
    given = [Cluster(seed=seed, clusters=3).manifest(data).given_label for seed in (0, 0, 1)]
    assert (given[0] == given[1]).all()
    assert (given[0] != given[2]).any()
    whole = Cluster(rate=0.1, clusters=1).manifest(data)
    assert len(np.unique(LABELS[whole.is_noisy])) == 1
    alone = Cluster(rate=0.1, clusters=10_000).manifest(data)
    assert alone.header()["num_groups"] == len(LABELS)
    with pytest.raises(ValueError, match=r"noise.clusters is 0; it must be at least 1"):
        Cluster(clusters=0)


def test_canaries_are_planted_beside_the_noise():
    plain = Symmetric(rate=0.1).manifest(labelled())
    manifest = Symmetric(rate=0.1, canaries=700).manifest(labelled())
    header = manifest.header()
    canaries = np.array(header["canaries"])
    assert len(set(canaries)) == header["num_canaries"] == 700
    others = np.setdiff1d(np.arange(4000), canaries)
    assert (manifest.given_label[others] == plain.given_label[others]).all()
    assert not plain.is_noisy[canaries].any()
    assert np.abs(np.bincount(manifest.given_label[canaries], minlength=7) - 100).max() < 50
    assert manifest.is_noisy[canaries].mean() == pytest.approx(6 / 7, abs=0.07)
    assert Symmetric(rate=0.1, canaries=700, seed=1).manifest(labelled()).details["canaries"] != header["canaries"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "noise.repeats is 0; it must be at least 1"),
        ({"canaries": -1}, "noise.canaries is -1; it must be at least 0"),
        ({"seed": -1}, r"noise.seed is -1; it must be in \[0, 2\^32\)"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Symmetric(**options)


def test_more_canaries_than_right_labels():
    with pytest.raises(ValueError, match="canaries is 3601, but only 3600 labels are still right"):
        Symmetric(rate=0.1, canaries=3601).manifest(labelled())


DRAWN = [
    (Symmetric(rate=0.3, seed=1), labelled(), "482782356ea778d5"),
    (Symmetric(rate=0.3, seed=1, exact=False), labelled(), "da7bbb20dc337078"),
    (Symmetric(rate=0.1, canaries=70), labelled(), "13fb85aa0c50dc49"),
    (SymmetricInclusive(rate=0.3, seed=1), labelled(), "362a7c6921a97cce"),
    (PairFlip(rate=0.3, seed=1), labelled(), "525e4671cd812816"),
    (Asymmetric(rate=0.5, seed=1), cifar(), "cf7e8eb8514cdf71"),
    (Instance(rate=0.3, seed=1), cifar(side=3), "ef90752ef459a03f"),
    (Instance(rate=0.9, seed=2, logit_scale=0.1), cifar(side=2), "b9f7e6b8e8c13585"),
]


@pytest.mark.parametrize(("noise", "data", "expected"), DRAWN, ids=[f"{noise.kind}-{k[:4]}" for noise, _, k in DRAWN])
def test_labels_are_those_that_earlier_versions_drew(noise, data, expected):
    """Stored runs are trained on them: another draw would make their manifest one of other labels."""
    given = noise.manifest(data).given_label.astype("<i8")
    assert hashlib.sha256(given.tobytes()).hexdigest()[:16] == expected


def test_details_are_those_that_were_asked_for():
    plain = Symmetric(rate=0.1).manifest(labelled())
    assert plain.details == {}
    assert (plain.rate, plain.seed, plain.kind, plain.num_classes) == (0.1, 0, "symmetric", 7)
    assert plain.data_fingerprint == labelled().fingerprint
    assert Symmetric(repeats=2).manifest(labelled()).details == {"repeats": 2}
    assert set(Symmetric(canaries=1).manifest(labelled()).details) == {"num_canaries", "canaries"}
    found = Instance(rate=0.3, logit_scale=0.5, repeats=3).manifest(cifar()).details
    assert (found["logit_scale"], found["repeats"]) == (0.5, 3)


def test_two_classes_are_enough_and_one_is_not():
    two = labelled(LABELS[:10] % 2, ("a", "b"))
    assert Symmetric(rate=1.0).manifest(two).given_label.tolist() == (1 - LABELS[:10] % 2).tolist()
    with pytest.raises(ValueError, match="label noise needs at least 2 classes; the data set has 1"):
        Symmetric().manifest(labelled(0 * LABELS[:10], ("a",)))


@pytest.mark.parametrize("side", [2, 40])
def test_instance_noise_in_pieces_is_that_of_the_whole(side, monkeypatch):
    data = cifar(LABELS[:200], side=side)
    whole = Instance(rate=0.5, logit_scale=0.1).manifest(data)
    monkeypatch.setattr("vitmem.datamodules.corruption._CHUNK", 100)
    parts = Instance(rate=0.5, logit_scale=0.1).manifest(data)
    assert (parts.given_label == whole.given_label).all()
    assert parts.details["target_entropy"] == pytest.approx(whole.details["target_entropy"])


def test_the_rates_of_instance_noise_are_normal_around_the_rate():
    true = cifar(np.arange(60_000) % 10)
    low, middle = (Instance(rate=rate).manifest(true).realised_rate for rate in (0.3, 0.5))
    assert low == pytest.approx(0.3, abs=0.01)
    assert middle == pytest.approx(0.5, abs=0.01)
    assert Instance(rate=1.0).manifest(true).realised_rate == pytest.approx(1 - 0.0798, abs=0.01)  # half a normal


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rate": 1.0}, {"seed": 0}, {"seed": 2**32 - 1}, {"repeats": 1}])
def test_options_at_their_bounds(options):
    Symmetric(**options)


@pytest.mark.parametrize("options", [{"rate": -1e-9}, {"rate": 1 + 1e-9}, {"seed": 2**32}, {"repeats": 0}])
def test_options_beyond_their_bounds(options):
    with pytest.raises(ValueError, match=f"^noise.{next(iter(options))} is "):
        Symmetric(**options)


def test_as_many_canaries_as_there_are_right_labels():
    found = Symmetric(rate=0.1, canaries=3600).manifest(labelled())
    assert len(found.details["canaries"]) == 3600


def test_a_scale_of_logits_is_not_negative():
    assert Instance(logit_scale=0.0).logit_scale == 0
    for scale in (-1e-9, float("nan")):
        with pytest.raises(ValueError, match=r"noise.logit_scale is .*; it must not be negative"):
            Instance(logit_scale=scale)
