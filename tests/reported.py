"""Finished experiments with made-up answers, for tests of the report, and a bench of it.

``PYTHONPATH=tests python tests/reported.py [IMAGES RESULTS]`` prints how long a report takes, and how large it is.
"""

import contextlib
import dataclasses
import io
import json
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from vitmem.cli import main
from vitmem.evaluation import metrics, scorecard
from vitmem.evaluation.predict import TRAIN, ExampleTable
from vitmem.evaluation.tables import result_row, to_csv
from vitmem.files import file_digest, write_atomically, write_json
from vitmem.report.page import write_report
from vitmem.runs.evaluate import EXAMPLES, MEASUREMENT, evaluation_folder, examples
from vitmem.runs.folder import RunFolder
from vitmem.runs.trained import BASE

ATTACK = "window.hacked=1"
CLASSES = [f"<img src=x onerror={ATTACK}>", f"'\"><svg onload={ATTACK}>", f"plain & <script>{ATTACK}<"]  # no / in names
TINY = ["--noise.rate=0.2", "--model.width=16", "--model.depth=1", "--model.heads=2", "--model.patch=4"]
TINY += ["--train.epochs=1", "--train.batch_size=500", "--train.warmup_epochs=0"]
MODELS = {  # id -> edit, option, value, share of the answers that are true labels, that are neither label
    "base": ("", "", "", 0.0, 0.0),
    "retrain": ("", "", "", 0.9, 0.1),
    "scale-factor0.4": ("scale", "factor", 0.4, 0.4, 0.4),
    "scale-factor0.7": ("scale", "factor", 0.7, 0.5, 0.2),
    "scale-factor0.9": ("scale", "factor", 0.9, 0.2, 0.05),
    "svd-keep0.2": ("svd", "keep", 0.2, 0.6, 0.2),
    "svd-keep0.6": ("svd", "keep", 0.6, 0.1, 0.0),
    "rewind-keep0.5": ("rewind", "keep", 0.5, 0.8, 0.1),
}


def hostile(folder: Path) -> Path:
    """Make an experiment of two seeds whose names try to be markup, with analyses and scorecards."""
    write_images(folder / "images")
    made = folder / "hostile"
    place = ["--data.name=imagefolder", f"--data.root={folder / 'images'}", f"--out={folder}", "--name=hostile"]
    _train(made / "seed0", [*place, *TINY])
    shutil.copytree(made / "seed0", made / "seed1")
    config = made / "seed1" / "config.yaml"
    config.write_text(re.sub(r"(?m)^seed: 0$", "seed: 1", config.read_text()))
    RunFolder(made / "seed1").seal(["config.yaml"])
    write_answers(made, MODELS, seeds=(0, 1))
    card = {"experiment": "hostile", "seed": 0, "id": "scale-factor0.7", "criterion": "verbatim", "value": 0.75}
    verdict = card | {"seed": "", "criterion": "durable", "value": 1, "reason": "<i>durable</i>", "population": "all"}
    write_atomically(made / "scorecard.csv", scorecard.to_csv([card, verdict]))
    plan = f"name: hostile\nedits: [{{name: svd}}]\n# </pre></script><script>{ATTACK}</script>\n"
    write_atomically(made / "plan.yaml", plan)
    (made / "analyses").mkdir()
    write_atomically(made / "analyses" / "detection.csv", "seed,id,analysis,auroc\n0,base,<i>detection</i>,0.75\n")
    for seed in (0, 1):
        scores = made / f"seed{seed}" / "evals" / BASE / "analyses"
        scores.mkdir()
        one = np.linspace(0, 1, 120)
        np.savez(scores / "detection.npz", input_curvature=one, **{"arrays/bins": one[:7]})
        np.savez(scores / "some.npz", index=np.arange(60, 100), score=one[:40])
    return made


def write_images(root: Path) -> None:
    """Write 40 training images a class, of 8 x 8 pixels, and 20 for validation."""
    random = np.random.default_rng(0)
    for split, count in {"train": 40, "val": 20}.items():
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
                image.save(root / split / name / f"<b onclick={ATTACK}>{number:02d}.png")


def many(folder: Path, images: int, results: int) -> Path:
    """Make an experiment of one seed with many images, colour noise of 32 x 32 pixels, and many results."""
    random, data = np.random.default_rng(0), {}
    for split, n in {"train": images, "test": 500}.items():
        data |= {f"x_{split}": random.integers(0, 256, (n, 32, 32, 3), np.uint8)}
        data |= {f"y_{split}": random.integers(0, 10, n)}
    np.savez(folder / "noise.npz", **data)
    place = ["--data.name=npz", f"--data.path={folder / 'noise.npz'}", f"--out={folder}", "--name=made"]
    _train(folder / "made" / "seed0", [*place, *TINY, "--noise.rate=0.1", "--model.patch=16"])
    strengths = np.linspace(0, 1, results)[1:]
    edits = {f"made-rho{s:.3f}": ("made", "rho", float(f"{s:.3f}"), 0.7 * s, 0.2 * s) for s in strengths}
    write_answers(folder / "made", {BASE: MODELS[BASE], **edits})
    return folder / "made"


def _train(run: Path, options: Sequence[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *options]) == 0
        assert main(["eval", str(run)]) == 0


def write_answers(folder: Path, models: dict, seeds: Sequence[int] = (0,)) -> None:
    """Write answers of models, drawn at random, with their measurements and the table of results."""
    random, rows = np.random.default_rng(0), []
    for seed in seeds:
        run = folder / f"seed{seed}"
        table = examples(run)
        for name, (edit, option, value, right, astray) in models.items():
            draw = random.random(len(table.given))
            answer = np.where(draw < right, table.true, table.given)
            answer = np.where(draw > 1 - astray, (table.true + 1) % (table.true.max() + 1), answer)
            place = (run.with_name(f"{run.name}-{name}"), BASE) if name == "retrain" else (run, name)
            measured = _measure(evaluation_folder(*place), dataclasses.replace(table, prediction=answer))
            row = {"experiment": folder.name, "seed": seed, "id": name, "edit": edit, "option": option, "value": value}
            rows.append(result_row(row, measured, None))
    write_atomically(folder / "results.csv", to_csv(rows))


def _measure(folder: Path, table: ExampleTable) -> dict[str, dict]:
    folder.mkdir(parents=True, exist_ok=True)
    table.save(folder / EXAMPLES)
    found = {name: dataclasses.asdict(metric) for name, metric in metrics.compute(table).items()}
    content = {"inputs": "0" * 64, "known": 0.5, "metrics": found, "at_chance": False, "status": metrics.OK}
    write_json(folder / MEASUREMENT, content | {"examples_sha256": file_digest(folder / EXAMPLES)})
    return found


class Elements(HTMLParser):
    """The elements of a page, and the texts that its scripts hold.

    Attributes:
        found: tags with their attributes.
        script: by id (empty without one) the text of a script.
    """

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.script: dict[str, str] = {}
        self.open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.open = dict(attributes).get("id", "")

    def handle_endtag(self, tag):
        if tag == "script":
            self.open = None

    def handle_data(self, data):
        if self.open is not None:
            self.script[self.open] = self.script.get(self.open, "") + data

    @property
    def data(self) -> dict:
        """What the page's scripts are given."""
        return json.loads(self.script["data"])


def counts(text: str) -> dict[str, float]:
    """Return the numbers in what the flip explorer says: counts by outcome, n, and validation accuracy."""
    pairs = re.findall(r"(memorized|ground truth|other) ([\d,]+) of ([\d,]+)", text)
    found = {name: int(k.replace(",", "")) for name, k, _ in pairs}
    n = {int(total.replace(",", "")) for *_, total in pairs}
    assert len(n) == 1
    return found | {"n": n.pop(), "validation": float(re.search(r"validation ([\d.]+)", text)[1])}


def bench(images: int = 50_000, results: int = 40) -> None:
    """Print time and size of a report, and the largest memory of the process, training included."""
    with tempfile.TemporaryDirectory() as folder:
        made = many(Path(folder), images, results)
        table = examples(made / "seed0")
        noisy = int((table.is_noisy & (table.split == TRAIN)).sum())
        seconds, work = time.perf_counter(), time.process_time()
        notes = write_report(made)
        seconds, work = time.perf_counter() - seconds, time.process_time() - work
        size = (made / "report.html").stat().st_size / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{images:,} images ({noisy:,} noisy), {results} results:", end=" ")
        print(f"{seconds:.1f} s ({work:.1f} s of a core), {size:.2f} MB;", end=" ")
        print(f"the process took {peak:.1f} GiB at most", *notes, sep="\n")


if __name__ == "__main__":
    bench(*map(int, sys.argv[1:]))
