"""Sampled mutation testing: change one thing in the code, run the tests of that module, see whether one fails.

    python .ci/mutate.py --out mutants.csv                  the whole sample
    python .ci/mutate.py --out again.csv --again mutants.csv    the same, trying only what survived then

A mutant is one change of the syntax tree (``mutants.py``). The sample is drawn file by file with a fixed seed, so that
a change of one file leaves the mutants of the others as they are.

One process imports and collects everything, in a copy of the tree. First it runs each test once, to see which functions
it calls: a mutant is given the tests that call what it changes, up to some seconds of them. Each mutant then lives in a
forked process, as other byte code of one function; what stands outside of functions is imported anew.
``tests/mutants.md`` lists the mutants that no test can tell from the original.
"""

import argparse
import ast
import csv
import importlib.machinery
import itertools
import os
import pickle
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

from mutants import function_of, line_of, mutations, outermost

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("vitmem", "datamodules", "figures", "experiments", "tests", "README.md", "pyproject.toml")
SAMPLED = (
    "vitmem/curvature",
    "vitmem/editing",
    "vitmem/evaluation",
    "datamodules/corruption.py",
    "datamodules/manifest.py",
)
FEWEST, ALTOGETHER = 6, 370  # mutants of a file, and about how many of all files
CPU_SECONDS = 30  # of one mutant; one that needs more loops

TESTS = (
    "curvature", "editing", "evaluation", "experiment/test_compare_frontiers.py", "experiment/test_results.py",
    "datamodules/test_corruption.py", "datamodules/test_given.py", "datamodules/test_manifest.py",
    "datamodules/test_noise_properties.py",
)  # fmt: skip
LEFT_OUT = "TestContract"  # every edit in every way: too slow for every mutant
WORTH = 8  # seconds of tests that a mutant is given, on the code as it is


def main() -> None:
    """Draw the sample, run it, and say how many mutants were found out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="CSV, one row for each mutant")
    parser.add_argument("--again", type=Path, help="an earlier CSV: what was found out then is not tried again")
    parser.add_argument("--only", default="", help="files whose path holds this text")
    parser.add_argument("--calls", type=Path, help="file that keeps which test calls what, for the next time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder).resolve())
        sys.path[:0] = [str(tree), str(tree / "tests")]
        os.chdir(tree)
        run_tests(tests(), Loop(options, tree))


def copied(tree: Path) -> Path:
    """Copy what tests need; packages that lie beside vitmem are linked to where they are imported from."""
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tree / name)
    for name in ("datamodules", "figures"):
        (tree / "vitmem" / name).symlink_to(tree / name)
    return tree


def tests() -> list[str]:
    """Return the arguments that choose tests."""
    return ["-k", f"not {LEFT_OUT}", *(f"tests/{part}" for part in TESTS if Path("tests", part).exists())]


def run_tests(arguments: list[str], plugin: object) -> int:
    """Run pytest with a plugin."""
    import pytest

    return int(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", "--capture=sys", *arguments], plugins=[plugin]))


class Loop:
    """A plugin of pytest that, once all tests are collected, tries the mutants one after another."""

    def __init__(self, options: argparse.Namespace, tree: Path):
        self.options, self.tree = options, tree

    def pytest_runtestloop(self, session) -> bool:
        """Write what became of each mutant."""
        options, equivalent, outcomes = self.options, known_equivalent(), Counter()
        rows = [row for row in sample(options.seed) if options.only in row["file"]]
        earlier = csv.DictReader(options.again.open()) if options.again else []
        held = {key(row): row["outcome"] for row in earlier if row["outcome"] in ("killed", "timeout")}
        calls = who_calls(session, self.tree, options.calls)
        with options.out.open("w", newline="") as file:
            names = ["file", "line", "code", "operator", "before", "after", "outcome", "seconds"]
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            for row in rows:
                start = time.perf_counter()
                if tuple(row[name] for name in ("file", "code", "before", "after")) in equivalent:
                    row["outcome"] = "equivalent"
                else:
                    row["outcome"] = held.get(key(row)) or tried(session, self.tree, row, calls)
                row["seconds"] = f"{time.perf_counter() - start:.1f}"
                outcomes[row["outcome"]] += 1
                writer.writerow(row)
                file.flush()
        told = sum(outcomes.values()) - outcomes["equivalent"]
        found = outcomes["killed"] + outcomes["timeout"]
        score = f"{dict(outcomes)}: {found} of {told} found out" + (f", {found / told:.1%}" if told else "")
        options.out.with_suffix(".txt").write_text(score + "\n")
        return True


def sample(seed: int) -> list[dict]:
    """Return the mutants to try; each file has its own random numbers, and a share by its size."""
    files = [
        path
        for part in SAMPLED
        for path in sorted((ROOT / part).glob("*.py") if (ROOT / part).is_dir() else [ROOT / part])
    ]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}
    lines = {name: (ROOT / name).read_text().splitlines() for name in trees}
    every = {name: list(mutations(tree)) for name, tree in trees.items()}
    total = sum(map(len, every.values()))
    rows = []
    for name, found in every.items():
        number = min(len(found), max(FEWEST, round(ALTOGETHER * len(found) / total)))
        order = list(range(len(found)))
        random.Random(f"{seed} {name}").shuffle(order)
        for chosen in sorted(order[:number]):
            node, operator, before, after, _ = found[chosen]
            row = {"file": name, "line": line_of(node), "operator": operator, "before": before, "after": after}
            row["code"] = lines[name][row["line"] - 1].strip()
            place = {"function": function_of(trees[name], row["line"]), "outer": outermost(trees[name], row["line"])}
            rows.append({**row, "number": chosen, **place})
    return rows


def key(row: dict) -> tuple:
    """Return what tells a mutant from others."""
    return row["file"], str(row["line"]), row["operator"], row["before"], row["after"]


def known_equivalent() -> set[tuple[str, ...]]:
    """Return file, line of code, before and after of ``tests/mutants.md``, a table with code in its cells."""
    path = ROOT / "tests/mutants.md"
    lines = path.read_text().splitlines() if path.exists() else []
    cells = [
        [cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")
    ]
    return {tuple(cell.replace("\\|", "|") for cell in line[:4]) for line in cells}


class Calls:
    """A plugin of pytest that notes which functions of vitmem each test calls, and how long it takes.

    What is called when a test is set up may be of use to all tests of its file.
    """

    def __init__(self, tree: Path):
        self.root, self.now, self.failed, self.used = str(tree), "", "", time.process_time()
        self.found: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, frame, event: str, argument: object) -> None:
        """Note one call of a function."""
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(self.root):
            self.found[code.co_filename, code.co_firstlineno].add(self.now)

    def pytest_runtest_logstart(self, nodeid: str, location: tuple) -> None:
        """A test is set up."""
        self.now = nodeid.partition("::")[0]
        sys.setprofile(self)

    def pytest_pyfunc_call(self, pyfuncitem) -> None:
        """A test begins."""
        self.now = pyfuncitem.nodeid
        sys.setprofile(self)

    def pytest_runtest_logreport(self, report) -> None:
        """A test, its set-up or its end is done; a busy machine makes it no longer."""
        before, self.used = self.used, time.process_time()
        self.seconds[report.nodeid] += self.used - before
        if report.failed:
            self.failed = f"{report.nodeid}: {report.longreprtext[-2000:]}"

    def result(self) -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
        """Return the callers by file and first line of a function, and the seconds of all tests."""
        sys.setprofile(None)
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for (path, line), callers in self.found.items():
            real = Path(path).resolve()
            if real.is_relative_to(self.root):
                found[real.relative_to(self.root).as_posix(), line] |= callers
        return dict(found), dict(self.seconds)


def who_calls(session, tree: Path, kept: Path | None) -> tuple:
    """Return what ``Calls`` finds; stop unless all tests pass on the code as it is."""
    found, seconds = pickle.loads(kept.read_bytes()) if kept and kept.exists() else ({}, {})
    present = {item.nodeid for item in session.items}
    seconds = {name: value for name, value in seconds.items() if name in present}
    new = [item for item in session.items if item.nodeid not in seconds]

    def work() -> object:
        plugin = Calls(tree)
        session.config.pluginmanager.register(plugin)
        passes(session, new)
        return plugin.failed, plugin.result()

    how, answer = forked(work, 3600)
    if how != "done" or answer[0]:
        sys.__stderr__.write(f"the tests do not pass on the code as it is: {how} {answer and answer[0]}\n")
        os._exit(1)
    for where, callers in answer[1][0].items():
        found[where] = found.get(where, set()) | callers
    seconds |= answer[1][1]
    if kept:
        kept.write_bytes(pickle.dumps((found, seconds)))
    return found, seconds


def passes(session, items: list) -> bool:
    """Run collected tests until one fails."""
    for item, following in itertools.zip_longest(items, items[1:]):
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return False
    return True


def chosen_tests(row: dict, calls: tuple) -> list[str]:
    """Return the tests that call what a mutant changes, the quick ones first, and more of those of its own file."""
    found, seconds = calls
    own = f"/test_{row['file'].rpartition('/')[2]}::"
    callers = found.get((row["file"], row["function"]), set())
    if row["function"] is None:  # a class or a number of the whole module
        callers = set().union(*(names for (path, _), names in found.items() if path == row["file"]))
    whole = row["function"] is None or not callers
    able = [name for name in seconds if callers & {name, name.partition("::")[0]} or (whole and own in name)]
    able.sort(key=lambda name: (name not in callers, seconds[name]))
    quick: list[str] = []
    for part, worth in ([n for n in able if own in n], 3 * WORTH), ([n for n in able if own not in n], WORTH):
        total = itertools.accumulate(seconds[name] for name in part)
        quick += [name for name, so_far in zip(part, total, strict=True) if so_far <= worth] or part[:1]
    files = list(dict.fromkeys(name.partition("::")[0] for name in quick))
    return sorted(quick, key=lambda name: files.index(name.partition("::")[0]))


class Only:
    """A plugin of pytest that runs some tests alone, in their order."""

    def __init__(self, chosen: list[str]):
        self.rank = {name: k for k, name in enumerate(chosen)}

    def pytest_collection_modifyitems(self, items: list) -> None:
        """Leave out what was not chosen."""
        items[:] = sorted((i for i in items if i.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])


def tried(session, tree: Path, row: dict, calls: tuple) -> str:
    """Return what became of a mutant: killed, survived or timeout."""
    names = chosen_tests(row, calls)
    path = tree / row["file"]
    module = ast.parse(path.read_text())
    list(mutations(module))[row["number"]][-1]()
    try:
        code = compile(module, str(path), "exec")
    except SyntaxError:  # what cannot be compiled is no mutant that anybody would overlook
        return "killed"
    live = function_in(path, tree, row["outer"])
    same = (part for part in nested(code) if live and (part.co_name, part.co_firstlineno) == row["outer"][-2:])
    changed = next(same, None)
    by_name = {item.nodeid: item for item in session.items}

    def in_place() -> bool:
        live.__code__ = changed
        return passes(session, [by_name[name] for name in names])

    def anew() -> bool:
        original = importlib.machinery.SourceFileLoader.get_code
        importlib.machinery.SourceFileLoader.get_code = lambda loader, imported: (
            code if Path(loader.path).resolve() == path else original(loader, imported)
        )
        for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tree))]:
            del sys.modules[name]
        return run_tests(["-x", *dict.fromkeys(name.partition("::")[0] for name in names)], Only(names)) == 0

    found, _ = calls  # a function that is called at import alone is imported anew too
    swapped = (
        (row["file"], row["function"]) in found
        and changed is not None
        and changed != live.__code__
        and changed.co_freevars == live.__code__.co_freevars
    )
    how, answer = forked(in_place if swapped else anew, CPU_SECONDS)
    return "timeout" if how == "timeout" else "survived" if (how, answer) == ("done", True) else "killed"


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield all code objects inside one."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from nested(part)


def function_in(path: Path, tree: Path, outer: tuple) -> FunctionType | None:
    """Return the imported function of a file, by the names that lead to it and its first line."""
    if not outer:
        return None
    parts = path.relative_to(tree).with_suffix("").parts
    name = ".".join(parts if parts[0] == "vitmem" else ("vitmem", *parts)).removesuffix(".__init__")
    found = sys.modules.get(name)
    for part in outer[:-1]:
        found = vars(found).get(part) if found is not None else None
    while found is not None and not isinstance(found, FunctionType):
        found = next(
            (getattr(found, a) for a in ("fget", "func", "__func__", "__wrapped__") if hasattr(found, a)), None
        )
    while isinstance(found, FunctionType) and found.__code__.co_firstlineno != outer[-1]:
        found = getattr(found, "__wrapped__", None)
    return found


def used(process: int) -> float:
    """Return how many CPU seconds a process has used."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def forked(work: Callable[[], object], limit: int) -> tuple[str, object]:
    """Do some work in another process; return how it ended (done, failed or timeout), and what it returned."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            answer = pickle.dumps(work())
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    before = 0.0
    while not select.select([reading], [], [], 2 * limit)[0]:
        if used(child) - before < limit / 10:  # one that waits uses next to no CPU; one on a busy machine does
            os.killpg(child, signal.SIGKILL)
            break
        before = used(child)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return "timeout", None
    return ("done", pickle.loads(answer)) if status == 0 else ("failed", None)


if __name__ == "__main__":
    main()
