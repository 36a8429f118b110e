"""A light start, and packages that do not collide with what lies in the user's folder."""

import subprocess
import sys

import pytest

HEAVY = {"lightning", "timm", "torchvision", "torch._dynamo", "scipy.stats", "sklearn", "matplotlib", "torchmetrics"}
VERBS = [
    "list",
    "train --help",
    "edit --help",
    "edit kfac --help",
    "eval --help",
    "compare --help",
    "report --help",
    "export --help",
    "clean --help",
    "run --help",
    "figures --help",
    "table --help",
]


@pytest.mark.parametrize("command", VERBS)
def test_help_and_list_import_nothing_heavy(command):
    code = (
        "import sys\nfrom vitmem.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('loaded', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("loaded []"), done.stdout[-300:] + done.stderr


def test_files_of_the_users_folder_are_left_alone(tmp_path):
    for name in ("figures.py", "datamodules.py", "tests.py"):
        (tmp_path / name).write_text("raise RuntimeError('the file of the user was imported')\n")
    (tmp_path / "figures").mkdir()
    command = [sys.executable, "-m", "vitmem", "list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout
