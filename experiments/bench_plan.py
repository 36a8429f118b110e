"""What a plan of 10,000 stages costs before anything is done: CPU seconds, and memory beside that of the imports.

python experiments/bench_plan.py
"""

import resource
import tempfile
import time
from pathlib import Path

from vitmem.experiment.perform import How
from vitmem.experiment.plan import Experiment, plan_edits
from vitmem.experiment.run import survey
from vitmem.experiment.sweep import cells
from vitmem.runs.config import RunConfig
from vitmem.runs.start import check_model, make_data
from vitmem.training.devices import check  # imports Lightning, as a plan that trains does


def memory() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Print the number of stages, and what they cost."""
    config = RunConfig()
    check(config.trainer, config.train.batch_size)
    check_model(config, make_data(config))
    before, start = memory(), time.process_time()
    edits = plan_edits([{"name": "kfac", "rho": [1 - k / 100 for k in range(1, 31)]}])
    experiment = Experiment("plan", RunConfig(), seeds=(0, 1, 2), edits=edits)
    swept = cells(
        experiment, {"noise.rate": [k / 100 for k in range(1, 13)], "train.lr": [k * 1e-4 for k in range(1, 9)]}
    )
    with tempfile.TemporaryDirectory() as folder:
        board = survey(swept, Path(folder) / "plan", How(Path(folder)))
    stages = sum(len(task.stages) for task in board.tasks)
    print(
        f"{len(swept)} cells, {len(board.tasks)} tasks, {stages} stages: {time.process_time() - start:.1f} CPU seconds"
    )
    print(f"{memory() - before:.0f} MB more than before, {memory():.0f} MB with all libraries")


if __name__ == "__main__":
    main()
