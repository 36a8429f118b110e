"""Tasks in several processes of this machine, among which cores and GPUs are shared out.

A process works on one task at a time and takes the next when it has ended; what it says goes to the task's log. One
that dies (killed, or out of memory) fails its task alone.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from vitmem.experiment.board import Board, View
from vitmem.experiment.perform import How, Told, is_settled, perform, trainings
from vitmem.experiment.stages import FAILED, SKIPPED, Outcome, Task, records, states, write_records
from vitmem.registry import load_plugin, plugin_paths
from vitmem.training.errors import Interrupted

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Ended = Callable[[Task], None]


def check_jobs(jobs: int) -> int:
    """Return how many processes are asked for.

    Raises:
        ValueError: none, or more than 1,024.
    """
    if not 1 <= jobs <= 1024:
        raise ValueError(f"jobs is {jobs}; give a number of processes from 1 to 1024, such as the number of GPUs")
    return jobs


def run_jobs(board: Board, view: View, jobs: int, ended: Ended) -> None:
    """Perform the tasks of a board in several processes.

    Args:
        board: of the tasks.
        view: is told of every stage.
        jobs: how many processes.
        ended: called with each task that has ended.

    Raises:
        Interrupted: this process was told to end; the others saved their state and ended, too.
    """
    workers = [_Worker(number, jobs) for number in range(min(jobs, len(board.left)))]
    try:
        with _ended_by_signals():
            while board.left:
                free = [worker for worker in workers if worker.task is None]
                ready = board.ready()
                together = threads(min(jobs, len(board.running) + len(ready)))  # what else is left waits for these
                for worker, task in zip(free, ready, strict=False):
                    board.begin(task)
                    worker.give(task, board, together)
                busy = [worker for worker in workers if worker.task is not None]
                for connection in wait([worker.connection for worker in busy]):
                    worker = next(worker for worker in busy if worker.connection is connection)
                    worker.hear(board, view, ended)
    finally:
        _end(workers)


def _end(workers: Sequence["_Worker"]) -> None:
    """End the processes, all at once: what is at work saves its state, for which a second Ctrl-C does not wait."""
    try:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(120 if worker.task else 5)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.connection.close()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Raise ``Interrupted`` when this process is told to end."""

    def end(number: int, frame: object) -> None:
        code = 130 if number == signal.SIGINT else 143
        again = "; press Ctrl-C again to stop without saving" if code == 130 else ""
        print(f"\nstopping: what is at work saves its state{again}", file=sys.stderr, flush=True)
        raise Interrupted("stopped; the same command goes on from there", code)

    try:
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, to which signals do not come
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Worker:
    """A process that performs tasks.

    Args:
        number: of this one.
        jobs: how many there are.
    """

    def __init__(self, number: int, jobs: int):
        self.number, self.jobs = number, jobs
        self.task: Task | None = None
        self.said: Outcome = {}  # what became of the stages of the task, as far as it is told
        self.process, self.connection = self._begin()

    def _begin(self) -> tuple[SpawnProcess, Connection]:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        arguments = (theirs, plugin_paths())
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments)
        with _environment(share(self.number, self.jobs)):
            process.start()
        theirs.close()
        return process, ours

    def give(self, task: Task, board: Board, number: int) -> None:
        """Have a task performed, by so many threads."""
        self.task, self.said = task, {}
        with contextlib.suppress(OSError):  # it died while it had nothing to do: ``hear`` finds out
            self.connection.send_bytes(pickle.dumps((task, board.how, board.training.get(task.record, ""), number)))

    def hear(self, board: Board, view: View, ended: Ended) -> None:
        """Read what the process says of its task."""
        task = self.task
        assert task is not None
        try:
            what, *told = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            what, told = "died", []
        if what == "stage":
            view.told(task, *told)
            self.said[told[0]] = told[1], told[2]
            return
        self.task = None
        if what == "died":
            self.process.join()
            why = f"its process died ({_died(self.process.exitcode)})"
            told = [failed(task, board.how, board.training.get(task.record, ""), why, self.said)]
            for name, (state, reason) in told[0].items():
                if name not in self.said:
                    view.told(task, name, state, reason)
            self.process, self.connection = self._begin()
        board.finish(task, told[0])
        ended(task)


def _died(code: int | None) -> str:
    if code is not None and code < 0:
        more = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{more}"
    return f"exit code {code}"


def failed(task: Task, how: How, training: str, why: str, said: Mapping[str, tuple[str, str]]) -> Outcome:
    """Record that a task could not be performed, and return its outcome: the first stage failed that is not settled.

    Args:
        task: which.
        how: in which way it was performed.
        training: digest of the training that it is.
        why: it could not.
        said: what became of stages, as far as it was told.
    """
    recorded, outcome = dict(records(task)), {}
    before, first = states(task, recorded, trainings(task), training), True
    for stage in task.stages:
        if stage.name in said:
            outcome[stage.name] = said[stage.name]
        elif is_settled(before.get(stage.name), recorded.get(stage.name), how):
            outcome[stage.name] = before[stage.name], recorded[stage.name].get("why", "")
        else:
            outcome[stage.name] = (FAILED, why) if first else (SKIPPED, "what it needs failed")
            if first:
                recorded[stage.name] = {"digest": "", "state": FAILED, "why": why, "seconds": 0.0}
            first = False
    write_records(task, recorded)
    return outcome


def share(number: int, jobs: int) -> dict[str, str]:
    """Return the environment of one of several processes: its cores and GPUs.

    Args:
        number: of the process.
        jobs: how many there are.
    """
    found = dict.fromkeys(_THREADS, str(threads(jobs)))
    if gpus := visible_gpus():
        found["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]  # one model works on one device
    return found


def threads(jobs: int) -> int:
    """Return how many threads each of several processes has; the last ones that have work share out all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jobs, 1)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if (told := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in told.split(",") if name.strip() and name.strip() != "-1"]
    return [str(number) for number in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a process that is begun."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, plugin_files: Sequence[Path]) -> None:
    """Perform tasks as they come, until there is nobody who gives any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us
    for file in plugin_files:
        load_plugin(file)
    while True:
        try:
            task, how, training, number = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        torch.set_num_threads(number)
        outcome = logged(task, how, training, lambda *told: connection.send_bytes(pickle.dumps(("stage", *told))))
        connection.send_bytes(pickle.dumps(("ended", outcome)))


def logged(task: Task, how: How, training: str, told: Told) -> Outcome:
    """Perform a task with its log as output, and return what became of its stages.

    Args:
        task: which.
        how: in which way.
        training: digest of the training that it is.
        told: is told of each stage.
    """
    said: Outcome = {}

    def both(name: str, state: str, why: str) -> None:
        said[name] = state, why
        told(name, state, why)

    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            return perform(task, how, training, both)
        except (Interrupted, KeyboardInterrupt) as error:
            print(error, flush=True)
            sys.exit(getattr(error, "code", 130))
        except Exception as error:
            print(traceback.format_exc(), flush=True)
            why = " ".join(str(error).split())[:500] or type(error).__name__
            outcome = failed(task, how, training, why, said)
            for name, (state, reason) in outcome.items():
                if name not in said:
                    told(name, state, reason)
            return outcome
