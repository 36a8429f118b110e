"""The leaderboard: every edit that has results on fixed labels, seeds and recipes, a table for each track.

    python experiments/leaderboard.py                     write experiments/leaderboard.md from experiments/results
    python experiments/leaderboard.py --enter mine.py     run the edits of a plug-in on digits, and add them
    python experiments/leaderboard.py --add FOLDER        add what was run already
    python experiments/leaderboard.py --manifests         write the digests of the wrong labels anew

What is read off: ground truth of the wrong labels that no trial saw, where the frontier over them crosses memorized 0.2
(``contest.interpolated``) and at the best trial whose validation was at most 0.01 below base (``contest.at_point``).
"""

import argparse
import csv
import dataclasses
import io
import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contest import at_point, interpolated

from vitmem.evaluation.statistics import paired_difference, t_interval
from vitmem.evaluation.typeset import MISSING, Number, Table
from vitmem.figures.tables import read_csv, read_results, seed_folders
from vitmem.files import digest, file_digest, write_atomically
from vitmem.options import read_yaml
from vitmem.runs.config import RunConfig, comparable, read_seeds
from vitmem.runs.start import make_data
from vitmem.runs.trained import saved_config

HERE = Path(__file__).parent
PAGE = HERE / "leaderboard.md"
MEMORIZED, BEST = "0.2", "best"
TRUTH = "ground_truth_unseen_accuracy"
RECIPE = ("data", "noise", "model", "train", "vary_noise")  # what a source has to share to be compared by seed
SECTIONS = ("data", "noise", "model", "train")
KEPT = (
    "experiment", "seed", "id", "edit", "option", "value", "point", "status", "plan", "track", "tuned_memorized",
    "kept_validation", "memorized_accuracy", "ground_truth_accuracy", "validation_accuracy",
    "memorized_unseen_accuracy", "ground_truth_unseen_accuracy", "clean_train_accuracy",
    "validation_held_out_accuracy", "passes", "seconds",
)  # fmt: skip
TRACKS = ("label-free", "initial weights", "right labels", "known noisy examples",
          "known noisy examples, and their true labels (a bound)")  # fmt: skip
TEXT = ("experiment", "id", "criterion", "reason", "population")
COMMAND = "python experiments/leaderboard.py"
MARK = f"<!-- what follows is written by {COMMAND} -->"


@dataclass(frozen=True)
class Board:
    """Edits of models of one kind.

    Args:
        name: its entries lie in ``results/NAME_entry_*``.
        title: what it is called.
        contests: experiments whose strengths are matched by bisection, and of which both points are read; where a
            method is in several, the first counts.
        trials: experiments tuned by random trials, which match no strength: of these the best point alone is read.
        durability: experiments with a ``scorecard.csv``.
        entry: the experiment file that an entry runs, with its attacks.
    """

    name: str
    title: str
    contests: tuple[str, ...]
    trials: tuple[str, ...]
    durability: tuple[str, ...]
    entry: str


BOARDS = (
    Board("digits", "Digits, from a random start", ("digits_contest", "digits_averages", "digits_beyond"),
          ("digits_methods",), ("digits_durability",), "digits_durability"),
    Board("photographs", "Photographs, fine-tuned", ("photographs_finetuned", "photographs_beyond"), (),
          ("photographs_durability",), "photographs_durability"),
)  # fmt: skip


@dataclass
class Method:
    """What is known of an edit.

    Args:
        name: its id.
        source: experiment that it is of.
        recipe: digest of the recipe.
        track: what it may read.
        truth: ground truth by point and seed; NaN where the point was not reached.
        cost: passes over the training set and seconds, by seed.
        durable: memory left, the most that was brought back, and the verdict.
    """

    name: str
    source: str
    recipe: str
    track: str
    truth: dict[str, dict[int, float]] = field(default_factory=dict)
    cost: dict[str, list[float]] = field(default_factory=dict)
    durable: tuple[Number, Number, str] = (Number(math.nan), Number(math.nan), MISSING["markdown"])

    def mean(self, point: str) -> float:
        """Return the mean over seeds, -inf where there is none."""
        mean = t_interval(list(self.truth.get(point, {}).values())).mean
        return -math.inf if math.isnan(mean) else mean


def recipe_of(experiment: str, experiments: Path = HERE) -> str:
    """Return the start of the SHA-256 of what an experiment file says of data, labels, model and training.

    What is only kept of a training (``train.keep_every``) is left out.
    """
    content = read_yaml(experiments / f"{experiment}.yaml")
    recipe = {key: content[key] for key in RECIPE if key in content}
    recipe["train"] = {option: value for option, value in recipe["train"].items() if option != "keep_every"}
    return digest(recipe)[:12]


def methods_of(rows: Sequence[dict], source: str, recipe: str, matched: bool) -> list[Method]:
    """Return the tuned methods of a results table.

    Args:
        rows: of ``results.csv``.
        source: the experiment.
        recipe: its digest.
        matched: strengths were bisected, so that memorized 0.2 can be read.
    """
    points = {BEST: at_point(rows, BEST)} | ({MEMORIZED: interpolated(rows, MEMORIZED)} if matched else {})
    found: dict[str, Method] = {}
    for row in rows:
        if not row["point"]:
            continue
        name = row["id"].removesuffix(f"-{row['point']}")
        if name not in found:
            truth = {
                point: {seed: values[TRUTH] for seed, values in by_name.get(name, {}).items()}
                for point, by_name in points.items()
            }
            found[name] = Method(name, source, recipe, row["track"].removesuffix(" (tuned)"), truth)
        if row["point"] == BEST:
            for cost in ("passes", "seconds"):
                found[name].cost.setdefault(cost, []).append(row[cost])
    return list(found.values())


def durability_of(rows: Iterable[Mapping]) -> dict[str, tuple[Number, Number, str]]:
    """Return memory left, the most brought back and the verdict of each method of a scorecard over seeds."""
    found: dict[str, dict[str, Mapping]] = {}
    for row in rows:
        if str(row["criterion"]).startswith("durable") and math.isnan(row["seed"]):
            found.setdefault(str(row["id"]).removesuffix(f"-at{MEMORIZED}"), {})[row["criterion"]] = row

    def number(row: Mapping) -> Number:
        return Number(row["value"], low=row["low"], high=row["high"])

    return {
        name: (number(own["durable_left"]), number(own["durable_back"]), own["durable"]["reason"].partition(":")[0])
        for name, own in found.items()
        if {"durable", "durable_left", "durable_back"} <= set(own)
    }


def read_board(board: Board, results: Path, experiments: Path = HERE) -> list[Method]:
    """Return the methods of a board, each once, with what is known of their durability.

    Args:
        board: which.
        results: folder of the committed results.
        experiments: folder of the experiment files.
    """
    entries = [path.parent.name for path in sorted(results.glob(f"{board.name}_entry_*/results.csv"))]
    recipes = {name: recipe_of(name, experiments) for name in (*board.contests, *board.trials)}
    recipes |= dict.fromkeys(entries, recipe_of(board.entry, experiments))
    found: dict[tuple[str, str], Method] = {}
    for name, recipe in recipes.items():
        rows = read_results(results / name / "results.csv")
        for method in methods_of(rows, name, recipe, matched=name not in board.trials):
            found.setdefault((method.recipe, method.name), method)
    for name in (*board.durability, *entries):
        card = results / name / "scorecard.csv"
        durable = durability_of(read_csv(card, TEXT)) if card.is_file() else {}
        for method in found.values():
            is_its_own = method.source == name if name in entries else method.recipe == recipe_of(name, experiments)
            if is_its_own and method.name in durable:
                method.durable = durable[method.name]
    return list(found.values())


def regrets(methods: Sequence[Method], point: str) -> dict[int, Number]:
    """Return what each method has less than the best of those of its track and recipe, paired over seeds, by place.

    The best is the method of the highest mean among those that reach the point in as many seeds as any does.
    """
    found = {}
    for place, method in enumerate(methods):
        same = [m for m in methods if (m.track, m.recipe) == (method.track, method.recipe)]
        reached = {id(m): sum(not math.isnan(v) for v in m.truth.get(point, {}).values()) for m in same}
        most = max(reached.values())
        best = max((m for m in same if reached[id(m)] == most), key=lambda m: m.mean(point))
        gap = paired_difference(best.truth.get(point, {}), method.truth.get(point, {}))
        itself = best is method
        found[place] = Number(0.0 if itself and most else gap.mean, low=gap.low, high=gap.high, seeds=gap.n)
        if itself:
            found[place] = found[place]._replace(low=math.nan, high=math.nan)
    return found


def interval(values: Iterable[float]) -> Number:
    """Return a mean over seeds with its 95 % t interval, none where all seeds agree, and of how many seeds it is."""
    mean = t_interval(list(values))
    low, high = (mean.low, mean.high) if mean.low < mean.high else (math.nan, math.nan)
    return Number(mean.mean, low=low, high=high, seeds=mean.n)


def middle(values: Iterable[float]) -> str:
    """Return the median over seeds, with the least and the most where they differ: costs are skewed."""
    known = sorted(value for value in values if not math.isnan(value))
    if not known:
        return MISSING["markdown"]
    median, least, most = (f"{value:.3g}" for value in (statistics.median(known), known[0], known[-1]))
    return median if least == most else f"{median} ({least} to {most})"


def track_table(methods: Sequence[Method]) -> Table:
    """Return the table of a track, the best at memorized 0.2 first, then the best at the other point."""
    methods = sorted(methods, key=lambda m: (-m.mean(MEMORIZED), -m.mean(BEST), m.name))
    behind = {point: regrets(methods, point) for point in (MEMORIZED, BEST)}
    body = []
    for place, method in enumerate(methods):
        left, back, verdict = method.durable
        cells: list[str | Number] = [method.name]
        for point in (MEMORIZED, BEST):
            cells += [interval(method.truth.get(point, {}).values()), behind[point][place]]
        cells += [left, back, verdict, *(middle(method.cost.get(cost, [])) for cost in ("passes", "seconds"))]
        body.append([*cells, method.source])
    titles = ["method", "ground truth at memorized 0.2", "regret", "ground truth at validation -0.01", "regret",
              "memory left", "brought back", "verdict", "passes", "seconds", "results"]  # fmt: skip
    seeds = max(len(m.truth.get(BEST, {})) for m in methods)
    return Table(titles, titles, body, seeds=seeds)


def sources_table(board: Board, results: Path, experiments: Path = HERE) -> Table:
    """Return the table of the experiments of a board: seeds, digests of plan and recipe, digests of the labels."""
    labels: dict[str, list[str]] = {}
    if (results / "leaderboard" / "manifests.csv").is_file():
        for row in read_csv(results / "leaderboard" / "manifests.csv", ("experiment", "labels")):
            labels.setdefault(str(row["experiment"]), []).append(str(row["labels"])[:8])
    body = []
    entries = [path.parent.name for path in sorted(results.glob(f"{board.name}_entry_*/results.csv"))]
    for name in (*board.contests, *board.trials, *board.durability, *entries):
        file = board.entry if name in entries else name
        table, digests = results / name / "results.csv", [file_digest(experiments / f"{file}.yaml")[:12]]
        rows = read_results(table) if table.is_file() else read_csv(results / name / "scorecard.csv", TEXT)
        run = str(rows[0].get("plan") or MISSING["markdown"])
        digests += [run if run != digests[0] else "the same"]
        seeds = sorted({int(row["seed"]) for row in rows if not math.isnan(row["seed"])})
        own = list(dict.fromkeys(labels.get(file, [MISSING["markdown"]])))
        body.append([name, _ranges(seeds), *digests, recipe_of(file, experiments), " ".join(own)])
    titles = ["experiment", "seeds", "file", "when it was run", "recipe", "wrong labels, by seed"]
    return Table(titles, titles, body)


def page(results: Path, experiments: Path = HERE) -> str:
    """Return what stands below the mark: tables of sources, and of each track."""
    parts = [MARK, ""]
    for board in BOARDS:
        methods = read_board(board, results, experiments)
        parts += [f"## {board.title}\n", bare(sources_table(board, results, experiments))]
        for track in (*TRACKS, *sorted({m.track for m in methods} - set(TRACKS))):
            if own := [m for m in methods if m.track == track]:
                parts += [f"### {board.title}: {track}\n", bare(track_table(own))]
    return "\n".join(parts)


def bare(table: Table) -> str:
    """Return a table in Markdown without the comment that names its command: the page's mark does."""
    return table.typeset("markdown", COMMAND).partition("\n\n")[2]


def _ranges(seeds: Sequence[int]) -> str:
    whole = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    return f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))


def expected(experiment: str, seed: int, experiments: Path = HERE) -> RunConfig:
    """Return the configuration of the base model of a seed of an experiment file."""
    content = read_yaml(experiments / f"{experiment}.yaml")
    config = RunConfig.from_dict({key: content[key] for key in SECTIONS})
    if content.get("vary_noise"):
        config = dataclasses.replace(config, noise=dataclasses.replace(config.noise, seed=config.noise.seed + seed))
    return dataclasses.replace(config, seed=seed)


def add(folder: Path, results: Path, experiments: Path = HERE) -> Path:
    """Copy what the leaderboard needs of a finished experiment folder to the results; return where it lies.

    Raises:
        ValueError: its name is not ``BOARD_entry_NAME``, or its models were not trained as those of the board.
    """
    board = next((b for b in BOARDS if folder.name.startswith(f"{b.name}_entry_")), None)
    if board is None:
        raise ValueError(
            f"{folder.name} is no name of an entry; it must be {' or '.join(f'{b.name}_entry_NAME' for b in BOARDS)}"
        )
    for seed, run in seed_folders(folder).items():
        if comparable(saved_config(run)) != comparable(expected(board.entry, seed, experiments)):
            raise ValueError(
                f"{run} was not trained as experiments/{board.entry}.yaml says; change nothing but its edits and seeds"
            )
    place = results / folder.name
    place.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, KEPT, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    with open(folder / "results.csv", newline="") as file:
        writer.writerows(csv.DictReader(file))
    write_atomically(place / "results.csv", out.getvalue())
    if (folder / "scorecard.csv").is_file():
        write_atomically(place / "scorecard.csv", (folder / "scorecard.csv").read_text())
    return place


def enter(plugin: Path, out: Path) -> Path:
    """Run the edits of a plug-in with the strengths, seeds and attacks of the digits board; return the folder."""
    from vitmem.cli import main as vitmem
    from vitmem.editing import edits
    from vitmem.registry import load_plugin

    before, board = set(edits()), BOARDS[0]
    load_plugin(str(plugin))
    name = f"{board.name}_entry_{plugin.stem}"
    own = json.dumps([{"name": edit} for edit in edits() if edit not in before])
    code = vitmem(["run", str(HERE / f"{board.entry}.yaml"), "--plugin", str(plugin), "--name", name, "--out", str(out),
                   "--seeds", "0,1,2,3,4,5,6,7", "--edits", own])  # fmt: skip
    if code:
        raise SystemExit(code)
    return out / name


def manifests(experiments: Path = HERE) -> str:
    """Return the digests of the wrong labels of each seed of the experiments whose data are at hand, as CSV."""
    lines = ["experiment,seed,noise_seed,images,labels"]
    for name in ("digits_contest", "digits_averages", "digits_beyond", "digits_methods", "digits_durability"):
        for seed in read_seeds(read_yaml(experiments / f"{name}.yaml")["seeds"]):
            config = expected(name, seed, experiments)
            manifest = make_data(config).manifest
            lines.append(f"{name},{seed},{config.noise.seed},{manifest.data_fingerprint},{manifest.header()['sha256']}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--enter", type=Path, metavar="FILE.py", help="run the edits of a plug-in, and add them")
    parser.add_argument("--add", type=Path, metavar="FOLDER", help="add an experiment folder, BOARD_entry_NAME")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where --enter puts its folder")
    parser.add_argument("--manifests", action="store_true", help="write the digests of the wrong labels anew")
    options = parser.parse_args()
    results = HERE / "results"
    try:
        if options.manifests:
            write_atomically(results / "leaderboard" / "manifests.csv", manifests())
        if options.enter:
            options.add = enter(options.enter, options.out)
        if options.add:
            print(add(options.add, results))
    except ValueError as error:
        sys.exit(f"leaderboard: {error}")
    head = PAGE.read_text().partition(MARK)[0]
    write_atomically(PAGE, head + page(results))


if __name__ == "__main__":
    main()
