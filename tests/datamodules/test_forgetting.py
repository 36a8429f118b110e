import numpy as np
import pytest
import torch
from labels import labelled

from vitmem.datamodules.forgetting import ForgetClass, ForgetSet, Trigger
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.sources import DataSet

LABEL = np.array([0, 1, 1, 2, 1, 2])
NAMES = tuple(f"train/{y}/{k}.png" for k, y in enumerate(LABEL))


def small(**options):
    return labelled(LABEL, tuple("abc"), NAMES, **options)


class Given(DataSet):
    def __init__(self, data):
        self.data = data

    def load(self):
        return self.data


@pytest.mark.parametrize(("text", "chosen"), [("index\n4\n0\n", [0, 4]), ("path,why\n1/2.png,x\n5.png,y\n", [2, 5])])
def test_a_forget_set_from_a_file(tmp_path, text, chosen):
    (tmp_path / "forget.csv").write_text(text)
    manifest = ForgetSet(file=str(tmp_path / "forget.csv")).manifest(small())
    assert np.flatnonzero(manifest.to_forget).tolist() == chosen
    assert not manifest.is_noisy.any()
    assert manifest.header()["num_forget"] == 2


def test_what_is_to_be_forgotten_is_served_and_left_out_of_retrain():
    noise = ForgetSet(indices=[1, 3], repeats=2)
    data = MemorisationData(Given(small()), noise)
    examples = data.train_examples
    assert examples.subset(examples.to_forget).index.tolist() == [1, 3]
    assert examples.subset(examples.to_retain).index.tolist() == [0, 2, 4, 5]
    assert data.fit_examples().index.tolist() == [0, 1, 1, 2, 3, 3, 4, 5]
    assert MemorisationData(Given(small()), noise, train_on="retrain").fit_examples().index.tolist() == [0, 2, 4, 5]
    batch = next(iter(data.loader(examples.subset(torch.tensor([3, 0])))))
    assert batch.to_forget.tolist() == [True, False]
    assert batch.to_retain.tolist() == [False, True]
    both = type(examples).concatenate([examples, data.validation_examples])
    assert both.to_forget.tolist() == [*examples.to_forget.tolist(), False]


def test_a_share_of_a_class():
    assert np.flatnonzero(ForgetClass(name="b").manifest(small()).to_forget).tolist() == [1, 2, 4]
    some = [ForgetClass(name="1", share=0.67, seed=seed).manifest(small()).to_forget for seed in range(20)]
    assert {int(chosen.sum()) for chosen in some} == {2}
    assert np.flatnonzero(np.any(some, 0)).tolist() == [1, 2, 4]


def test_a_trigger_by_hand():
    noise = Trigger(target="c", rate=0.5, size=2, corner="top_left", value=0.0)
    data = MemorisationData(Given(small(side=4)), noise)
    clean, patched = small(side=4).train_image, data.data.train_image
    drawn = data.manifest.is_noisy
    assert drawn.sum() == 2  # of 4 images of a and b
    assert not drawn[LABEL == 2].any()
    assert (data.manifest.given_label[drawn] == 2).all()
    assert (patched[drawn][:, :, :2, :2] == 0).all()
    assert (patched[drawn][:, :, 2:] == clean[drawn][:, :, 2:]).all()
    assert (patched[~drawn] == clean[~drawn]).all()
    shown = data.triggered_examples  # of the one validation image, of class a
    assert shown.given_label.tolist() == [2]
    assert shown.true_label.tolist() == [0]
    assert (shown.image[0, :, :2, :2] == 0).all()
    assert list(data.evaluation_loaders()) == [0, 1, 3]
    assert len(MemorisationData(Given(small(side=4)), Trigger(target="a", size=2)).triggered_examples) == 0


def test_a_trigger_on_one_class_alone():
    given = Trigger(target="c", source="b", rate=1.0, size=2).manifest(small(side=4)).given_label
    assert given.tolist() == [0, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForgetSet(), "needs noise.file or noise.indices, and not both"),
        (lambda: ForgetSet(indices=[6]), "index goes from 6 to 6; allowed is 0 to 5"),
        (lambda: ForgetSet(indices=[1, 1]), "an index comes twice, such as train/1/1.png"),
        (lambda: ForgetSet(indices=[]), "the forget set of noise.kind forget_set is empty"),
        (lambda: ForgetSet(indices=[1], canaries=1), "noise.canaries is 1, but the forget set is another"),
        (lambda: ForgetSet(file="no.csv"), "there is no file no.csv"),
        (lambda: ForgetClass(name="zebra"), "noise.name is zebra, which is no class: they are a, b, c, or 0 to 2"),
        (lambda: ForgetClass(name="3"), "noise.name is 3, which is no class"),
        (lambda: ForgetClass(share=0), r"noise.share is 0; it is the share of a class, in \(0, 1\]"),
        (lambda: ForgetClass(share=1.5), "noise.share is 1.5"),
        (lambda: Trigger(target="zebra"), "noise.target is zebra, which is no class"),
        (lambda: Trigger(target="a", source="0"), "noise.source and noise.target are both 0"),
        (lambda: Trigger(size=4), "noise.size is 4; it must be less than the images' 4 x 4 pixels"),
        (lambda: Trigger(size=0), "noise.size is 0"),
        (lambda: Trigger(value=255), r"noise.value is 255; it is a brightness in \[0, 1\]"),
        (lambda: Trigger(canaries=1), "noise.canaries is 1"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        MemorisationData(Given(small(side=4)), make())
    assert "\n" not in str(error.value)
