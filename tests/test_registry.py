import subprocess
import sys
from types import SimpleNamespace

import pytest
from cases import QUICK

from vitmem import registry
from vitmem.registry import lookup, registered


@pytest.fixture
def installed(monkeypatch):
    """Install entry points for the test."""

    def broken():
        raise ImportError("no module named 'gone'")

    package = SimpleNamespace(name="their-package", version="1.0")
    points = {
        "works": SimpleNamespace(name="works", value="theirs:Works", dist=package, load=lambda: int),
        "broken": SimpleNamespace(name="broken", value="theirs:Broken", dist=package, load=broken),
    }

    def install(*names, groups=()):
        def entries(group=None):
            return SimpleNamespace(groups=set(groups)) if group is None else [points[name] for name in names]

        registry._tell_unknown_groups.cache_clear()
        registry._installed.cache_clear()
        monkeypatch.setattr(registry, "entry_points", entries)

    yield install
    registry._installed.cache_clear()


def test_installed_entries_join(installed):
    installed("works")
    assert registered("group", {"ours": str}) == {"ours": str, "works": int}


def test_a_broken_entry_is_named_once_left_out_and_an_error_where_it_is_asked_for(installed, capsys):
    installed("works", "broken")
    for _ in range(2):
        entries = registered("group", {"ours": str})
        assert set(entries) == {"ours", "works"}
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "broken = theirs:Broken of their-package 1.0 cannot be loaded (ImportError: no module named 'gone')" in told
    with pytest.raises(ValueError, match=r"the edit 'broken' cannot be used: .*their-package.*no module named 'gone'"):
        lookup("edit", "broken", entries)


def test_a_group_that_nobody_reads_is_told_with_the_near_one(installed, capsys):
    installed("works", groups=("vitmem.edit", "vitmem.edits", "others.edit"))
    registered("vitmem.edits", {})
    told = capsys.readouterr().err
    assert "their-package registers works in vitmem.edit, which is no group; did you mean vitmem.edits?" in told
    assert told.count("which is no group") == 1


def test_names_that_are_taken_or_unknown(installed):
    installed("works")
    with pytest.raises(ValueError, match="already registered"):
        registered("group", {"works": str})
    with pytest.raises(ValueError, match="unknown edit 'nothing'; registered are: ours, works"):
        lookup("edit", "nothing", registered("group", {"ours": str}))


PLUGIN = '''
from dataclasses import dataclass
import torch
from vitmem.datamodules.sources import DataSet, ImageData
from vitmem.editing import Edit, EditResult


@dataclass(frozen=True)
class Stripes(DataSet):
    """Black and white stripes."""

    count: int = 12

    def load(self):
        label = torch.arange(self.count) % 2
        image = torch.zeros(self.count, 1, 8, 8)
        image[label == 1, :, ::2] = 1
        image[label == 0, :, :, ::2] = 1
        return ImageData(image, label, image[:4], label[:4], ("rows", "columns"))


@dataclass(frozen=True)
class Shrink(Edit):
    """Multiply all weights."""

    main_option = "factor"
    factor: float = 0.5

    def apply(self, model, data, generator):
        state = {key: value * self.factor for key, value in model.state_dict().items()}
        return EditResult(state, {"layers": [], "seconds": {"apply": 0.0}})


@dataclass(frozen=True)
class Poke:
    """Look at the model sternly."""
'''


ENTRY_POINTS = """
[vitmem.datasets]
stripes = tiny_plugin:Stripes
[vitmem.edits]
shrink = tiny_plugin:Shrink
[vitmem.attacks]
poke = tiny_plugin:Poke
"""


@pytest.mark.slow
def test_installed_packages_register_data_sets_edits_and_attacks(tmp_path):
    site = tmp_path / "site"
    (site / "tiny_plugin-1.0.dist-info").mkdir(parents=True)
    (site / "tiny_plugin.py").write_text(PLUGIN)
    (site / "tiny_plugin-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n"
    )
    (site / "tiny_plugin-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    out = tmp_path / "runs"
    program = f"""
import sys
sys.path.insert(0, {str(site)!r})
from vitmem.cli import main
quick = {[*QUICK, "--train.batch_size=4"]!r}
assert main(["list"]) == 0
assert main(["train", "--out={out}", "--data.name=stripes", "--data.count=20", *quick]) == 0
assert main(["edit", "shrink", "{out}/default/seed0", "--factor=0.25"]) == 0
assert main(["eval", "{out}/default/seed0"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line in (
        "stripes Black and white stripes.",
        "Multiply all weights.",
        "Look at the model sternly.",
        "shrink-factor0.25",
    ):
        assert line in " ".join(done.stdout.split())
    assert (out / "default/seed0/noise.csv").read_text().count("\n") == 21
