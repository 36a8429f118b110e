"""Two processes, each with its share of the examples, against one process with all of them.

The two run this file as a script, ``python test_distributed.py FOLDER``, with the variables that torchrun sets.
"""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import DoubleLoader, loader, vit

from vitmem.curvature.cache import CurvatureCache
from vitmem.curvature.collect import collect_factors, collect_moments
from vitmem.curvature.factors import LayerFactors, LayerMoments, load_sums, save_sums
from vitmem.curvature.layers import linear_maps
from vitmem.curvature.moments import LabelRule
from vitmem.curvature.spectrum import Eigenbasis
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.distributed import process_group, share
from vitmem.editing.data import EditData
from vitmem.editing.features import Features
from vitmem.editing.kfac import EKFAC, KFAC, RandomPairs
from vitmem.editing.probe_head import ProbeHead
from vitmem.editing.prune import Wanda
from vitmem.editing.sap import SAP
from vitmem.models.layers import select_layers

pytestmark = pytest.mark.slow

BLOCKS = "blocks.* head"
COUNTS = (11, 1)  # shares of 6 and 5 examples, and of 1 and 0
CASES = {
    "sampled": ("all", LabelRule("sampled", draws=2, seed=5), False, f"patch_embed.proj {BLOCKS}"),
    "exact": ("mean", LabelRule("exact"), True, f"patch_embed.proj {BLOCKS}"),
    "topk": ("all", LabelRule("topk", top=2), True, BLOCKS),
    "given": ("cls", LabelRule("given"), False, BLOCKS),
}
OPTIONS = {"examples": 11, "batch_size": 4, "dtype": "float64"}
EDITS = {
    "kfac": KFAC(**OPTIONS),
    "kfac_given": KFAC(labels="given", tokens="cls", bias=True, **OPTIONS),
    "kfac_few_at_a_time": KFAC(layers_per_pass=3, seed=1, **OPTIONS),
    "kfac_one": KFAC(**OPTIONS | {"examples": 1}),
    "ekfac": EKFAC(**OPTIONS),
    "ekfac_one": EKFAC(**OPTIONS | {"examples": 1}),
    "random_pairs": RandomPairs(**OPTIONS),
}
BY_INPUTS = {
    "features": Features(examples=11, batch_size=4),
    "probe_head": ProbeHead(examples=11, batch_size=4),
    "sap": SAP(examples=11, batch_size=4),
    "sap_unlabeled": SAP(examples=11, batch_size=4, images="unlabeled"),
    "wanda": Wanda(examples=11, batch_size=4),
}


class DoubleData(MemorisationData):
    """Serves float64 images."""

    def loader(self, examples, batch_size=None, **options):
        """Return a loader of float64 images."""
        mean, std = self.data.mean_std
        return DoubleLoader(examples, batch_size or self.eval_batch_size, mean, std, **options)


DATA = DoubleData(Digits(), Symmetric())


def rotations(maps):
    """Orthogonal matrices that are the same in every process."""
    generator = torch.Generator().manual_seed(4)

    def draw(n):
        return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q

    return {n: Eigenbasis(draw(m.outputs), None, draw(m.inputs), None, 0.0, 0.0) for n, m in maps.items()}


def collect_all(folder):
    """Store the sums of every case, from this process's share of the examples."""
    rank, processes = share()
    model = vit()
    for n in COUNTS:
        batches = DoubleLoader(loader(n).examples.subset(slice(rank, None, processes)), 4)
        for case, (tokens, rule, bias, layers) in CASES.items():
            maps = linear_maps(select_layers(model, layers), bias)
            options = {"tokens": tokens, "rule": rule, "dtype": torch.float64}
            factors = collect_factors(model, batches, maps, **options)
            moments = collect_moments(model, batches, maps, rotations(maps), **options)
            save_sums(folder / f"{n}-{case}-factors.safetensors", factors, {})
            save_sums(folder / f"{n}-{case}-moments.safetensors", moments, {})


def edit_all(cache_folder, folder):
    """Store the curvature and the weights of every edit of the digits model."""
    model = vit(classes=10)
    cache = CurvatureCache(cache_folder)
    for name, edit in EDITS.items():
        data = EditData(DATA, edit.sees, cache)
        result = edit.apply(model, data, keyed_generator(0))
        stored = {
            layer: {**vars(found.basis), "mass": found.mass.dense(), "weight": result.state_dict[f"{layer}.weight"]}
            for layer, found in data.curvature(model, edit).layers.items()
        }
        torch.save(stored, folder / f"{name}.pt")


def edit_by_inputs(folder):
    """Store the weights of the digits model after the edits that look at inputs."""
    for name, edit in BY_INPUTS.items():
        state = edit.apply(vit(classes=10), EditData(DATA, edit.sees), keyed_generator(0)).state_dict
        torch.save(state, folder / f"{name}.pt")


def work(folder):
    """What each of the two processes does."""
    own = folder / f"rank{share()[0]}"
    (own / "again").mkdir(parents=True)
    collect_all(own)
    edit_by_inputs(own)
    edit_all(folder / "factors", own)
    edit_all(folder / "factors", own / "again")  # now from the files


FAILS = """
import torch
from vitmem.distributed import all_sum, process_group, share
with process_group():
    if share()[0] == 1:
        raise RuntimeError("the disk is gone")
    all_sum(torch.ones(1))
"""
HANGS = "import time; time.sleep(600)"


def launch(arguments, folder, seconds=120):
    """Run Python with these arguments in two processes.

    Where one fails or time runs out, both are stopped and their output is raised.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    workers, logs = [], [folder / f"rank{rank}.log" for rank in range(2)]
    end = time.monotonic() + seconds
    try:
        for rank, log in enumerate(logs):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(log, "w") as output:
                workers.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        env=environment | ranks,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
        while None in (codes := [worker.poll() for worker in workers]) and not any(codes) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.2 if any(codes) else 0)  # let the other one say what it saw
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if codes != [0, 0]:
        printed = "\n".join(f"--- {log.stem}\n{log.read_text()}" for log in logs)
        raise AssertionError(f"exit codes {codes}, None where it was stopped after {seconds} s\n{printed}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What two processes stored together (with ``rank0`` and ``rank1``), and what this process stored alone."""
    together, alone = tmp_path_factory.mktemp("together"), tmp_path_factory.mktemp("alone")
    launch([__file__, str(together)], together)
    collect_all(alone)
    edit_by_inputs(alone)
    edit_all(alone / "factors", alone)
    return together, alone


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def assert_sums_agree(found, expected):
    assert set(found) == set(expected)
    for layer, sums in expected.items():
        for field in dataclasses.fields(sums):
            one, other = getattr(found[layer], field.name), getattr(sums, field.name)
            if isinstance(other, int):
                assert one == other
            elif isinstance(other, float):
                assert one == pytest.approx(other, rel=1e-12)
            elif other.norm() == 0:  # tokens that the class token does not read
                assert one.norm() == 0
            else:
                assert relative(one, other) < 1e-12


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("what", ["factors", "moments"])
def test_sums_of_shares_equal_the_sums_of_one_process(folders, n, case, what):
    together, alone = folders
    name, kind = f"{n}-{case}-{what}.safetensors", LayerFactors if what == "factors" else LayerMoments
    expected, _ = load_sums(alone / name, kind)
    assert all(layer.num_examples == n for layer in expected.values())
    for rank in range(2):
        assert_sums_agree(load_sums(together / f"rank{rank}" / name, kind)[0], expected)
    assert (together / "rank0" / name).read_bytes() == (together / "rank1" / name).read_bytes()


def test_two_processes_store_the_factors_that_one_stores(folders):
    together, alone = (folder / "factors" for folder in folders)
    stored = sorted(path.name for path in alone.iterdir())
    assert sorted(path.name for path in together.iterdir()) == stored
    keys = {name.removesuffix(".spectra.npz") for name in stored if name.endswith(".npz")}
    assert len(keys) == 6  # of seven edits, random_pairs shares those of kfac
    for name in [name for name in stored if name.endswith(".safetensors") and name[:16] in keys]:
        (found, metadata), (expected, known) = (load_sums(path / name, LayerFactors) for path in (together, alone))
        assert {**metadata, "seconds": ""} == {**known, "seconds": ""}
        assert_sums_agree(found, expected)


TENSORS = ("u_g_OO", "lambda_O", "u_a_II", "mu_I", "mass", "weight")


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", sorted(EDITS))
def test_edits_in_two_processes_equal_the_edit_in_one(folders, name):
    together, alone = folders
    first, expected = load(together / "rank0" / f"{name}.pt"), load(alone / f"{name}.pt")
    for path in (together / "rank1", together / "rank0" / "again", together / "rank1" / "again"):
        for layer, values in load(path / f"{name}.pt").items():
            assert all(torch.equal(values[key], first[layer][key]) for key in TENSORS)
    assert set(first) == set(expected)
    for layer, values in first.items():
        assert relative(values["lambda_O"], expected[layer]["lambda_O"]) < 1e-12
        assert relative(values["mu_I"], expected[layer]["mu_I"]) < 1e-12
        if name != "random_pairs":  # may keep pairs of zero mass, whose eigenvectors are arbitrary
            assert relative(values["weight"], expected[layer]["weight"]) < 1e-8


@pytest.mark.parametrize("name", sorted(BY_INPUTS))
def test_edits_by_inputs_in_two_processes_equal_the_edit_in_one(folders, name):
    together, alone = folders
    expected = load(alone / f"{name}.pt")
    for rank in range(2):
        found = load(together / f"rank{rank}" / f"{name}.pt")
        if name == "wanda":
            assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert all(relative(found[key], value) < 1e-6 for key, value in expected.items() if value.any())


@pytest.mark.parametrize("name", ["ekfac", "ekfac_one"])
def test_masses_in_the_eigenbasis_of_two_processes_equal_those_of_one(folders, name):
    edit, model = EDITS[name], vit(classes=10)
    found = load(folders[0] / "rank1" / f"{name}.pt")
    fields = [field.name for field in dataclasses.fields(Eigenbasis)]
    bases = {layer: Eigenbasis(*(values[field] for field in fields)) for layer, values in found.items()}
    expected = collect_moments(
        model,
        EditData(DATA, edit.sees).images(edit),
        linear_maps(select_layers(model, edit.layers), edit.bias),
        bases,
        tokens=edit.tokens,
        rule=edit.rule,
        dtype=torch.float64,
    )
    for layer, values in found.items():
        assert relative(values["mass"], expected[layer].mean_OI) < 1e-12


@pytest.mark.parametrize(
    ("script", "seconds", "message"),
    [(FAILS, 60, "RuntimeError: the disk is gone"), (HANGS, 1, "None where it was stopped after 1 s")],
    ids=["fails", "hangs"],
)
def test_a_process_that_fails_or_hangs_stops_both_and_is_heard(tmp_path, script, seconds, message):
    with pytest.raises(AssertionError, match=message):
        launch(["-c", script], tmp_path, seconds)


STOPS = """
import signal
from pathlib import Path
from types import SimpleNamespace
import torch
from vitmem.training.checkpoints import SafeCheckpointIO
from vitmem.distributed import all_sum, process_group, share
from vitmem.training.errors import Interrupted
from vitmem.training.keeper import Keeper
from vitmem.training.loggers import Followed
with process_group():
    none = Followed([], Path(), online=False)
    keeper = Keeper(Path(), SafeCheckpointIO(True), minutes=1, epochs=0, line_seconds=None, followed=none)
    if share()[0] == 1:  # it alone is told to end, and does not know that the last checkpoint could not be written
        keeper.stop_signal, keeper.saved_step = signal.SIGTERM, 3
    saved = []
    keeper.save = lambda trainer: saved.append(int(all_sum(torch.ones(()))))
    assert keeper.signals() == (False, signal.SIGTERM)
    try:
        keeper.stop(SimpleNamespace(global_step=3), signal.SIGTERM)
    except Interrupted as error:
        assert (saved, error.code) == ([2], 143)
    else:
        raise AssertionError("it goes on")
"""


def test_a_signal_to_one_process_stops_both(tmp_path):
    launch(["-c", STOPS], tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group():
        work(Path(sys.argv[1]))
