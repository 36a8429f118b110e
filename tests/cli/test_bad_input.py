"""Bad input is one line that says what is wrong, and exit code 2."""

import pytest
from cases import QUICK


def bad_train():
    """Arguments of `train`, and what the message must say."""
    return [
        (["--data.name=cifar12"], ["data set 'cifar12'", "digits"]),
        (["--model.name=vit_huge_banana"], ["unknown model 'vit_huge_banana'", "vit_base_patch16_224"]),
        (["--noise.kind=rosy"], ["noise kind 'rosy'", "pair_flip, symmetric"]),
        (["--noise.colour=1"], ["noise.colour"]),
        (["--trian.epochs=1"], ["trian.epochs"]),
        (["--noise.rate=1.5"], ["noise.rate is 1.5", "[0, 1]"]),
        (["--noise.rate=-0.1"], ["noise.rate is -0.1"]),
        (["--noise.rate=ten"], ["noise.rate", "ten"]),
        (["--train.epochs=0"], ["train.epochs is 0"]),
        (["--train.epochs=1.5"], ["train.epochs", "1.5"]),
        (["--seed=-1"], ["seed is -1"]),
        (["--model.patch=3"], ["patch 3 does not divide", "8 x 8"]),
        (["--model.heads=3"], ["width 16 is not a multiple of model.heads 3"]),
        (["--config=nowhere.yaml"], ["nowhere.yaml"]),
        (["--data.root=/x"], ["data.root"]),
        (["--train.epoch=1"], ["train.epoch"]),
        (["--trainer.precision=13"], ["precision", "13"]),
        (["--trainer.accelerator=banana"], ["accelerator", "banana"]),
        (["--trainer.devices=0"], ["trainer.devices is 0"]),
        (["--trainer.devices=some"], ["trainer.devices is some", "auto"]),
        (["--trainer.accelerator=cpu", "--trainer.devices=3"], ["batch_size 200", "3 devices", "a multiple of 3"]),
        (["--trainer.accumulate=3"], ["batch_size 200", "trainer.accumulate 3", "a multiple of 3"]),
        (["--trainer.accumulate=0"], ["trainer.accumulate is 0"]),
        (["--trainer.strategy=deepspeed"], ["trainer.strategy is 'deepspeed'", "auto, ddp, fsdp"]),
        (["--trainer.accelerator=cpu", "--trainer.num_nodes=2"], ["trainer.num_nodes is 2", "srun or torchrun"]),
        (["--trainer.accelerator=cpu", "--trainer.strategy=fsdp"], ["fsdp"]),
        (["--train.checkpoint_epochs=-1"], ["train.checkpoint_epochs is -1"]),
        (["--seed=99999999999999999999999"], ["seed is", "2^63"]),
        (["--noise.seed=99999999999"], ["noise.seed is", "2^32"]),
        (["--name=../up"], ["--name is '../up'"]),
        (["--noise.rate=1", "--train_on=retrain"], ["nothing to train on"]),
        (["--model.name=vit_base_patch16_224.nope"], ["vit_base_patch16_224.nope"]),
    ]


@pytest.mark.parametrize(("arguments", "words"), bad_train())
def test_bad_input_to_train(cli, tmp_path, arguments, words):
    out = tmp_path / "runs"
    code, printed, errors = cli("train", f"--out={out}", *QUICK, *arguments)
    assert (code, printed) == (2, "")
    assert errors.count("\n") == 1
    assert errors.startswith("vitmem: ")
    assert all(word in errors for word in words), errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["kfax", "RUN"], ["unknown edit 'kfax'", "kfac", "svd"]),
        (["kfac", "RUN", "--rho=0"], ["rho is 0", "(0, 1]"]),
        (["kfac", "RUN", "--rho=1.01"], ["rho is 1.01"]),
        (["kfac", "RUN", "--roh=0.5"], ["roh"]),
        (["svd", "RUN", "--keep=0"], ["keep is 0"]),
        (["kfac", "RUN", "--layers=blocks.7.*"], ["'blocks.7.*' matches no linear layer", "blocks.{0..1}.mlp.fc1"]),
        (["kfac", "RUN", "--tokens=some"], ["tokens", "some"]),
        (["kfac", "nowhere"], ["there is no folder nowhere"]),
        (["kfac", "."], ["not a run folder"]),
        (["kfac"], ["run"]),
        (["kfac", "RUN", "--id=../../up"], ["--id", "../../up"]),
        (["kfac", "RUN", "--id=base"], ["--id is 'base'"]),
        (["kfac", "RUN", "--rh=0.5"], ["rh"]),
        (["ekfac_auto", "RUN", "--fraction=0.5"], ["fraction is given"]),
        (["ekfac_auto", "RUN", "--layers=blocks.0.*", "--layer_choices=head"], ["'head' chooses head"]),
    ],
)
def test_bad_input_to_edit(cli, run_folder, arguments, words):
    before = sorted(str(path) for path in run_folder.rglob("*"))
    code, printed, errors = cli("edit", *[str(run_folder) if a == "RUN" else a for a in arguments])
    assert (code, printed) == (2, "")
    assert errors.count("\n") == 1
    assert all(word in errors for word in words), errors
    assert sorted(str(path) for path in run_folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("edits:", "edits: {"), ["not valid YAML"]),
        (("", "- 1\n- 2\n"), ["holds a list"]),
        (("name: kfac", "name: kfax"), ["edits[0]", "unknown edit 'kfax'"]),
        (("rho: [0.5, 0.9]", "rho: [0.5, 1.9]"), ["edits[0]", "rho is 1.9"]),
        (("keep: 0.5", "keeep: 0.5"), ["edits[1]", "keeep"]),
        (("keep: 0.5", "layers: x"), ["'x' matches no linear layer"]),
        (("{name: svd, keep: 0.5}", "{name: kfac, rho: 0.5}"), ["'kfac-rho0.5'", "`id`"]),
        (("epochs: 1", "epoch: 1"), ["'train'", "'epoch'"]),
        (("name: small", "name: a/b"), ["name is 'a/b'"]),
        (("name: small", "trainer: {accelerator: cpu, devices: 2}"), ["works on one device, and 2", "vitmem train"]),
        (("name: small", "references: [cleen]"), ["references are ['cleen']", "clean, retrain"]),
        (("name: small", "noise: {kind: symmetric, rate: 7}"), ["noise.rate is 7"]),
        (("name: small", "seeds: [0, 0]"), ["seeds are [0, 0]"]),
        (("name: small", "name: null"), ["name is null"]),
        (("name: small", "data: null"), ["data is None"]),
        (("name: small", "references: [clean, clean]"), ["each at most once"]),
        (("name: small", "noise: {rate: 1.0}"), ["nothing to train on"]),
        (("rho: [0.5, 0.9]", "rho: []"), ["edits[0]: rho is an empty list"]),
        (("rho: [0.5, 0.9]", "rho: null"), ["edits[0]", "rho is null"]),
        (("name: kfac", "name: kfac, id: ../x"), ["edits[0]: id is '../x'"]),
        (("name: kfac", "name: kfac, id: 3"), ["edits[0]: id is 3"]),
        (("train: {epochs: 1, batch_size: 400, warmup_epochs: 0}", "train: 3"), ["train"]),
    ],
)
def test_bad_experiment_files(cli, experiment, tmp_path, change, words):
    old, new = change
    experiment.write_text(experiment.read_text().replace(old, new) if old else new)
    code, printed, errors = cli("run", experiment, f"--out={tmp_path / 'runs'}")
    assert (code, printed) == (2, "")
    assert errors.count("\n") == 1
    assert all(word in errors for word in words), errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dance"], ["unknown verb 'dance'", "train, adopt, edit, eval,", "figures, table, list"]),
        (["run", "nowhere.yaml"], ["nowhere.yaml"]),
        (["run"], ["needs an experiment file"]),
        (["run", "FILE", "--seeds=a,b"], ["seeds is 'a,b'"]),
        (["run", "FILE", "--seed=1"], ["`seeds`"]),
        (["eval", "nowhere"], ["there is no folder nowhere"]),
        (["eval"], ["run"]),
        (["list", "everything"], ["nothing is called 'everything'", "edits, attacks"]),
        (["list", "edits", "kfac"], ["one name at most"]),
    ],
)
def test_other_bad_input(cli, experiment, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, printed, errors = cli(*[str(experiment) if a == "FILE" else a for a in arguments])
    assert (code, printed) == (2, "")
    assert errors.count("\n") == 1
    assert all(word in errors for word in words), errors
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_an_output_folder_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, errors = cli("train", f"--out={tmp_path / 'file' / 'runs'}", *QUICK)
    assert code == 2
    assert errors.count("\n") == 1
    assert str(tmp_path / "file") in errors
    assert "Not a directory" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--lr=0.1"], "did you mean --train.lr?"),
        (["train", "--train.epoch=3"], "did you mean --train.epochs"),
        (["edit", "kfac", "RUN", "--roh=0.9"], "did you mean --rho?"),
        (["edit", "RUN", "kfac"], "the edit comes first, then the run folder: vitmem edit kfac RUN"),
        (["edit", "kfac", "RUN", "--rho=0.9,0.8", "--id=one"], "--id one would name 2 results"),
        (["list", "kfc"], "did you mean kfac"),
    ],
)
def test_what_was_meant_is_said(cli, arguments, words):
    code, _, errors = cli(*arguments)
    assert code == 2
    assert words in errors
    assert errors.count("\n") == 1


def test_a_wrong_pattern_is_told_before_an_id_that_is_taken(cli, run_folder):
    code, _, errors = cli("edit", "kfac", run_folder, "--rho=0.9", "--layers=nothing.*", "--id=kfac-rho0.9")
    assert code == 2
    assert "matches no linear layer" in errors


def test_equal_keys_are_an_error(cli, tmp_path):
    file = tmp_path / "twice.yaml"
    for text, lines in (("train: {epochs: 1}\nseed: 3\ntrain: {epochs: 100}\n", "1 and 3"),
                        ("train:\n  epochs: 1\n  epochs: 2\n", "2 and 3")):  # fmt: skip
        file.write_text(text)
        code, _, errors = cli("train", f"--config={file}", f"--out={tmp_path}")
        assert (code, errors.count("\n")) == (2, 1)
        assert f"comes twice, in lines {lines}" in errors
    file.write_text("a: &a {epochs: 1}\ntrain: {<<: *a, <<: *a}\n")  # merged mappings are not keys
    assert "comes twice" not in cli("train", f"--config={file}", f"--out={tmp_path}")[2]
    file.write_text("[" * 3000)
    code, _, errors = cli("train", f"--config={file}", f"--out={tmp_path}")
    assert (code, errors.count("\n")) == (2, 1)
    assert "is not valid YAML" in errors


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("noise: {exact: null}", "noise.exact is null"),
        ("train_on: null", "train_on is null"),
        ("seed: null", "seed is null"),
        ("train: {epochs: null}", "train.epochs is null"),
        ("model: {pool: null}", "model.pool is null"),
        ("augment: {flip: null}", "augment.flip is null"),
        ("trainer: {precision: null}", "trainer.precision is null"),
        ("train: {lr: 1e308}", "train.lr is 1e+308"),
        ("train: {weight_decay: .inf}", "train.weight_decay is inf"),
        ("train: {epochs: 1000000000000000000000000000000}", "train.epochs is 1000000000000000000000000000000; whole"),
        ("augment: {randaugment: 1000000000000000000000}", "augment.randaugment is 1000000000000000000000; whole"),
        ("noise: {rate: .nan}", "noise.rate is nan"),
    ],
)
def test_nulls_and_absurd_numbers_are_refused(cli, tmp_path, option, message):
    file = tmp_path / "a.yaml"
    file.write_text(option + "\n")
    code, _, errors = cli("train", f"--config={file}", f"--out={tmp_path}")
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not (tmp_path / "a").exists()
