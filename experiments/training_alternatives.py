"""Not memorising in the first place: the training-time alternatives to an edit, in one table.

Each row trains the base model of an experiment file with some training options changed: weight decay, label smoothing,
early stopping on half the validation set, example-tied dropout. Finished models are not trained again.

    python experiments/training_alternatives.py experiments/digits.yaml [--seeds 0,1,2] [--rows base,etd0.2]

Writes OUT/training_alternatives/results.csv and prints its table. Digits on two CPU cores: about a minute a model.
"""

import argparse
import dataclasses
from pathlib import Path

from vitmem.evaluation.tables import result_row, terminal_table, to_csv
from vitmem.files import write_atomically
from vitmem.options import read_yaml
from vitmem.runs.config import RunConfig
from vitmem.runs.train import train

SECTIONS = ("data", "noise", "model", "train", "trainer")
NAME = "training_alternatives"
ROWS: dict[str, dict] = {
    "base": {},
    **{f"decay{decay:g}": {"weight_decay": decay} for decay in (0.0, 0.01, 0.1, 1.0)},
    **{f"smoothing{smoothing:g}": {"label_smoothing": smoothing} for smoothing in (0.0, 0.1, 0.3, 0.5)},
    "early_stop": {"early_stop": True},
    **{f"etd{fixed:g}": {"tied_fixed": fixed} for fixed in (0.2, 0.5)},
    "etd0.2_early_stop": {"tied_fixed": 0.2, "early_stop": True},
}


def main() -> None:
    """Train and evaluate every row for every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path, help="experiment file whose data, model and training are the base")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--rows", default=",".join(ROWS), help="which, comma-separated; default: all")
    arguments = parser.parse_args()
    content = read_yaml(arguments.experiment)
    base = RunConfig.from_dict({key: content[key] for key in SECTIONS if key in content})
    rows = []
    for seed in map(int, arguments.seeds.split(",")):
        for name in arguments.rows.split(","):
            options = dataclasses.replace(base.train, **ROWS[name])
            config = dataclasses.replace(base, train=options, seed=seed)
            trained = train(config, arguments.out / NAME / name / f"seed{seed}")
            identity = {"experiment": NAME, "seed": seed, "id": name, "edit": "", "option": "", "value": ""}
            rows.append(result_row(identity, trained.evaluate()["metrics"], None))
            write_atomically(arguments.out / NAME / "results.csv", to_csv(rows))
    print(terminal_table(rows))


if __name__ == "__main__":
    main()
