"""What edits know, what they cost, and what becomes of those that fail."""

import json
import math
import platform
import shutil
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from cases import TINY

from vitmem.cli import main
from vitmem.curvature.cache import CurvatureCache
from vitmem.datamodules.batch import keyed_generator
from vitmem.datamodules.digits import Digits
from vitmem.datamodules.module import MemorisationData
from vitmem.datamodules.noise import Symmetric
from vitmem.editing import edits
from vitmem.editing.attempt import attempt
from vitmem.editing.contract import TRACKS, Edit, EditDiverged, EditResult, track
from vitmem.editing.cost import ExtraMemory
from vitmem.editing.data import EditData
from vitmem.editing.finetune import OracleLabels
from vitmem.editing.kfac import KFAC
from vitmem.editing.known import drawn, known_noisy, tuning_half
from vitmem.evaluation.metrics import at_chance, compute
from vitmem.evaluation.predict import TRAIN, VALIDATION, ExampleTable
from vitmem.experiment.drawing import best_edit
from vitmem.experiment.results import evaluate_folder
from vitmem.models.build import create
from vitmem.runs.edit import make_edit
from vitmem.runs.evaluate import evaluate
from vitmem.runs.trained import TrainedRun

DATA = MemorisationData(Digits(), Symmetric())
NOISY = DATA.train_examples.is_noisy
MODEL = create(TINY.timm_arguments((1, 8, 8), 10), seed=0).eval()
SEEN: list[torch.Tensor] = []


@dataclass(frozen=True)
class Reader(Edit):
    """Read what is to be forgotten and what is to be kept."""

    sees: ClassVar[frozenset[str]] = frozenset({"forget", "retain", "validation"})
    epochs: int = 2

    def apply(self, model, data, generator):
        SEEN[:] = [batch.index for _ in range(self.epochs) for batch in data.forget(7)]
        for loader in (data.retain(100), data.validation(100)):
            next(iter(loader))
        return EditResult(dict(model.state_dict()), {"layers": [], "seconds": {"apply": 1.0}, "extra_parameters": 5})


@dataclass(frozen=True)
class Explode(Edit):
    """Fail in one way or another."""

    how: str = "raises"

    def apply(self, model, data, generator):
        if self.how == "raises":
            raise EditDiverged("the loss is nan\nat step 3")
        if self.how == "memory":
            raise RuntimeError("out of memory")
        state = {k: torch.full_like(v, math.nan) if k == "head.bias" else v for k, v in model.state_dict().items()}
        return EditResult(state, {"layers": [], "seconds": {"apply": 0.0}})


@pytest.fixture
def registered(monkeypatch):
    ours = {**edits(), "reader": Reader, "explode": Explode}
    for module in ("vitmem.editing", "vitmem.cli.edit", "vitmem.runs.named", "vitmem.experiment.results"):
        monkeypatch.setattr(f"{module}.edits", lambda: ours)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_known_share_is_drawn_for_the_run(share):
    known = known_noisy(NOISY, share, 0, 0)
    assert int(known.sum()) == math.floor(share * int(NOISY.sum()) + 0.5)
    assert not (known & ~NOISY).any()
    assert torch.equal(known, known_noisy(NOISY, share, 0, 0))
    if share < 1:
        assert not torch.equal(known, known_noisy(NOISY, share, 0, 1))
        assert not torch.equal(known, known_noisy(NOISY, share, 1, 0))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_out_of_range(share):
    with pytest.raises(ValueError, match=r"known is .*\(0, 1\]"):
        known_noisy(NOISY, share, 0, 0)


def test_half_of_the_known_ones_are_a_half():
    known = known_noisy(NOISY, 0.5, 0, 0)
    fit = drawn(known, 0.5, 0, 0, 7)
    assert not (fit & ~known).any()
    assert abs(2 * int(fit.sum()) - int(known.sum())) <= 1


def test_an_edit_reads_the_known_ones_only():
    known = known_noisy(NOISY, 0.5, 0, 0)
    data = EditData(DATA, frozenset({"forget", "retain", "validation"}), known=known)
    served = torch.cat([batch.index for batch in data.forget(10)])
    assert sorted(served.tolist()) == known.nonzero()[:, 0].tolist()
    kept = torch.cat([batch.index for batch in data.retain(100)])
    assert sorted(kept.tolist()) == (~NOISY).nonzero()[:, 0].tolist()  # the unknown ones are in neither
    assert all((batch.index % 2 == 0).all() for batch in data.validation(100))
    only = torch.cat([batch.index for batch in data.images(KFAC(noisy="only"))])
    assert sorted(only.tolist()) == known.nonzero()[:, 0].tolist()


def test_curvature_of_the_known_ones_is_not_that_of_others():
    cache, edit = CurvatureCache(), KFAC(noisy="only")
    one, two = (
        EditData(DATA, edit.sees, cache, known_noisy(NOISY, 0.5, 0, seed)).curvature(MODEL, edit) for seed in (0, 1)
    )
    assert one is not two
    plain = KFAC()
    one, two = (
        EditData(DATA, plain.sees, cache, known_noisy(NOISY, 0.5, 0, seed)).curvature(MODEL, plain) for seed in (0, 1)
    )
    assert one is two


def test_tracks():
    assert track(frozenset({"unlabeled", "given"})) == "label-free"
    assert track(frozenset({"unlabeled", "validation"})) == "right labels"
    assert track(frozenset({"retain", "unlabeled"})) == "right labels"
    assert track(frozenset({"retain", "forget"})) == "known noisy examples"
    assert OracleLabels().track not in TRACKS


def test_passes_are_counted_exactly():
    known = known_noisy(NOISY, 0.5, 0, 0)
    made = attempt(Reader(epochs=3), MODEL, EditData(DATA, Reader.sees, known=known), keyed_generator(0))
    expected = 3 * int(known.sum()) + 100 + 100  # three times all, then the first batch of each
    assert made.passes == expected / len(NOISY)
    assert made.status == "ok"


@pytest.mark.parametrize(
    ("options", "images"),
    [({}, 200), ({"moments": "ekfac"}, 400), ({"layers_per_pass": 3}, 3 * 200), ({"noisy": "only"}, 130)],
)
def test_cached_curvature_counts_as_if_it_were_collected(options, images):
    edit, cache = KFAC(examples=200, **options), CurvatureCache()
    known = known_noisy(NOISY, 1.0, 0, 0)
    images = min(images, int(known.sum())) if "noisy" in options else images
    first, again = (attempt(edit, MODEL, EditData(DATA, edit.sees, cache, known), keyed_generator(0)) for _ in range(2))
    assert first.passes == again.passes == images / len(NOISY)
    assert first.extra_memory is not None
    assert again.extra_memory is None


def test_extra_memory_sees_an_allocation():
    with ExtraMemory(torch.device("cpu"), period=0.001) as memory:
        held = torch.ones(16_000_000)  # 61 MiB, written to
    assert memory.bytes > 40 * 2**20
    assert held.sum() == 16_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_memory_that_earlier_work_freed_hides_nothing():
    pieces = [torch.ones(8_000) for _ in range(2_000)]  # 61 MiB in pieces that are not mapped one by one
    wall = torch.ones(8_000)  # above them, so that the top of the heap cannot shrink
    del pieces
    with ExtraMemory(torch.device("cpu"), period=0.001) as memory:
        again = [torch.ones(8_000) for _ in range(2_000)]
    assert memory.bytes > 40 * 2**20
    assert wall.sum() + sum(piece.sum() for piece in again) == 2_001 * 8_000


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_what_diverged_has_a_status_and_no_result(how):
    made = attempt(Explode(how), MODEL, EditData(DATA, Explode.sees), keyed_generator(0))
    assert made.result is None
    words = {"raises": "diverged: the loss is nan at step 3", "nan": "diverged: head.bias is not finite"}
    assert made.status == words[how]


def table(prediction, true, known=(), split=VALIDATION):
    n = len(true)
    zeros = np.zeros(n)
    is_known = np.isin(np.arange(n), known)
    given = (np.array(true) + 1) % 10
    wrong = np.full(n, split == TRAIN)
    return ExampleTable(
        np.full(n, split), np.arange(n), given, np.array(true), wrong, np.array(prediction), zeros, zeros, is_known
    )


def test_at_chance_is_what_a_constant_answer_reaches():
    true = np.arange(500) % 10
    assert at_chance(table(np.zeros(500, int), true))
    better = true.copy()
    better[100:] = (better[100:] + 1) % 10  # 20 % right
    assert not at_chance(table(better, true))
    lopsided = np.where(np.arange(500) < 400, 0, 1)
    assert at_chance(table(np.zeros(500, int), lopsided))  # 80 % right, and knows nothing


def test_known_and_unseen_pool_to_the_whole():
    generator = np.random.default_rng(0)
    true = generator.integers(10, size=90)
    found = compute(table((true + generator.integers(3, size=90)) % 10, true, range(0, 90, 3), TRAIN))
    for name in ("memorized", "ground_truth"):
        parts = [found[f"{name}_{part}_accuracy"] for part in ("known", "unseen")]
        assert [part.n for part in parts] == [30, 60]
        assert sum(part.value * part.n for part in parts) == pytest.approx(found[f"{name}_accuracy"].value * 90)
    validation = compute(table(np.arange(10) % 10, [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]))
    assert validation["validation_held_out_accuracy"].n == 5
    assert validation["validation_held_out_accuracy"].value == 2 / 5  # of 1, 3, 5, 7, 9
    assert tuning_half(DATA.validation_examples).index.tolist() == list(range(0, 500, 2))


def test_the_known_share_is_recorded_and_changes_the_edit(cli, registered, run_folder):
    assert main(["edit", "reader", str(run_folder), "--known=0.5"]) == 0
    file = run_folder / "edits" / "reader" / "edit.json"
    content = json.loads(file.read_text())
    assert content["known"] == {"share": 0.5, "examples": 65}
    assert content["track"] == "known noisy examples"
    assert content["cost"]["extra_parameters"] == 5
    known = TrainedRun.open(run_folder).known_noisy().nonzero()[:, 0].tolist()
    assert sorted(torch.cat(SEEN[: len(SEEN) // 2]).tolist()) == known
    code, _, errors = cli("edit", "reader", run_folder, "--known=0.3")
    assert code == 2
    assert "known: 0.3 asked for" in errors
    stamp = (run_folder / "edits" / "kfac-rho0.9" / "edit.json").stat().st_mtime_ns
    assert cli("edit", "kfac", run_folder, "--rho=0.9", "--known=0.3")[0] == 0  # label-free: the same edit
    assert (run_folder / "edits" / "kfac-rho0.9" / "edit.json").stat().st_mtime_ns == stamp
    code, printed, _ = cli("eval", run_folder)
    assert "memorized unseen (n=65)" in printed
    assert "known noisy examples" in printed
    assert cli("edit", "reader", run_folder, "--known=0")[0] == 2


def test_weights_made_again_keep_their_first_cost(run_folder):
    run, file = TrainedRun.open(run_folder), run_folder / "edits" / "again" / "edit.json"
    content = make_edit(run, Reader(), "reader", "again", save=False)
    content["cost"]["seconds"] = 7.0  # as if it had taken longer at first
    file.write_text(json.dumps(content))
    assert make_edit(run, Reader(), "reader", "again", force=True)["cost"] == content["cost"]
    assert make_edit(run, Reader(epochs=1), "reader", "again", force=True)["cost"]["seconds"] == 1.0


def test_two_points_with_the_same_options_are_made_once(run_folder, monkeypatch):
    run, made = TrainedRun.open(run_folder), []
    monkeypatch.setattr("vitmem.runs.edit.attempt", lambda *a, **o: made.append(1) or attempt(*a, **o))
    for edit_id, epochs in (("best", 1), ("at0.2", 1), ("at0.05", 2)):
        content = make_edit(run, Reader(epochs=epochs), "reader", edit_id, save=False, tuned={"point": edit_id})
        assert (content["id"], content["tuned"]) == (edit_id, {"point": edit_id})
        assert evaluate(run, edit_id)["metrics"]
    assert len(made) == 2
    make_edit(run, Reader(epochs=2), "reader", "again", save=False, force=True)
    assert len(made) == 3


def test_an_edit_that_diverges_stops_nothing_else(cli, registered, run_folder, tmp_path):
    code, printed, errors = cli("edit", "explode", run_folder)
    assert (code, printed) == (1, "")
    assert errors.count("\n") == 1
    assert "diverged: the loss is nan at step 3" in errors
    assert not (run_folder / "edits" / "explode" / "model.safetensors").exists()
    rows = {row["id"]: row for row in evaluate_folder(TrainedRun.open(run_folder))}
    assert rows["explode"]["status"].startswith("diverged: ")
    assert "memorized_accuracy" not in rows["explode"]
    assert {"base", "kfac-rho0.9", "explode"} == set(rows)
    folder = tmp_path / "again" / "small" / "seed0"
    shutil.copytree(run_folder, folder)
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nreferences: []\nfigures: false\n"
        "model: {width: 16, depth: 2, heads: 2, patch: 4}\n"
        "train: {epochs: 2, batch_size: 200, warmup_epochs: 1}\n"
        "edits: [{name: explode}, {name: explode, id: nan, how: nan}, "
        "{name: explode, id: big, how: memory}, {name: svd}]\n"
    )
    code, printed, errors = cli("run", file, f"--out={tmp_path / 'again'}")
    assert code == 0, errors
    assert "explode (seed 0): diverged: the loss is nan at step 3" in printed
    assert "nan (seed 0): diverged: head.bias is not finite" in printed
    assert "big (seed 0): failed: out of memory" in printed
    lines = (tmp_path / "again" / "small" / "results.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:]] == [
        "base", "explode", "nan", "big", "svd-keep0.1", "kfac-rho0.9"  # which the folder holds, too
    ]  # fmt: skip


def test_a_model_at_chance_is_never_the_best():
    base = {"id": "base", "seed": 0, "edit": "", "memorized_accuracy": 1.0}
    chance = {"id": "a", "seed": 0, "edit": "a", "memorized_accuracy": 0.1, "ground_truth_accuracy": 0.9}
    good = chance | {"id": "b", "ground_truth_accuracy": 0.5, "status": "ok"}
    assert best_edit([base, chance | {"status": "at chance"}, good], 0)["id"] == "b"
    assert best_edit([base, chance | {"status": "ok"}, good], 0)["id"] == "a"
