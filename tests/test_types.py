"""Types that others rely on: mypy, strict, on the modules that ``pyproject.toml`` lists."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def checked(*arguments):
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_face_the_registry_and_curvature_are_typed(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'vitmem[test]'")
    if np.__version__.startswith("1."):
        pytest.skip(f"types are checked against the stubs of NumPy 2 and later, and this is {np.__version__}")
    done = checked(f"--cache-dir={tmp_path}")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from vitmem.registry import lookup\n\nlookup(3, 'kfac', {})\n\ndef f(x): return x\n")
    told = checked(f"--cache-dir={tmp_path}", str(wrong)).stdout
    assert 'Argument 1 to "lookup" has incompatible type "int"' in told
    assert "Function is missing a type annotation" in told


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "vitmem" / "py.typed").is_file()
