"""Compare families of edits at matched memorised accuracy, paired over seeds, from a results table.

    python experiments/compare_frontiers.py runs/digits_frontier/results.csv [--at 0.2] [--against published,scale]
    python experiments/compare_frontiers.py --examples runs/digits_frontier/seed0 kfac-rho0.9 ekfac-rho0.9

Prints Markdown: each family where its frontier crosses the memorised accuracy (mean and sd over seeds), and for each
reference family the difference (mean and 95 % t interval, paired over seeds) with a verdict: better or worse where
Holm's correction over all families rejects equality at 0.05, equal where the interval lies within the margin, else
undecided. Beside each difference stands the true one that the test without that correction would detect with power 0.8.
Last, the regret of the label-free choice, if there is one. `--examples` compares two models of one run, paired over its
wrongly labelled training examples; `base`, `clean` and `retrain` are models too.
"""

import argparse
import math
import statistics
from pathlib import Path

from vitmem.evaluation.frontier import at_memorized, best_ground_truth
from vitmem.evaluation.paired_examples import paired_examples
from vitmem.evaluation.predict import ExampleTable
from vitmem.evaluation.statistics import Difference, detectable_difference, holm, paired_difference, verdict
from vitmem.figures.tables import families, read_results

METRICS = ("ground_truth_accuracy", "clean_train_accuracy", "validation_accuracy")


def by_family(rows: list[dict]) -> dict[str, dict[int, list[dict]]]:
    """Return the edit rows by family and seed, from the gentlest to the strongest."""
    found: dict[str, dict[int, list[dict]]] = {}
    for (family, option), members in families(rows).items():
        gentle_first = sorted(members, key=lambda row: row["value"], reverse=option != "tau")
        for row in gentle_first:
            found.setdefault(family, {}).setdefault(int(row["seed"]), []).append(row)
    return found


def cell(values: list[float]) -> str:
    """Return mean and sd of the known values, with their number if some are unknown."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return f"{known[0]:.3f}" if known else "-"
    note = "" if len(known) == len(values) else f" (n={len(known)})"
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known):.3f}{note}"


def matched_table(groups: dict, against: list[str], at: float, margin: float) -> list[str]:
    """Return the Markdown tables at one memorised accuracy: values, then differences to each reference family."""
    points = {
        family: {seed: at_memorized(rows, at, METRICS) for seed, rows in by_seed.items()}
        for family, by_seed in groups.items()
    }
    seeds = sorted({seed for by_seed in groups.values() for seed in by_seed})
    lines = [f"At memorized {at:g}, {len(seeds)} seeds (n: seeds in which the frontier gets there, if not all):", ""]
    lines += ["| edit | ground truth | clean train | validation |", "|---|---|---|---|"]
    for family, by_seed in points.items():
        cells = [cell([point[metric] for point in by_seed.values()]) for metric in METRICS]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    for reference in against:
        lines += ["", f"Differences to `{reference}`, paired over seeds, 95 % t intervals, Holm over the families:", ""]
        lines += [
            "| edit | Δ ground truth | detectable (power 0.8) | verdict | Δ validation | verdict |",
            "|---|---|---|---|---|---|",
        ]
        columns = [differences(points, reference, metric, margin) for metric in (METRICS[0], METRICS[2])]
        columns[1] = {family: (gap, verdict) for family, (gap, _, verdict) in columns[1].items()}
        for family in points:
            if family != reference:
                lines.append(
                    f"| {family} | " + " | ".join(text for column in columns for text in column[family]) + " |"
                )
    return lines


def differences(points: dict, reference: str, metric: str, margin: float) -> dict[str, tuple[str, ...]]:
    """Return each family's difference to the reference in words, the one that is detectable, and the verdict."""

    def values(family: str) -> dict[int, float]:
        return {seed: point[metric] for seed, point in points[family].items()}

    gaps = {f: paired_difference(values(f), values(reference)) for f in points if f != reference}
    adjusted = dict(zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True))
    found = {}
    for family, gap in gaps.items():
        interval = f" [{gap.low:+.3f}, {gap.high:+.3f}]" if gap.n > 1 else f" (n={gap.n})"
        least = detectable_difference(gap.sd, gap.n)
        detectable = "-" if math.isnan(least) else f"{least:.3f}"
        text = f"{gap.mean:+.3f}{interval}" if gap.n else "-"
        found[family] = (text, detectable, worded(gap, adjusted[family], margin))
    return found


def worded(gap: Difference, p: float, margin: float) -> str:
    """Return the verdict, equal where the 95 % interval lies within the margin, with Holm's p."""
    if gap.n < 2:
        return "undecided" if gap.n else "not reached"
    return f"{verdict(gap.mean, p, gap.within(margin))}, p {p:.2g}"


def regret_table(rows: list[dict], groups: dict, choice: str, pool_families: list[str], drop: float) -> list[str]:
    """Return what the label-free choice gives up against the best candidate that an oracle would pick, by seed.

    The oracle keeps the bound on validation; a choice that does not is marked, and the mean is given without it too.
    """
    lines = [
        f"`{choice}` against the best ground truth in {', '.join(pool_families)} with validation at most {drop:g} "
        "below base:",
        "",
        "| seed | base validation | chosen: memorized / ground truth / validation "
        "| best: edit, ground truth / validation | regret in ground truth |",
        "|---|---|---|---|---|",
    ]
    regrets, within = [], []
    for row in rows:
        if row["id"] != choice:
            continue
        seed = int(row["seed"])
        base = next(r for r in rows if r["id"] == "base" and r["seed"] == row["seed"])
        pool = [r for family, by_seed in groups.items() if family in pool_families for r in by_seed.get(seed, [])]
        best = best_ground_truth(pool, base, drop)
        if best is None:
            lines.append(f"| {seed} | {base['validation_accuracy']:.3f} | none within the drop | - | - |")
            continue
        regrets.append(best["ground_truth_accuracy"] - row["ground_truth_accuracy"])
        below = row["validation_accuracy"] < base["validation_accuracy"] - drop - 1e-12
        within += [] if below else regrets[-1:]
        mark = " (below the bound)" if below else ""
        lines.append(
            f"| {seed} | {base['validation_accuracy']:.3f} | {row['memorized_accuracy']:.3f} / "
            f"{row['ground_truth_accuracy']:.3f} / {row['validation_accuracy']:.3f}{mark} | {best['id']}, "
            f"{best['ground_truth_accuracy']:.3f} / {best['validation_accuracy']:.3f} | {regrets[-1]:+.3f} |"
        )
    if not regrets:
        return []
    mean = f"Mean regret: {cell(regrets)}"
    if len(within) < len(regrets):
        mean += f"; without the {len(regrets) - len(within)} below the bound: {cell(within)}"
    return [*lines, "", mean]


def examples_table(run: Path, first: str, second: str) -> list[str]:
    """Return the Markdown table of two models' answers to the same wrongly labelled training examples of one run."""
    tables = [read_examples(run, name) for name in (first, second)]
    lines = [
        f"`{first}` less `{second}` in {run.name}, paired over examples; Newcombe's 95 % interval, exact McNemar p:",
        "",
    ]
    lines += [
        f"| wrong labels | metric | {first} | {second} | Δ | only {first} / only {second} | p |",
        "|---" * 7 + "|",
    ]
    for population, part in (("all", ""), ("known to no edit", "unseen_")):
        for metric in ("ground_truth", "memorized"):
            try:
                n, *shares, found = paired_examples(*tables, f"{metric}_{part}accuracy")
            except ValueError as error:
                raise SystemExit(f"{first} and {second}: {error}") from error
            told = " | ".join("-" if math.isnan(share) else f"{share:.3f}" for share in shares)
            lines.append(
                f"| {population} (n={n}) | {metric.replace('_', ' ')} | {told} | {found.difference:+.3f} "
                f"[{found.low:+.3f}, {found.high:+.3f}] | {found.only_first} / {found.only_second} | {found.p:.2g} |"
            )
    return lines


def read_examples(run: Path, name: str) -> ExampleTable:
    """Return what a measured model said of every example."""
    folder, name = (run.with_name(f"{run.name}-{name}"), "base") if name in ("clean", "retrain") else (run, name)
    path = folder / "evals" / name / "examples.npz"
    if not path.is_file():
        raise SystemExit(f"{path} is not there; give a run folder and the id of a model that was evaluated")
    return ExampleTable.load(path)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--at", type=float, default=0.2)
    parser.add_argument("--against", default="published", help="reference families, comma-separated")
    parser.add_argument("--margin", type=float, default=0.02, help="difference that does not matter")
    parser.add_argument("--choice", default="ekfac_auto")
    parser.add_argument("--pool", default="full,full_g0.7,full_g1", help="families that the choice is made from")
    parser.add_argument("--examples", nargs=3, metavar=("RUN_FOLDER", "ID", "ID"), help="compare two models of one run")
    options = parser.parse_args()
    if not (options.results or options.examples):
        parser.error("give a results.csv, or --examples RUN_FOLDER ID ID")
    if options.examples:
        run, first, second = options.examples
        print("\n".join(examples_table(Path(run).resolve(), first, second)))
    if not options.results:
        return
    rows = read_results(options.results)
    groups = by_family(rows)
    if missing := [name for name in options.against.split(",") if name not in groups]:
        parser.error(f"--against: no family is called {missing[0]!r}; there are: {', '.join(groups)}")
    base = [row["validation_accuracy"] for row in rows if row["id"] == "base"]
    print("\n".join(matched_table(groups, options.against.split(","), options.at, options.margin)))
    print(f"\nValidation of the unedited models: {cell(base)}\n")
    print("\n".join(regret_table(rows, groups, options.choice, options.pool.split(","), 0.01)))


if __name__ == "__main__":
    main()
