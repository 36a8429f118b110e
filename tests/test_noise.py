import collections
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from vitmem.datamodules.class_names import CIFAR10, CIFAR100, CIFAR100_SUPERCLASSES
from vitmem.datamodules.corruption import Asymmetric, Instance
from vitmem.datamodules.digits import Digits, stratified
from vitmem.datamodules.given import FileNoise, Human
from vitmem.datamodules.label_files import read_pt
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import NOISES, NoiseManifest, PairFlip, Symmetric, SymmetricInclusive
from vitmem.datamodules.sources import ImageData

LABELS = np.random.RandomState(0).randint(0, 7, size=4000)


def labelled(label=LABELS, names=tuple("abcdefg"), train_name=(), side=1):
    """Return random images with the given labels."""
    image = torch.from_numpy(np.random.RandomState(1).randint(0, 256, (len(label), 1, side, side), np.uint8))
    return ImageData(image, torch.from_numpy(label), image[:1], torch.tensor([0]), names, tuple(train_name))


def cifar(label=LABELS, names=CIFAR10, **options):
    return labelled(label, names, **options)


@pytest.fixture
def ready(tmp_path):
    """Every kind, with the file that it may need."""
    table = "index,label,clean,worse\n" + "".join(f"{k},{(y + 1) % 7},{y},{y}\n" for k, y in enumerate(LABELS))
    (tmp_path / "labels.csv").write_text(table)

    def make(kind, **options):
        needs_file = {"file": str(tmp_path / "labels.csv")} if hasattr(NOISES[kind], "file") else {}
        return NOISES[kind](**needs_file, **options)

    return make


@pytest.mark.parametrize("kind", sorted(NOISES))
def test_every_kind_keeps_the_contract(ready, kind):
    data = cifar()
    first, again = (ready(kind, rate=0.3).manifest(data) for _ in range(2))
    assert first.given_label.dtype == np.int64
    assert (first.given_label == again.given_label).all()
    assert first.given_label.min() >= 0
    assert first.given_label.max() < 10
    assert (first.true_label == LABELS).all()  # never written to
    assert json.loads(json.dumps(first.header())) == first.header()
    if NOISES[kind].has_rate:
        assert not ready(kind, rate=0.0).manifest(data).is_noisy.any()
    else:
        assert first.rate == first.realised_rate


@pytest.mark.parametrize("kind", ["symmetric", "symmetric_inclusive", "pair_flip"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_exactly_the_selected_share_may_change(kind, rate):
    given = NOISES[kind](rate=rate).manifest(labelled()).given_label
    changed = (given != LABELS).sum()
    if kind == "symmetric_inclusive":
        expected, sd = rate * 4000 * 6 / 7, np.sqrt(rate * 4000 * 6 / 49)
        assert abs(changed - expected) <= 5 * sd
        assert changed <= round(rate * 4000)
    else:
        assert changed == round(rate * 4000)
    assert given.min() >= 0
    assert given.max() < 7


def test_digits_manifest_is_the_one_of_the_first_version():
    header = MemorisationData(Digits(), Symmetric()).manifest.header()
    assert header == {
        "num_classes": 10,
        "kind": "symmetric",
        "rate": 0.1,
        "seed": 0,
        "data_fingerprint": "c54a7f5b263aecd52b005911c19c1deca51c7b74f36979ea08a13aab75112453",
        "num_examples": 1297,
        "num_noisy": 130,
        "realised_rate": pytest.approx(130 / 1297),
        "sha256": "8bebc9a7740b1b97b8137d90c3c5fee08e011b3492665b96c10f0dc48de3cd2c",
    }


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


def test_noise_does_not_depend_on_the_models_seed():
    labels = [MemorisationData(Digits(), Symmetric(), seed=seed).manifest.given_label for seed in (0, 1)]
    assert (labels[0] == labels[1]).all()


@pytest.mark.parametrize("rate", [-0.1, 1.5, 10, float("nan")])
def test_rate_outside_the_unit_interval(rate):
    with pytest.raises(ValueError, match=r"fraction in \[0, 1\]"):
        Symmetric(rate=rate)


def test_one_class_cannot_be_corrupted():
    with pytest.raises(ValueError, match="at least 2 classes"):
        Symmetric().manifest(labelled(np.zeros(3, int), ("a",)))


@pytest.fixture
def saved(tmp_path):
    manifest = NoiseManifest(
        LABELS[:50], PairFlip(rate=0.2).manifest(labelled(LABELS[:50])).given_label, 7, "pair_flip", 0.2, 0, "f"
    )
    (tmp_path / "noise.csv").write_text(manifest.csv_text())
    (tmp_path / "noise.json").write_text(json.dumps(manifest.header()))
    return manifest, tmp_path / "noise.csv", tmp_path / "noise.json"


def test_manifest_survives_a_round_trip(saved):
    manifest, *paths = saved
    loaded = NoiseManifest.load(*paths)
    assert loaded.header() == manifest.header()
    assert manifest.header()["num_noisy"] == 10
    assert manifest.header()["realised_rate"] == pytest.approx(0.2)


def test_a_changed_manifest_is_refused(saved):
    _, table, header = saved
    table.write_text(table.read_text().replace("0,", "1,", 1))
    with pytest.raises(ValueError, match="was changed after it was written"):
        NoiseManifest.load(table, header)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "index,true_label,given_label,is_noisy\n0,x,1,1\n"])
def test_a_malformed_manifest_is_refused(saved, text):
    _, table, header = saved
    table.write_text(text)
    with pytest.raises(ValueError, match="noise manifest|was changed"):
        NoiseManifest.load(table, header)


def test_digits_split_is_fixed_and_stratified():
    data = Digits().load()
    assert len(data.train_label) == 1297
    assert len(data.validation_label) == 500
    share = np.bincount(np.concatenate([data.train_label, data.validation_label])) * 500 / 1797
    assert np.abs(np.bincount(data.validation_label) - share).max() <= 1
    assert data.fingerprint == Digits().load().fingerprint
    assert data.fingerprint == "c54a7f5b263aecd52b005911c19c1deca51c7b74f36979ea08a13aab75112453"


def test_stratified_sizes_add_up():
    label = np.array([0] * 7 + [1] * 5 + [2] * 3)
    for size in range(16):
        chosen = stratified(label, size, 0)
        assert len(set(chosen)) == size


# asymmetric


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


# instance


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


# repeats and canaries


def test_noisy_examples_are_repeated_in_training_alone():
    noise = Symmetric(rate=0.1, repeats=4)
    sets = {kind: MemorisationData(Digits(), noise, train_on=kind) for kind in ("noisy", "clean", "retrain")}
    noisy, clean, retrain = (data.fit_examples() for data in sets.values())
    wrong = sets["noisy"].manifest.is_noisy
    assert np.bincount(noisy.index).tolist() == np.where(wrong, 4, 1).tolist()
    assert torch.equal(clean.index, noisy.index)
    assert torch.equal(clean.given_label, clean.true_label)
    assert len(retrain) == 1297 - 130
    base = sets["noisy"].train_examples
    assert torch.equal(noisy.image, base.image[noisy.index])
    assert torch.equal(noisy.given_label, base.given_label[noisy.index])
    assert sum(len(batch.index) for batch in sets["noisy"].val_dataloader()[0]) == 1297
    assert sets["noisy"].manifest.header()["repeats"] == 4


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


def test_the_header_survives_with_details(tmp_path):
    manifest = Instance(canaries=3, repeats=2).manifest(cifar())
    (tmp_path / "noise.csv").write_text(manifest.csv_text())
    (tmp_path / "noise.json").write_text(json.dumps(manifest.header()))
    assert NoiseManifest.load(tmp_path / "noise.csv", tmp_path / "noise.json").header() == manifest.header()


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


# label files


def save_pt(path, content, how):
    """Write as torch.save does (zip, legacy) or as pickle does; ``content`` holds NumPy arrays."""
    if how == "zip":
        torch.save(content, path)
    elif how == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=how))


def cifar_n(clean, **columns):
    return {"clean_label": clean, **{f"{name}_label": value for name, value in columns.items()}}


@pytest.mark.parametrize("how", ["zip", "legacy", 2, 4])
def test_human_labels_from_pt(tmp_path, how):
    worse = (LABELS + (np.arange(4000) < 1000)) % 7
    content = cifar_n(LABELS, worse=worse) | {"random_label2": LABELS.astype(np.int32), "clean_coarse_label": [1, 2]}
    save_pt(tmp_path / "labels.pt", content, how)
    read = read_pt(tmp_path / "labels.pt")
    assert {key: np.asarray(value).tolist() for key, value in read.items()} == {
        key: np.asarray(value).tolist() for key, value in content.items()
    }
    human = Human(file=str(tmp_path / "labels.pt"), column="worse").manifest(cifar())
    assert (human.given_label == worse).all()
    assert human.rate == human.realised_rate == 0.25
    assert human.header()["column"] == "worse"
    assert Human(file=str(tmp_path / "labels.pt"), column="random2").manifest(cifar()).realised_rate == 0


class Harm:
    """Runs a command when an unwary program unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("how", ["zip", "legacy", 2, 4])
def test_a_label_file_runs_no_code(tmp_path, how):
    save_pt(tmp_path / "labels.pt", {"clean_label": Harm(tmp_path / "ran")}, how)
    with pytest.raises(
        ValueError, match=r"labels.pt is not a readable label file \(it asks for \w+.system, which is not"
    ):
        Human(file=str(tmp_path / "labels.pt")).manifest(cifar())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable label file"),
        (b"garbage", "not a readable label file"),
        (pickle.dumps([1, 2]), "holds a list; expected a dictionary"),
        (pickle.dumps({"clean_label": np.array([{}])}), "an array of type object; allowed are numbers"),
        (pickle.dumps({"clean_label": np.array(["a"])}), "an array of type <U1; allowed are numbers"),
        (pickle.dumps({"clean_label": LABELS}), "has clean_label; worse_label is missing"),
        (pickle.dumps(cifar_n(LABELS, worse=LABELS / 2)), "worse_label must hold whole numbers"),
        (pickle.dumps(cifar_n(LABELS, worse=LABELS[:, None])), r"worse_label has shape \(4000, 1\)"),
        (pickle.dumps(cifar_n(LABELS, worse=LABELS + 4)), "worse goes from 4 to 10; the data set's labels are 0 to 9"),
        (pickle.dumps(cifar_n(LABELS[::-1], worse=LABELS)), "of another order than the data: clean labels differ for "),
        (pickle.dumps(cifar_n(LABELS[:9], worse=LABELS[:9])), "labels 9 examples, the data set has 4000; for a part"),
        (b"\x80\x02cnumpy\nndarray\n(K\x01tR.", "builds an array directly"),
        (b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00bX\x05\x00\x00\x00rot13tR.", "as rot13; expected latin1"),
    ],
)  # fmt: skip
def test_pt_files_that_are_refused(tmp_path, content, message):
    (tmp_path / "labels.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Human(file=str(tmp_path / "labels.pt")).manifest(cifar())


def test_a_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "labels.pt", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="a zip file with 0 data.pkl"):
        Human(file=str(tmp_path / "labels.pt")).manifest(cifar())


def test_human_labels_are_matched_by_path(tmp_path):
    names = [f"train/{y}/{k:04d}.jpg" for k, y in enumerate(LABELS)]
    rows = [f"{name},{k},{y},{(y + 1) % 7}" for k, (name, y) in enumerate(zip(names, LABELS, strict=True))]
    np.random.RandomState(3).shuffle(rows)
    file = tmp_path / "labels.csv"
    file.write_text("path,cifar_index,clean,worse\n" + "\n".join(rows))
    part = np.arange(0, 4000, 3)
    given = Human(file=str(file)).manifest(cifar(LABELS[part], train_name=[names[k] for k in part])).given_label
    assert (given == (LABELS[part] + 1) % 7).all()
    by_index = Human(file=str(file)).manifest(cifar()).given_label  # data without names
    assert (by_index == (LABELS + 1) % 7).all()


HUMAN_ROWS = "".join(f"{k},{y},{y}\n" for k, y in enumerate(LABELS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns ; clean, worse is missing"),
        ("index,clean\n", "has the columns index, clean; worse is missing"),
        ("clean,worse\n", r"path \(for image folders\) or index is missing"),
        ("index,clean,worse\n0,1\n", "row 2 has 2 cells; expected 3"),
        ("index,clean,worse\n0,1,1\n", "lacks 3999 of the 4000 training examples, such as 1"),
        ("index,clean,worse\n0,1,1\n" + HUMAN_ROWS, "column index names an example twice"),
        ("index,clean,worse\n" + HUMAN_ROWS.replace("\n0,", "\n0x,", 1).replace("7,", "8,", 1), "lacks|twice"),
        ("index,clean,worse\n" + HUMAN_ROWS.replace(",0,0\n", ",0,zero\n", 1), "worse must hold whole numbers"),
        ("index,clean,worse\n" + HUMAN_ROWS.replace(",0,0\n", ",1,0\n", 1), "of another order than the data: clean"),
        ("index,clean,worse\n" + HUMAN_ROWS.replace(",0,0\n", ",0,10\n", 1), "worse goes from 0 to 10; the data set's"),
    ],
)
def test_human_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Human(file=str(tmp_path / "labels.csv")).manifest(cifar())


@pytest.mark.parametrize("noise", [Human(), Human(file="no.pt"), Human(file="no.csv"), FileNoise(file="no.csv")])
def test_a_label_file_that_is_not_there(noise):
    with pytest.raises(ValueError, match=r"there is no file .*; set noise.file to a label file"):
        noise.manifest(cifar())


def test_labels_from_a_table(tmp_path):
    (tmp_path / "labels.csv").write_text("label,index,why\n5,1,blurred\n6,0,dark\n")
    data = labelled(np.array([0, 1, 2]))
    manifest = FileNoise(file=str(tmp_path / "labels.csv")).manifest(data)
    assert manifest.given_label.tolist() == [6, 5, 2]
    assert manifest.rate == pytest.approx(2 / 3)
    assert manifest.header()["file"] == "labels.csv"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("3,0", "index goes from 3 to 3; allowed is 0 to 2"),
        ("-1,0", "index goes from -1 to -1; allowed is 0 to 2"),
        ("0,7", "label goes from 7 to 7; the data set's labels are 0 to 6"),
        ("0,1\n0,2", "an index comes twice"),
        ("0,dog", "label must hold whole numbers"),
        ("0,99999999999999999999", "label must hold whole numbers"),
    ],
)
def test_tables_that_are_refused(tmp_path, rows, message):
    (tmp_path / "labels.csv").write_text("index,label\n" + rows)
    with pytest.raises(ValueError, match=message):
        FileNoise(file=str(tmp_path / "labels.csv")).manifest(labelled(np.array([0, 1, 2])))
