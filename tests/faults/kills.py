"""Commands that are killed, and pairs of commands at once: nothing finished is lost, and the same command succeeds.

``python tests/faults/kills.py --all`` kills 200 times before a change of the file system and 50 times at a random
moment, over all verbs, and runs 20 pairs; each verb's undisturbed results are made first, for comparison. Every command
runs in a child of this process, which has imported everything but computed nothing.
"""

import argparse
import csv
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

import vitmem.cli
import vitmem.cli.clean
import vitmem.cli.edit
import vitmem.cli.evaluate
import vitmem.cli.export
import vitmem.cli.run
import vitmem.cli.train
import vitmem.experiment.run
import vitmem.runs.clean
import vitmem.runs.export
import vitmem.training.fit
from vitmem.runs.folder import RunFolder

SMALL = [
    "--model.width=16", "--model.depth=1", "--model.heads=2", "--model.patch=4", "--train.batch_size=400",
    "--train.epochs=2", "--train.warmup_epochs=1", "--train.checkpoint_epochs=1",
]  # fmt: skip
PLAN = """
model: {width: 16, depth: 1, heads: 2, patch: 4}
train: {batch_size: 400, epochs: 2, warmup_epochs: 1, checkpoint_epochs: 1}
references: clean
figures: false
attacks: [{name: quantize, bits: [8]}]
edits: [{name: kfac, id: k, rho: RHO}, {name: svd, id: s, keep: 0.5}]
"""
TRAIN = ["train", "--out=runs", "--name=a", *SMALL]
EDIT = ["edit", "kfac", "runs/a/seed0", "--id", "k"]
COSTS = ("seconds", "memory", "mib", "passes")  # parts of names of columns that tell what it cost, not what came out
LIMIT = 300  # seconds, for one command


@dataclass(frozen=True)
class Scenario:
    """A command, and the commands that made what it finds."""

    command: list[str]
    before: tuple[list[str], ...] = ()
    kept: str = ""  # a finished run that is there before, and must be there, old or new, after any kill


SCENARIOS = {
    "train": Scenario(TRAIN),
    "train, again": Scenario([*TRAIN, "--train.lr=0.002"], (["KILLED", *TRAIN, "--train.lr=0.002"],)),
    "train --force": Scenario([*TRAIN, "--train.lr=0.002", "--force"], (TRAIN, [*EDIT, "--rho=0.9"]), "a/seed0"),
    "edit": Scenario([*EDIT, "--rho=0.9"], (TRAIN,), "a/seed0"),
    "edit --force": Scenario([*EDIT, "--rho=0.8", "--force"], (TRAIN, [*EDIT, "--rho=0.9"]), "a/seed0"),
    "eval": Scenario(["eval", "runs/a/seed0"], (TRAIN, [*EDIT, "--rho=0.9"]), "a/seed0"),
    "eval --attacks": Scenario(
        ["eval", "runs/a", "--attacks", "[{name: quantize, bits: [8]}, {name: membership, shadows: 2}]"],
        (TRAIN, [*EDIT, "--rho=0.9"]),
        "a/seed0",
    ),
    "run": Scenario(["run", "first.yaml", "--out=runs", "--name=a"]),
    "run, other options": Scenario(
        ["run", "other.yaml", "--out=runs", "--name=a"],
        (["run", "first.yaml", "--out=runs", "--name=a"],),
        "a/seed0",
    ),
    "clean": Scenario(
        ["clean", "runs/a", "--weights", "--checkpoints", "--factors"],
        (TRAIN, [*EDIT, "--rho=0.9"], ["eval", "runs/a/seed0"]),
        "a/seed0",
    ),
    "export": Scenario(
        ["export", "runs/a/seed0", "k", "runs/exported", "--force"], (TRAIN, [*EDIT, "--rho=0.9"]), "a/seed0"
    ),
    "export, again": Scenario(
        ["export", "runs/a/seed0", "k", "runs/exported", "--force"],
        (TRAIN, [*EDIT, "--rho=0.9"], ["export", "runs/a/seed0", "base", "runs/exported"]),
        "a/seed0",
    ),
}
PAIRS = [
    ("train", [*TRAIN, "--train.lr=0.002"], [*TRAIN, "--train.lr=0.003"]),
    ("edit", [*EDIT, "--rho=0.9"], [*EDIT, "--rho=0.8"]),
    ("edit", ["edit", "svd", "runs/a/seed0"], ["eval", "runs/a/seed0"]),
    ("edit --force", ["edit", "svd", "runs/a/seed0", "--wait"], ["eval", "runs/a", "--attacks=quantize", "--wait"]),
    ("clean", ["clean", "runs/a", "--weights"], ["eval", "runs/a/seed0"]),
    ("run", ["run", "first.yaml", "--out=runs", "--name=a"], [*SCENARIOS["run"].command, "--seeds=1"]),
]


def child(root: Path, command: list[str], hook: Callable | None = None) -> int:
    """Start a command in a child and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.chdir(root)
        log = os.open(root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        torch.set_num_threads(1)
        sys.argv[1:] = command
        if hook:
            hook(str(root / "runs"))
        code = vitmem.cli.main(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(99)


def ended(pid: int) -> int:
    """Wait for a child and return its exit code, negative for a signal."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 98


def killer(at: int, counted: int | None = None) -> Callable[[str], None]:
    """Return a hook that kills the process before its n-th change of the files under a folder.

    Args:
        at: n, from 0; negative: never.
        counted: descriptor that gets a byte for each change.
    """

    def install(folder: str) -> None:
        changes = itertools.count()

        def audit(event: str, args: tuple) -> None:
            if event == "open":
                path, mode, flags = args
                changing = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or set(mode or "") & set("wax+")
            else:
                path, changing = (args or [""])[0], event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
            if not changing or isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(folder):
                return
            if counted is not None:
                os.write(counted, b".")
            if next(changes) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)

    return install


def count_changes(root: Path, command: list[str]) -> int:
    """Carry out a command and return how many changes of files it made."""
    reading, writing = os.pipe()
    pid = child(root, command, killer(-1, writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        found = len(told.read())
    check(ended(pid) == 0, root, f"{command} fails undisturbed")
    return found


def check(holds: bool, root: Path, complaint: str) -> None:
    """Raise AssertionError, with the end of what the commands printed, unless something holds."""
    log = (root / "log.txt").read_text()[-1500:] if (root / "log.txt").exists() else ""
    assert holds, f"{complaint}\n{log}"


def outcome(root: Path) -> dict[str, object]:
    """Return what came out: all tensors, and all tables but for what they say of costs."""
    found: dict[str, object] = {}
    for path in sorted((root / "runs").rglob("*")):
        name = str(path.relative_to(root))
        if any(part.startswith(".") or part in ("factors", "checkpoints") for part in path.parts):
            continue
        if path.suffix == ".safetensors":
            digest = hashlib.sha256()
            with safe_open(path, "pt") as file:
                for key in sorted(file.keys()):
                    digest.update(key.encode() + file.get_tensor(key).numpy().tobytes())
            found[name] = digest.hexdigest()
        elif path.suffix == ".csv":
            rows = csv.DictReader(path.read_text().splitlines())
            found[name] = [{k: v for k, v in row.items() if not any(cost in k for cost in COSTS)} for row in rows]
        elif path.name == "edit.json":
            found[name] = json.loads(path.read_text())["options"]
    return found


class Bench:
    """Prepared folders of every scenario, copied for each trial.

    Args:
        work: where they lie.
        names: of the scenarios.
    """

    def __init__(self, work: Path, names: list[str]):
        self.work, self.changes, self.seconds, self.expected = work, {}, {}, {}
        self.number = itertools.count()
        for name in names:
            root, start = self.copy(name), time.monotonic()
            self.changes[name] = count_changes(root, SCENARIOS[name].command)
            self.seconds[name] = time.monotonic() - start
            self.expected[name] = outcome(root)
            shutil.rmtree(root)
            print(f"{name}: {self.changes[name]} changes, {self.seconds[name]:.0f} s", flush=True)

    def start(self, name: str) -> Path:
        """Return the folder with what a scenario finds, made at the first call."""
        start = self.work / "starts" / name
        if start.exists():
            return start
        (start / "runs").mkdir(parents=True)
        for file, rho in (("first.yaml", "0.9"), ("other.yaml", "0.8")):
            (start / file).write_text(PLAN.replace("RHO", rho))
        for command in SCENARIOS[name].before:
            if command[0] == "KILLED":
                total = count_changes(self.copy("train"), command[1:])
                check(ended(child(start, command[1:], killer(total * 2 // 3))) == -9, start, "was not killed")
            else:
                check(ended(child(start, command)) == 0, start, f"{command} fails")
        return start

    def copy(self, name: str) -> Path:
        """Return a new copy of what a scenario finds."""
        root = self.work / f"trial{next(self.number)}"
        return Path(shutil.copytree(self.start(name), root))

    def kill(self, name: str, at: int | float) -> None:
        """Kill a scenario's command before its n-th change (int) or after some seconds (float), and repeat it.

        Raises:
            AssertionError: something was lost, or the same command does not do what it would have done.
        """
        scenario, root, where = SCENARIOS[name], self.copy(name), f"{name}, killed at {at}"
        if isinstance(at, int):
            code = ended(child(root, scenario.command, killer(at)))
            check(code == -9, root, f"{where}: not killed, but {code}")
        else:
            pid = child(root, scenario.command)
            time.sleep(at)
            os.kill(pid, signal.SIGKILL)
            check(ended(pid) in (0, -9), root, f"{where}: fails")
        if scenario.kept:
            path = root / "runs" / scenario.kept
            runs = [RunFolder(p) for p in (path, path.with_name(f".{path.name}.replaced")) if p.exists()]
            check(any(run.is_trained for run in runs), root, f"{where}: the finished run is lost")
        code = ended(child(root, scenario.command))
        check(code == 0, root, f"{where}: the same command ends with {code}")
        found, expected = outcome(root), self.expected[name]
        differ = [key for key in {*found, *expected} if found.get(key) != expected.get(key)]
        check(not differ, root, f"{where}: {differ} differ from what comes out undisturbed")
        left = [str(p) for p in (root / "runs").rglob("*") if p.name.endswith((".partial", ".replaced", ".work"))]
        check(not left, root, f"{where}: {left} is left")
        shutil.rmtree(root)

    def pair(self, start: str, commands: tuple[list[str], list[str]], delay: float) -> str:
        """Carry out two commands at once and return their exit codes.

        Raises:
            AssertionError: one was overwritten by the other without a word.
        """
        root = self.copy(start)
        pids = []
        for command in commands:
            pids.append(child(root, command))
            time.sleep(delay)
        codes = [ended(pid) for pid in pids]
        check(0 in codes and {*codes} <= {0, 2}, root, f"{commands} end with {codes}")
        after = outcome(root)
        for command, code in zip(commands, codes, strict=True):  # what was made is there, and is as it was asked for
            if code == 0:
                check(ended(child(root, command)) == 0, root, f"{command} was overwritten without a word")
                differ = [key for key, value in after.items() if outcome(root).get(key) != value]
                differ = [key for key in differ if not key.endswith(".csv")]  # which gain rows
                check(not differ, root, f"{command} was overwritten without a word: {differ}")
        shutil.rmtree(root)
        return f"{codes[0]} and {codes[1]}"


def spread(bench: Bench, count: int, rng: random.Random) -> Iterator[tuple[str, int]]:
    """Yield scenarios and places to kill them at, each scenario in turn, its places far from each other."""
    order = {name: rng.sample(range(total), total) for name, total in bench.changes.items()}
    names = itertools.cycle(order)
    for _ in range(count):
        name = next(name for name in names if order[name] or not any(order.values()))
        yield name, order[name].pop() if order[name] else 0


def main() -> int:
    """Kill and pair as the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="200 kills at changes, 50 at random moments, 20 pairs")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--moments", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--scenarios", default=";".join(SCENARIOS), help="separated by semicolons")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.all:
        asked.kills, asked.moments, asked.pairs = 200, 50, 20
    names = asked.scenarios.split(";")
    rng, faults = random.Random(asked.seed), []
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), names)
        moments = [(name, rng.random() * bench.seconds[name]) for name in rng.choices(names, k=asked.moments)]
        trials = [*spread(bench, asked.kills, rng), *moments]
        for name, at in trials:
            try:
                bench.kill(name, at)
                print(".", end="", flush=True)
            except AssertionError as error:
                faults.append(str(error))
                print(f"\n{error}", flush=True)
        for number in range(asked.pairs):
            start, *commands = PAIRS[number % len(PAIRS)]
            try:
                print(bench.pair(start, commands, rng.choice((0.0, 0.3, 1.0))), end="; ", flush=True)
            except AssertionError as error:
                faults.append(str(error))
                print(f"\n{error}", flush=True)
    print(f"\n{len(trials)} kills, {asked.pairs} pairs: {len(faults)} faults", flush=True)
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main())
