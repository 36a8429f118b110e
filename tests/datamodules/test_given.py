import numpy as np
import pytest
from labels import LABELS, cifar, labelled

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
