"""Any configuration that is allowed survives YAML, as a mapping and as a file on the command line."""

import dataclasses

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from properties import few

from vitmem.datamodules.augment import Augment
from vitmem.datamodules.corruption import Instance, PairFlip, Symmetric, SymmetricInclusive
from vitmem.datamodules.given import FileNoise
from vitmem.models.config import ModelConfig
from vitmem.runs.config import RunConfig, parser_for, run_config
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.yaml_files import dump_yaml, load_yaml

fewer = settings(few, max_examples=10, phases=[Phase.generate])  # each makes a parser of all options

# Texts that YAML, or a parser behind it, could take for something else.
TEXTS = st.sampled_from(["no", "null", "~", "blocks.* head", "a: b", "[x]", "0x10", "1e3", "1_0", " é", "#", "{}", "'"])
COUNTS, SHARES = st.integers(1, 10**6), st.floats(0, 1)
BELOW_1 = st.floats(0, 1, exclude_max=True)
NOT_NEGATIVE = st.floats(0, 1e6)


def noises():
    options = {
        "rate": SHARES, "seed": st.integers(0, 2**32 - 1), "exact": st.booleans(), "repeats": st.integers(1, 1000),
        "canaries": st.integers(0, 10**6),
    }  # fmt: skip
    plain = [st.builds(kind, **options) for kind in (Symmetric, SymmetricInclusive, PairFlip)]
    files = st.builds(FileNoise, file=TEXTS, **options)
    return st.one_of(*plain, files, st.builds(Instance, logit_scale=NOT_NEGATIVE, **options))


CONFIGS = st.builds(
    RunConfig,
    noise=noises(),
    augment=st.builds(Augment, flip=st.booleans(), pad=st.integers(0, 7)),
    model=st.builds(
        ModelConfig,
        name=st.sampled_from(["auto", "vit_tiny_patch16_224"]),
        width=st.none() | st.integers(1, 64).map(lambda k: 12 * k),
        heads=st.none() | st.sampled_from([1, 2, 3, 4]),
        depth=st.none() | st.integers(1, 1024),
        mlp_ratio=st.none() | st.floats(1e-3, 10),
        pool=st.sampled_from(["token", "avg"]),
        dropout=BELOW_1,
        drop_path=BELOW_1,
        pretrained=st.none() | TEXTS.map(lambda text: f"./{text}"),  # a plain null, ~ or # is none, in quotes too
    ),
    train=st.builds(
        TrainConfig,
        epochs=COUNTS,
        batch_size=COUNTS,
        lr=st.floats(1e-30, 1e3),
        weight_decay=NOT_NEGATIVE,
        warmup_epochs=st.just(0.0),
        label_smoothing=BELOW_1,
        clip=NOT_NEGATIVE,
        ema=BELOW_1,
        early_stop=st.booleans(),
        frozen=TEXTS,
    ),
    trainer=st.builds(
        TrainerConfig,
        accelerator=st.sampled_from(["cpu", "auto"]),
        devices=st.just("auto") | st.integers(1, 4096),
        accumulate=COUNTS,
        compile=st.booleans(),
    ),
    seed=st.integers(0, 2**63 - 1),
    train_on=st.sampled_from(["noisy", "retrain", "clean"]),
)


@fewer
@given(CONFIGS)
def test_a_configuration_survives_yaml(config):
    assert RunConfig.from_dict(load_yaml(dump_yaml(config.to_dict()))) == config


@pytest.mark.slow
@fewer
@given(CONFIGS)
def test_a_configuration_survives_a_file_and_the_command_line_wins(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(dump_yaml(config.to_dict()))

    def read(*arguments):
        line = ["--config", str(path), *arguments]
        return run_config(parser_for(line, "train", "").read(line))

    assert read() == config
    train = dataclasses.replace(config.train, epochs=7)
    assert read("--train.epochs=7", "--seed=3") == dataclasses.replace(config, train=train, seed=3)


def test_a_configuration_is_read_anew_whoever_changes_one_that_was_read_before():
    content = RunConfig().to_dict()
    first = RunConfig.from_dict(content)
    first.data.__dict__["kept"] = object()
    second = RunConfig.from_dict(content)
    assert second == RunConfig()
    assert "kept" not in second.data.__dict__
    assert RunConfig.from_dict({**content, "seed": 1}).seed == 1
