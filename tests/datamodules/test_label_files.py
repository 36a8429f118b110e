import pickle
import zipfile

import numpy as np
import pytest
import torch
from labels import LABELS, cifar

from vitmem.datamodules import label_files
from vitmem.datamodules.given import Human
from vitmem.datamodules.label_files import integers, read_csv, read_pt


def save_pt(path, content, how):
    """Write as torch.save does (zip, legacy) or as pickle does; ``content`` holds NumPy arrays."""
    if how == "zip":
        torch.save(content, path)
    elif how == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=how))


HUGE = LABELS.astype(np.uint64) + np.uint64(2**64 - 9)


def cifar_n(clean, **columns):
    return {"clean_label": clean, **{f"{name}_label": value for name, value in columns.items()}}


@pytest.mark.parametrize("how", ["zip", "legacy", 2, 4, 5])
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


@pytest.mark.parametrize("how", ["zip", "legacy", 2, 4, 5])
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
        (pickle.dumps(cifar_n(LABELS, worse=[1.7] * 4000)), r"worse_label must hold .* \(one of them is 1.7"),
        (pickle.dumps(cifar_n(LABELS, worse=[True] * 4000)), "worse_label must hold whole numbers"),
        (pickle.dumps(cifar_n(LABELS, worse="0" * 4000)), "worse_label must hold whole numbers"),
        (pickle.dumps(cifar_n(LABELS, worse=None)), r"worse_label must hold whole numbers \(it is a NoneType"),
        (pickle.dumps(cifar_n(LABELS, worse=[10**30] * 4000)), "worse_label must hold whole numbers"),
        (pickle.dumps(cifar_n(LABELS, worse=HUGE)), r"worse_label must .* \(it is uint64, up to 18446744073709551613"),
        (pickle.dumps({(1, 2): LABELS}), "one of its keys is a tuple; expected names of columns"),
        (b"\x80\x02}X\x01\0\0\0acnumpy.core.multiarray\n_reconstruct\n)Rs.", "not a readable label file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html>", "it is a web page, not the file itself"),
        (b"\x93NUMPY\1\0", r"in TensorFlow's order of the images; use CIFAR-10_human.pt"),
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


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(label_files, "_MOST_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "labels.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels/data.pkl", bytes(2 * 10**6))
    (tmp_path / "plain.pt").write_bytes(bytes(2 * 10**6))
    for name in ("labels.pt", "plain.pt"):
        with pytest.raises(ValueError, match="it takes 0.0 GB.*which no label file does"):
            read_pt(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,label\n\n\n0,1\n2\n", "line 5 has 1 cells; expected 2"),
        ('index,label\n"0\n",1\n2\n', "line 4 has 1 cells; expected 2"),
        ("index,label,label\n0,1,2\n", "has the columns index, label, label; label comes twice"),
        ("index;label\n0;1\n", "has the columns index;label; index, label is missing"),
        ("<html><body>", "has the columns <html><body>; index, label is missing"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "a.csv", ("index", "label"))


def test_blanks_empty_lines_and_a_byte_order_mark_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(" index , label\n\n 0, 1 \n2,3\n\n", encoding="utf-8-sig")
    assert read_csv(tmp_path / "a.csv", ("index", "label")) == {"index": ["0", "2"], "label": ["1", "3"]}


@pytest.mark.parametrize("cell", ["1.7", "1_0", "", "\u0663", "1e3", "0x1", "9" * 5000])
def test_cells_that_are_no_whole_numbers(tmp_path, cell):
    with pytest.raises(ValueError, match="label must hold whole numbers"):
        integers(tmp_path, "label", ["1", cell])
