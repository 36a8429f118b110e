import pytest

from vitmem import progress
from vitmem.progress import Progress, duration, size, tracked


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_now_and_then_and_at_the_end(clock, capsys):
    with Progress("edits", 40) as shown:
        for number in range(40):
            clock[0] += 10.0
            shown.step(f"e{number}")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "edits: 4 of 40 (e3), about 6 min left"
    assert lines[-1] == "edits: 40 of 40 (e39), 7 min"
    assert len(lines) == 10


def test_what_was_there_before_tells_nothing_of_the_rest(clock, capsys):
    with Progress("models", 10) as shown:
        for _ in range(8):
            shown.step()
        assert capsys.readouterr().out == ""
        clock[0] += 60.0
        shown.step()
    assert capsys.readouterr().out == "models: 9 of 10, about 60 s left\n"


def test_nothing_is_said_where_everything_was_there(clock, capsys):
    assert list(tracked([1, 2, 3], "pass")) == [1, 2, 3]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3 s"), (89, "89 s"), (91, "2 min"), (6000, "1.7 h")])
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("number", "words"), [(0, "0 B"), (999, "999 B"), (5.6e9, "5.6 GB"), (3e15, "3e+03 TB")])
def test_sizes(number, words):
    assert size(number) == words
