"""What attacks bring back after edits, beside retrain attacked alike, from the attacks of an experiment.

    python experiments/hidden.py runs/digits_hidden/attacks.csv

Prints Markdown: means and sample sd over seeds. Memory is memorized less retrain's under the same setting, on wrong
labels that were not shown, under the setting with the most of it in the mean over seeds that costs at most 0.1
validation; of relearning also at its last step, whatever that costs. Lost is of ``over_unlearning``: near less far,
less the same of retrain, with its 95 % t interval. With --csv FILE the numbers of the Markdown as a table.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from vitmem.evaluation.statistics import t_interval
from vitmem.figures.tables import mean_of, read_attacks
from vitmem.files import write_atomically

RETRAIN, MEMORY, VALIDATION, DROP = "retrain", "excess", "validation_accuracy", 0.1
RELEARN = ("relearn", "relearn_removed", "relearn_random", "relearn_complement")
SETTINGS = ("k", "alpha", "direction", "place", "eps", "arm", "step")
COLUMNS = ("left", "prototype", "steer base", "steer label", "label, above others", *RELEARN)
COLUMNS += tuple(f"{attack}, at last" for attack in RELEARN)
BySeed = dict[int, float]


class Measured:
    """The numbers of attacks by model, attack, setting (a dict, frozen) and metric."""

    def __init__(self, rows: list[dict]):
        self.found: dict[tuple, BySeed] = {}
        self.settings: dict[tuple[str, str], list[dict]] = {}
        for row in rows:
            setting = {k: row[k] for k in SETTINGS if row.get(k) not in ("", None)}
            setting = {k: v for k, v in setting.items() if not (isinstance(v, float) and math.isnan(v))}
            known = self.settings.setdefault((row["id"], row["attack"]), [])
            known += [] if setting in known else [setting]
            key = (row["id"], row["attack"], frozenset(setting.items()), row["metric"])
            self.found.setdefault(key, {})[int(row["seed"])] = row["value"]

    def of(self, model: str, attack: str, metric: str, setting: Mapping) -> BySeed:
        """Return a number by seed; empty where it was not measured."""
        return self.found.get((model, attack, frozenset(setting.items()), metric), {})

    def strongest(self, model: str, attack: str, **fixed: str) -> dict:
        """Return the setting of the most memory among those that keep validation."""

        def mean(metric: str, setting: Mapping) -> float:
            return mean_of(self.of(model, attack, metric, setting).values()).mean

        dose = "step" if attack in RELEARN else "alpha"  # 0: the model as it is
        own = [s for s in self.settings[model, attack] if fixed.items() <= s.items() and dose in s]
        kept = [s for s in own if mean(VALIDATION, {**s, dose: 0.0}) - mean(VALIDATION, s) <= DROP + 1e-12]
        return max(kept, key=lambda s: mean(MEMORY, s))


def difference(one: BySeed, other: BySeed) -> BySeed:
    """Return a difference paired over seeds."""
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def memory(measured: Measured, model: str) -> dict[str, tuple[BySeed, str]]:
    """Return the memory above retrain that each attack finds in a model, by seed, and under which setting."""
    found = {}
    start = next(s for s in measured.settings[model, "prototype"] if s.get("alpha") == 0)
    found["left"] = measured.of(model, "prototype", MEMORY, start), ""
    chosen = measured.strongest(model, "prototype")
    found["prototype"] = measured.of(model, "prototype", MEMORY, chosen), named(chosen)
    for direction in ("base", "label"):
        chosen = measured.strongest(model, "steer", direction=direction)
        found[f"steer {direction}"] = measured.of(model, "steer", MEMORY, chosen), named(chosen)
    if chosen["alpha"]:
        said, other = (measured.of(model, "steer", m, chosen) for m in ("memorized_accuracy", "other_label"))
        found["label, above others"] = difference(said, other), named(chosen)
    for attack in RELEARN:
        chosen = measured.strongest(model, attack)
        found[attack] = measured.of(model, attack, MEMORY, chosen), named(chosen)
    for attack in RELEARN:
        last = max((s for s in measured.settings[model, attack] if "step" in s), key=lambda s: s["step"])
        found[f"{attack}, at last"] = measured.of(model, attack, MEMORY, last), named(last)
    return found


def lost(measured: Measured, model: str, eps: float) -> dict[str, BySeed]:
    """Return what is lost at each place, and near less far, less the same of retrain."""
    attack = "over_unlearning"
    found = {p: measured.of(model, attack, "lost", {"place": p, "eps": eps}) for p in ("forget", "near", "far")}
    theirs = {p: measured.of(RETRAIN, attack, "lost", {"place": p, "eps": eps}) for p in ("near", "far")}
    gap = difference(difference(found["near"], found["far"]), difference(theirs["near"], theirs["far"]))
    return {**found, "near less far, above retrain": gap}


def named(setting: Mapping) -> str:
    """Return a setting in words."""
    return " ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in setting.items())


def cell(values: BySeed, interval: bool = False) -> str:
    """Return mean and sample sd, or mean and 95 % t interval, over seeds."""
    known = [value for value in values.values() if not math.isnan(value)]
    if not known:
        return "-"
    if interval and len(known) > 1:
        found = t_interval(known)
        return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    mean, sd, _ = mean_of(known)
    return f"{mean:.3f}" + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", type=Path, help="attacks.csv of the experiment")
    parser.add_argument("--csv", type=Path, help="file to write")
    given = parser.parse_args()
    measured = Measured(read_attacks(given.attacks))
    models = list(dict.fromkeys(model for model, _ in measured.settings))
    rows: list[tuple] = []
    print("| memory above retrain | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for model in models:
        found = memory(measured, model)
        print(f"| {model} | " + " | ".join(cell(found[c][0]) if c in found else "-" for c in COLUMNS) + " |")
        rows += [(model, c, s, seed, v) for c, (values, s) in found.items() for seed, v in values.items()]
    places = ("forget", "near", "far", "near less far, above retrain")
    eps = sorted({s["eps"] for s in measured.settings[models[0], "over_unlearning"] if "eps" in s})
    print("\n| lost | eps | " + " | ".join(places) + " |\n" + "|---" * (len(places) + 2) + "|")
    for model in models:
        for e in eps:
            found = lost(measured, model, e)
            print(f"| {model} | {e:g} | " + " | ".join(cell(found[p], interval=p == places[-1]) for p in places) + " |")
            rows += [(model, f"lost {p}", f"eps {e:g}", seed, v) for p in places for seed, v in found[p].items()]
    if given.csv:
        lines = [",".join(("id", "number", "setting", "seed", "value"))]
        lines += [f'{m},"{n}",{s},{seed},{"" if math.isnan(v) else round(v, 6)}' for m, n, s, seed, v in rows]
        write_atomically(given.csv, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
