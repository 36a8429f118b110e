"""One training on several devices, or in several batches a step, against the same training in one piece."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_distributed import launch, relative

from vitmem.cli import main
from vitmem.datamodules.batch import Examples, InMemoryLoader, Share
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.models.build import create
from vitmem.models.config import ModelConfig
from vitmem.runs.trained import TrainedRun
from vitmem.training.config import TrainConfig, TrainerConfig
from vitmem.training.devices import clean_name
from vitmem.training.fit import fit
from vitmem.training.keeper import ACCURACIES

pytestmark = pytest.mark.slow

MODEL = ModelConfig(width=16, depth=2, heads=2, patch=4)
# float64, so that what is left of the order of sums is far below what Adam makes of gradients that are zero
OPTIONS = [
    "--model.width=16", "--model.depth=2", "--model.heads=2", "--model.patch=4", "--train.epochs=3",
    "--train.batch_size=432", "--train.warmup_epochs=1", "--trainer.accelerator=cpu", "--trainer.precision=64-true",
]  # fmt: skip  # 1,297 = 3 * 432 + 1: the last step has one example, and one process has none


def train(folder, batch_size=432, **options):
    """Return the weights and the rows of a small training in this process."""
    folder.mkdir()
    data = MemorisationData(Digits(), Symmetric(), batch_size=batch_size)
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=0)
    trainer = TrainerConfig(accelerator="cpu", **{"precision": "64-true", **options})
    config = TrainConfig(epochs=2, batch_size=batch_size, warmup_epochs=1, clip=0.5)
    return fit(model, data, config, trainer, seed=0, folder=folder)[0], rows(folder)


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def assert_agree(found, expected, tolerance):
    """Weights agree to a relative tolerance, losses too, and accuracies exactly."""
    assert set(found[0]) == set(expected[0])
    assert max(relative(found[0][name], value) for name, value in expected[0].items()) < tolerance
    for one, other in zip(found[1], expected[1], strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-6)  # summed in float32
        assert {n: one[n] for n in ("epoch", "step", *ACCURACIES)} == {
            n: other[n] for n in ("epoch", "step", *ACCURACIES)
        }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 3), (3, 2), (4, 4)])
def test_shares_are_a_partition_of_every_step(processes, accumulate):
    examples = Examples(torch.rand(25, 1, 2, 2), torch.zeros(25).long(), torch.zeros(25).long(), torch.arange(25))
    whole = [batch.index for batch in InMemoryLoader(examples, 12, shuffle=True)]  # 12, 12 and 1
    loaders = [
        InMemoryLoader(examples, 12, shuffle=True, share=Share(rank, processes, accumulate))
        for rank in range(processes)
    ]
    assert {len(loader) for loader in loaders} == {3 * accumulate}
    for step, expected in enumerate(whole):
        served = []
        for loader in loaders:
            for number, batch in list(enumerate(loader))[step * accumulate : (step + 1) * accumulate]:
                own, size = loader.counts(number)
                assert size == len(expected)
                assert len(batch.index) == max(own, 1)
                served += batch.index[:own].tolist()
        assert sorted(served) == sorted(expected.tolist())


def test_a_loader_goes_on_in_the_middle_of_a_shared_epoch():
    examples = Examples(torch.rand(25, 1, 2, 2), torch.zeros(25).long(), torch.zeros(25).long(), torch.arange(25))
    one, other = (InMemoryLoader(examples, 12, shuffle=True, seed=1, share=Share(1, 2, 2)) for _ in range(2))
    batches = iter(one)
    for _ in range(3):
        next(batches)
    other.load_state_dict(one.state_dict())
    assert [b.index.tolist() for b in batches] == [b.index.tolist() for b in other]


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    data = MemorisationData(Digits(), Symmetric(), batch_size=1296)  # the second step has one example
    model = create(MODEL.timm_arguments((1, 8, 8), 10), seed=0)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainConfig(epochs=1, batch_size=1296, lr=1e-12)
    fit(model, data, config, TrainerConfig(accelerator="cpu"), seed=0, folder=folder)
    model.load_state_dict(start)
    examples = data.fit_examples()
    batch = next(iter(data.loader(examples, len(examples))))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model.train()(batch.image), batch.given_label)
    assert float(rows(folder)[0]["train_loss"]) == pytest.approx(float(expected), rel=1e-6)


def test_accumulated_batches_are_one_step(alone, tmp_path):
    assert_agree(train(tmp_path / "run", accumulate=4), alone, 1e-10)


def test_recomputed_activations_change_nothing(alone, tmp_path):
    assert_agree(train(tmp_path / "run", grad_checkpointing=True), alone, 1e-12)


@pytest.mark.slow
def test_a_compiled_model_keeps_its_names(alone, tmp_path, monkeypatch):
    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: original(self, backend="eager"))
    assert_agree(train(tmp_path / "run", compile=True), alone, 1e-12)
    assert clean_name("blocks._fsdp_wrapped_module.0._orig_mod.mlp.fc1.weight") == "blocks.0.mlp.fc1.weight"


def test_without_a_compiler_compiling_is_refused_in_one_line(cli, tmp_path, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def search(*arguments):
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", search)
    code, printed, errors = cli("train", f"--out={tmp_path / 'out'}", *OPTIONS, "--trainer.compile=true")
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert "trainer.compile" in errors
    assert "install a C++ compiler" in errors
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compiled_is_one_line(tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("the linker is broken\n" * 100)

    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: original(self, backend=broken))
    with pytest.raises(ValueError, match="^trainer.compile cannot be used here: .*the linker is broken") as caught:
        train(tmp_path / "run", compile=True)
    assert len(str(caught.value)) < 400


def test_tf32_is_allowed_in_training_only(alone, tmp_path):
    assert_agree(train(tmp_path / "run", tf32=True), alone, 1e-12)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    assert main(["train", f"--out={out}", *OPTIONS]) == 0
    return result(out)


def result(out):
    folder = out / "default" / "seed0"
    return load_file(folder / "model.safetensors"), rows(folder)


@pytest.mark.slow
def test_two_processes_of_torchrun_are_as_one(one_process, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    command = ["-m", "vitmem", "train", f"--out={tmp_path}", *OPTIONS, "--trainer.devices=2", "--trainer.accumulate=2"]
    launch(command, tmp_path, seconds=300)
    assert_agree(result(tmp_path), one_process, 1e-10)
    printed = [(tmp_path / f"rank{rank}.log").read_text() for rank in range(2)]
    assert printed[0].count("training on 1297 examples") == printed[0].count("the model is in") == 1
    assert "model is in" not in printed[1]
    launch(command, tmp_path)  # both see that it is finished
    assert "already trained" in (tmp_path / "rank0.log").read_text()
    run = tmp_path / "default" / "seed0"
    launch(
        ["-m", "vitmem", "edit", "kfac", str(run), "--examples=50"], tmp_path, seconds=300
    )  # one of them holds the run
    assert TrainedRun.open(run).edited() == ["kfac-rho0.75"]


def test_torchrun_must_start_as_many_as_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(AssertionError, match="torchrun started 2 processes, but trainer.devices .* is 1"):
        launch(["-m", "vitmem", "train", f"--out={tmp_path / 'out'}", *OPTIONS], tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_lightning_starts_the_second_process(one_process, tmp_path):
    """SIGTERM in the first process ends both, and one device goes on with what two began."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    environment = {k: v for k, v in environment.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK")}
    code = (
        "import os, signal, sys; from vitmem.training.module import MemorisationModule\n"
        "original = MemorisationModule.training_step\n"
        "def step(self, batch, batch_idx):\n"
        "    if self.global_step == 5 and self.global_rank == 0: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return original(self, batch, batch_idx)\n"
        "MemorisationModule.training_step = step\n"
        "from vitmem.cli import main; sys.exit(main())\n"
    )
    script = tmp_path / "stopping.py"
    script.write_text(code)
    command = ["train", f"--out={tmp_path}", *OPTIONS]
    done = subprocess.run(
        [sys.executable, str(script), *command, "--trainer.devices=2"],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("vitmem: stopped at step 6; the same command goes on from there") == 1
    assert done.stdout.count("training on") == 1
    assert main(command) == 0
    assert_agree(result(tmp_path), one_process, 1e-10)
