import json

import pytest
import torch
import yaml
from photographs import make_folder

from vitmem.cli import main
from vitmem.datamodules import (
    SVHN,
    ImageFolder,
    datasets,
)
from vitmem.datamodules.noise import noises
from vitmem.datamodules.sources import ImageData
from vitmem.options import summary
from vitmem.runs.config import RunConfig, parser_for, run_config


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(datasets()))
def test_options_survive_the_configuration_file(name):
    assert summary(datasets()[name])
    for kind in noises():
        settings = RunConfig(data=datasets()[name](), noise=noises()[kind]())
        text = yaml.safe_dump(settings.to_dict())
        assert RunConfig.from_dict(yaml.safe_load(text)) == settings


def read_options(*arguments):
    return run_config(parser_for(arguments, "train", "").read(arguments))


def test_offline_is_spelled_in_short_and_means_nothing_where_nothing_is_downloaded():
    assert read_options("--data.name=svhn", "--offline").data == SVHN(offline=True)
    assert read_options("--data.name=cifar10", "--data.root=/x", "--data.offline=true").data.offline
    assert read_options("--offline") == read_options()
    listed = read_options("--data.name=imagefolder", "--data.classes=[cat, dog]", "--data.per_class=5").data
    assert listed == ImageFolder(classes=["cat", "dog"], per_class=5)


def test_a_wrong_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    make_folder(tmp_path / "data")
    (tmp_path / "data/train/cat/0000.png").write_text("no image")
    for root in (tmp_path / "data", tmp_path / "no"):
        arguments = ["train", "--data.name=imagefolder", f"--data.root={root}", f"--out={tmp_path / 'runs'}"]
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_training_on_photographs_with_canaries_and_repeats(tmp_path, capsys):
    make_folder(tmp_path / "data", train=20, validation=4)
    arguments = [
        "train", "--data.name=imagefolder", f"--data.root={tmp_path / 'data'}", f"--out={tmp_path / 'runs'}",
        "--noise.repeats=3", "--noise.canaries=2", "--model.width=16", "--model.depth=1", "--model.heads=2",
        "--model.patch=4", "--train.epochs=1", "--train.warmup_epochs=0", "--train.batch_size=16",
    ]  # fmt: skip
    assert main(arguments) == 0
    header = json.loads((tmp_path / "runs/default/seed0/noise.json").read_text())
    assert header["num_canaries"] == len(header["canaries"]) == 2
    assert f"training on {40 + 2 * header['num_noisy']} examples" in capsys.readouterr().out
    assert main(arguments) == 0  # the saved header is that of the data at hand


def test_image_data_is_still_generic():
    image = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    data = ImageData(image, torch.tensor([0, 1, 0]), image[:2], torch.tensor([0, 1]), ("a", "b"))
    assert data.train_name == ()
    assert data.mean_std == ((0.0,), (1e-6,))
