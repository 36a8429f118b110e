import numpy as np
import pytest
from labels import LABELS, cifar, labelled

from vitmem.datamodules.corruption import Symmetric
from vitmem.datamodules.given import FileNoise, Human


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
        ("index,clean,worse\n0,1\n", "line 2 has 2 cells; expected 3"),
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


NAMES = ("train/a/1.png", "train/b/1.png", "train/b/2.png")


def table(tmp_path, text):
    (tmp_path / "own.csv").write_text(text)
    return str(tmp_path / "own.csv")


def named(label=(0, 1, 1), names=tuple("abcdefg")):
    return labelled(np.array(label), names, train_name=NAMES)


@pytest.mark.parametrize(
    ("paths", "order"),
    [
        (("train/a/1.png", "train/b/1.png", "train/b/2.png"), (0, 1, 2)),
        (("b/1.png", "./b/2.png", "a/1.png"), (1, 2, 0)),
        (("/data/pets/train/b/1.png", "train\\b\\2.png", "a/1.png"), (1, 2, 0)),
        (("2.png", "a/1.png", "b/1.png"), (2, 0, 1)),
    ],
)
def test_paths_are_matched_with_or_without_folders(tmp_path, paths, order):
    file = table(tmp_path, "path,label\n" + "".join(f"{path},{y}\n" for path, y in zip(paths, "cde", strict=True)))
    given = FileNoise(file=file).manifest(named()).given_label
    assert given[list(order)].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("truth", "text", "true", "noisy"),
    [
        ("data", "path,label\na/1.png,b\n", [0, 1, 1], [1, 0, 0]),
        ("unknown", "path,label\na/1.png,b\n", [-1, -1, -1], [0, 0, 0]),
        ("column", "path,label,true_label\na/1.png,b,2\n2.png,b,\n", [2, 1, -1], [1, 0, 0]),
        ("column", "index,label,true\n0,1,2\n2,1,-1\n", [2, 1, -1], [1, 0, 0]),
        ("column", "index,label,true_label\n0,b,c\n2,b,\n", [2, 1, -1], [1, 0, 0]),
    ],
)
def test_the_truth_is_the_datas_a_columns_or_unknown(tmp_path, truth, text, true, noisy):
    noise = FileNoise(file=table(tmp_path, text), truth=truth)
    manifest = noise.manifest(named())
    assert manifest.true_label.tolist() == true
    assert manifest.is_noisy.tolist() == noisy
    assert manifest.header().get("num_unknown", 0) == true.count(-1)
    assert bool(manifest.lacks_forget_set) is (max(true) < 0)


def test_a_forget_set_among_own_labels(tmp_path):
    file = table(tmp_path, "index,label,forget\n0,1,0\n1,1,1\n2,1,0\n")
    manifest = FileNoise(file=file, truth="unknown").manifest(named())
    assert manifest.to_forget.tolist() == [False, True, False]
    assert not manifest.lacks_forget_set
    assert manifest.header()["num_forget"] == 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,label\nx/9.png,b\n", {}, "1 of 1 paths, such as x/9.png, are of no training image; these are called"),
        ("path,label\n1.png,b\n", {}, "1 of 1 paths, such as 1.png, could be several training images"),
        ("path,label\na/1.png,b\ntrain/a/1.png,b\n", {}, "an image comes twice, such as train/a/1.png"),
        ("label\nb\n", {}, "index or path .* is missing"),
        (
            "path,label\na/1.png,zebra\n",
            {},
            "label must hold whole numbers .*, or names of .*; not zebra",
        ),
        ("path,label\na/1.png,b\n", {"truth": "column"}, "true_label is missing"),
        ("path,label,forget\na/1.png,b,2\n", {}, "forget goes from 2 to 2"),
        ("path,label,forget\na/1.png,b,0\n", {}, "the forget set of noise.kind file is empty"),
        ("path,label,forget\na/1.png,b,1\n", {"canaries": 1}, "noise.canaries is 1, but the forget set is another"),
    ],
)
def test_own_labels_that_are_refused(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message) as error:
        FileNoise(file=table(tmp_path, text), **options).manifest(named())
    assert "\n" not in str(error.value)


def test_numbers_that_are_names_of_other_classes(tmp_path):
    data = named((0, 1, 1), tuple("1234567"))
    with pytest.raises(ValueError, match=r"label 2 is the name of class 1, and the number of another; write"):
        FileNoise(file=table(tmp_path, "path,label\na/1.png,2\n")).manifest(data)
    assert FileNoise(file=table(tmp_path, "path,label\na/1.png,+2\n")).manifest(data).given_label[0] == 2
    assert FileNoise(file=table(tmp_path, "index,label\n0,2\n")).manifest(data).given_label[0] == 2  # as ever


def test_data_without_labels_need_a_label_for_each_example(tmp_path):
    with pytest.raises(ValueError, match="lacks 2 of the 3 training examples, such as train/b/1.png, and the data do"):
        FileNoise(file=table(tmp_path, "path,label\na/1.png,b\n")).manifest(named((-1, -1, -1)))
    with pytest.raises(ValueError, match="noise.kind symmetric starts from the right labels, and the data do not say"):
        Symmetric().manifest(named((-1, -1, -1)))
