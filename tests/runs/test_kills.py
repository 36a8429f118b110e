"""A sample of the kills and pairs of ``tests/faults/kills.py``; ``--all`` there has the others."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[1] / "faults" / "kills.py"


@pytest.mark.slow
def test_a_killed_command_loses_nothing_and_goes_on():
    """In a process of its own: its children are forked, which one that has computed cannot do."""
    names = "train, again;train --force;edit --force;run, other options"
    command = [sys.executable, KILLS, "--kills=15", "--pairs=3", f"--scenarios={names}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "15 kills, 3 pairs: 0 faults" in done.stdout
