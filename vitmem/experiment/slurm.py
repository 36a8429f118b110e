"""Tasks as jobs of Slurm, through ``submitit``: an array for each kind of task that can be begun.

Each job performs one task and writes into its folder, as a process of this machine would: a job that is killed or
pre-empted and comes back to the queue goes on from what is stored. This process waits for them, submits what becomes
ready and writes the tables; where it ends, jobs go on, and the same command with ``--wait`` waits for them.
"""

import contextlib
import dataclasses
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitmem.experiment.board import Board, View
from vitmem.experiment.jobs import failed, logged
from vitmem.experiment.stages import Outcome, Task
from vitmem.files import now
from vitmem.registry import load_plugin, plugin_paths

_FACTOR, _LEAST = 3, 10  # a job may take so many times its estimate, and so many minutes
_GRACE = 60.0  # seconds for a file system to show the result of a job that has left the queue
Ended = Callable[[Task], None]


def read_slurm(text: str) -> dict[str, Any]:
    """Return options of sbatch from ``partition=gpu,gpus_per_node=1,time=120``.

    Raises:
        ValueError: it is no such list.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, value = (piece.strip() for piece in part.partition("="))
        if not given or not value or not name.isidentifier():
            raise ValueError(
                f"slurm has {part!r}; give options of sbatch as name=value, such as partition=gpu,time=120"
            )
        found[name] = int(value) if value.isdigit() else value
    return found


@dataclass(frozen=True)
class Slurm:
    """Performs the tasks of a board as jobs of Slurm.

    Args:
        folder: where their scripts and results go.
        options: of sbatch, by their names in submitit, such as ``partition``, ``time`` (minutes) and ``mem``.
        at_most: how many jobs of an array run at a time.
        minutes: about how many a training and the measuring of a seed take; none are known by default.
        seconds: between two looks at the queue.
    """

    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    at_most: int = 256
    minutes: tuple[float, float] = (0.0, 0.0)
    seconds: float = 5.0

    def check(self) -> None:
        """Raise ValueError if there is no Slurm, no submitit, or an option is unknown."""
        self._executor(True)

    def __call__(self, board: Board, view: View, ended: Ended) -> None:
        """Perform the tasks of a board; ``ended`` is called with each that has ended."""
        jobs: dict[Path, tuple[Task, Any]] = {}
        gone: dict[Path, float] = {}
        while board.left:
            ready = board.ready()
            for is_training in (False, True):
                tasks = [task for task in ready if task.is_training == is_training]
                for task, job in zip(tasks, self._submit(tasks, board, is_training), strict=True):
                    board.begin(task)
                    jobs[task.record] = task, job
            queued = _queued({job.job_id.split("_")[0] for _, job in jobs.values()})
            for record, (task, job) in list(jobs.items()):
                if (outcome := _outcome(task, job, board, queued, gone)) is not None:
                    del jobs[record]
                    for name, (state, why) in outcome.items():
                        view.told(task, name, state, why)
                    board.finish(task, outcome)
                    ended(task)
            if jobs and not any(task.record not in jobs for task in board.ready()):
                time.sleep(self.seconds)

    def _submit(self, tasks: Sequence[Task], board: Board, is_training: bool) -> list:
        if not tasks:
            return []
        how = dataclasses.replace(board.how, began=now())
        loads = [pickle.dumps((task, how, board.training.get(task.record, ""))) for task in tasks]
        jobs = self._executor(is_training).map_array(Remote(plugin_paths()), loads)
        what = "trainings" if is_training else "seeds to measure"
        print(f"Slurm: {len(jobs)} {what}, array {jobs[0].job_id.split('_')[0]}", flush=True)
        return jobs

    def _executor(self, is_training: bool):
        """Return submitit's executor.

        Raises:
            ValueError: there is no Slurm, no submitit, or an option is unknown.
        """
        if shutil.which("sbatch") is None:
            raise ValueError(
                "launcher is slurm, but there is no sbatch here; give the command on a node that submits jobs"
            )
        try:
            from submitit import SlurmExecutor
        except ImportError as error:
            raise ValueError("launcher slurm needs submitit: pip install 'vitmem[slurm]'") from error
        folder = self.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        executor = SlurmExecutor(folder=folder, max_num_timeout=100)
        needed = self.minutes[0 if is_training else 1]
        given = {"job_name": "vitmem", "cpus_per_task": 1, "array_parallelism": self.at_most, "signal_delay_s": 60}
        given["time"] = max(round(_FACTOR * needed), _LEAST) if needed else 240
        try:
            executor.update_parameters(**{**given, **self.options})
        except (NameError, TypeError, ValueError) as error:
            known = ", ".join(sorted(executor._valid_parameters()))
            raise ValueError(f"slurm: {str(error).splitlines()[0]}; options are: {known}") from error
        return executor


class Remote:
    """What a job does: load the plug-ins and perform one task.

    Args:
        plugin_files: of the process that submits.
    """

    def __init__(self, plugin_files: Sequence[Path]):
        self.plugin_files = list(plugin_files)

    def __call__(self, load: bytes) -> Outcome:
        """Perform a task and return what became of its stages."""
        import torch

        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")))
        for file in self.plugin_files:
            load_plugin(file)
        task, how, training = pickle.loads(load)
        with _alone():
            return logged(task, how, training, lambda name, state, why: None)

    def checkpoint(self, load: bytes):
        """Have the same done when the job comes back, after pre-emption or at its limit of time."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, load)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hide from Lightning that the process is a task of Slurm: each works by itself."""
    tasks = os.environ.pop("SLURM_NTASKS", None)
    try:
        yield
    finally:
        if tasks is not None:
            os.environ["SLURM_NTASKS"] = tasks


def _queued(arrays: set[str]) -> set[str] | None:
    """Return the ids of jobs that are pending, running or coming back; None if Slurm does not answer."""
    if not arrays:
        return set()
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(sorted(arrays))}"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if told.returncode and "Invalid job id" not in told.stderr:
        return None
    return set(told.stdout.split())


def _outcome(task: Task, job: Any, board: Board, queued: set[str] | None, gone: dict[Path, float]) -> Outcome | None:
    """Return what became of a job's stages; None while it is at work or will be."""
    training = board.training.get(task.record, "")
    if job.paths.result_pickle.exists():
        try:
            return job.result()
        except Exception as error:  # whatever the job raised, or a file that cannot be read
            why = f"{' '.join(str(error).split())[:300]} ({job.paths.stderr})"
            return failed(task, board.how, training, why, {})
    if queued is None or job.job_id in queued:
        gone.pop(task.record, None)
        return None
    if time.monotonic() - gone.setdefault(task.record, time.monotonic()) < _GRACE:
        return None
    why = f"job {job.job_id} left the queue without a result ({job.paths.stderr})"
    return failed(task, board.how, training, why, {})
