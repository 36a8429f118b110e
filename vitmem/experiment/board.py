"""Which tasks of a plan are done, at work, ready or waiting, and what became of their stages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitmem.experiment.perform import How, trainings
from vitmem.experiment.stages import FAILED, PENDING, SKIPPED, Outcome, Task, records, states
from vitmem.progress import Progress
from vitmem.runs.trained import BASE


class Board:
    """The tasks of a plan.

    Args:
        tasks: each after those that it needs.
        training: digest of each task that trains a model.
        how: in which way they are performed.
    """

    def __init__(self, tasks: Sequence[Task], training: Mapping[Path, str], how: How):
        self.tasks, self.training, self.how = list(tasks), training, how
        self.outcomes: dict[Path, Outcome] = {}
        self.running: set[Path] = set()
        self._first: dict[str, Path] = {}  # task that makes the training of a digest
        self._trains: dict[tuple[Path, int], list[Path]] = {}
        self._bases: dict[Path, list[Path]] = {}
        self._left: dict[Path, Task] = {}
        for task in self.tasks:
            if task.is_training:
                self._first.setdefault(training[task.record], task.record)
                self._trains.setdefault((task.folder, task.seed), []).append(task.record)
                if task.part == BASE:
                    self._bases.setdefault(task.folder, []).append(task.record)
            if (found := self._survey(task)) is None:
                self._left[task.record] = task
            else:
                self.outcomes[task.record] = found

    def _survey(self, task: Task) -> Outcome | None:
        """Return the outcome of a task that need not be performed; None if it must."""
        if self.how.force or any(record in self._left for record in self._needs(task)):
            return None
        recorded = records(task)
        found = states(task, recorded, trainings(task), self.training.get(task.record, ""))
        again = {PENDING, FAILED} if self.how.retry_failed else {PENDING}
        if again & set(found.values()):
            return None
        return {name: (state, recorded.get(name, {}).get("why", "")) for name, state in found.items()}

    def _needs(self, task: Task) -> list[Path]:
        if not task.is_training:
            across = self._bases[task.folder] if task.experiment.looks_across else []
            return [*self._trains[task.folder, task.seed], *across]
        first = self._first[self.training[task.record]]
        return [] if first == task.record else [first]

    @property
    def left(self) -> list[Task]:
        """Tasks that are not finished."""
        return list(self._left.values())

    def ready(self) -> list[Task]:
        """Return the tasks that can be begun now: first those that measure, which others wait for the least."""
        free = [
            task
            for record, task in self._left.items()
            if record not in self.running and not any(need in self._left for need in self._needs(task))
        ]
        return sorted(free, key=lambda task: task.is_training)

    def begin(self, task: Task) -> None:
        """Count a task as at work."""
        self.running.add(task.record)

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Count a task as finished."""
        self.running.discard(task.record)
        self._left.pop(task.record, None)
        self.outcomes[task.record] = outcome

    def counts(self) -> Counter:
        """Return how many stages have which state."""
        found = Counter(state for outcome in self.outcomes.values() for state, _ in outcome.values())
        found[PENDING] += sum(len(task.stages) for task in self._left.values())
        return found

    def failures(self) -> list[tuple[Task, str, str]]:
        """Return the stages that failed: task, name, and why."""
        return [
            (task, name, why)
            for task in self.tasks
            for name, (state, why) in self.outcomes.get(task.record, {}).items()
            if state == FAILED
        ]

    def told(self) -> list[str]:
        """Return in words which stages failed and how many others were left out, nothing if all are done."""
        found = [f"failed: {task.name}: {name}: {why} (log: {task.log})" for task, name, why in self.failures()]
        if skipped := self.counts()[SKIPPED]:
            found.append(f"{skipped} stages were left out, since what they need failed")
        return found


class View:
    """How far all tasks are, in one place: a bar on a terminal, lines in a log.

    Args:
        board: of the tasks.
        title: of the bar.
    """

    def __init__(self, board: Board, title: str):
        total = sum(len(task.stages) for task in board.tasks)
        there = sum(len(outcome) for outcome in board.outcomes.values())
        self.progress = Progress(title, total, done=there)

    def __enter__(self) -> "View":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.__exit__(*error)

    def told(self, task: Task, name: str, state: str, why: str) -> None:
        """Count a stage, and say it if it failed."""
        self.progress.step(f"{task.name}: {name}")
        if state == FAILED:
            print(f"{task.name}: {name} failed: {why}", flush=True)
