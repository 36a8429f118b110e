import math

import numpy as np
import pytest
from drawn import write_random_spectra, write_spectra

from vitmem.figures import spectra, staircase
from vitmem.figures.tables import read_csv

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("blocks.3.attn.qkv", (3, "qkv")),
        ("blocks.11.mlp.fc1", (11, "fc1")),
        ("blocks.0.ls1", (0, "other")),
        ("patch_embed.proj", (None, "other")),
        ("head", (None, "other")),
    ],
)
def test_spectra_place_layers_by_block_and_type(layer, expected):
    assert spectra.place(layer) == expected


def test_spectra_keep_few_ranks_with_both_ends(tmp_path):
    write_spectra(tmp_path / "seed0/factors/0123456789abcdef.spectra.npz", size=3000)
    spectra.draw(tmp_path, tmp_path)
    rows = [row for row in read_csv(tmp_path / "spectra.csv") if (row["layer"], row["factor"]) == ("head", "A")]
    assert len(rows) <= spectra.RANKS
    assert [rows[i]["rank"] for i in (0, 1, -1)] == [1, 2, 3000]
    assert [rows[1][k] for k in ("eigenvalue", "relative")] == [1.25, 0.25]
    assert rows[-1]["relative"] == 0


def test_spectra_draw_every_file_of_the_smallest_seed(tmp_path):
    for name in ("seed1/factors/aaaaaaaabbbb", "seed1/factors/ccccccccdddd", "seed2/factors/eeeeeeeeffff"):
        write_spectra(tmp_path / f"{name}.spectra.npz", size=5)
    (tmp_path / "seed0").mkdir()
    assert [path.stem for path in spectra.draw(tmp_path, tmp_path)] == [
        f"{name}_{digest}" for digest in ("aaaaaaaa", "cccccccc") for name in ("spectra", "mass")
    ]


def test_spectra_of_a_vanished_factor_have_no_ratio():
    assert all(math.isnan(relative) for _, _, relative in spectra.decay(np.zeros(4)))


def test_mass_agrees_with_the_sum_over_all_pairs(tmp_path):
    layers = write_random_spectra(tmp_path)
    spectra.draw(tmp_path, tmp_path)
    rows = read_csv(tmp_path / "mass.csv")
    assert len(rows) == len(layers) * (spectra.THRESHOLDS + 1)
    for row in rows:
        mass = np.outer(*layers[row["layer"]])
        kept = mass >= row["tau"] * (1 - 1e-12)  # tau may be a mass, written with the last bit rounded
        assert (row["pairs_kept"], row["pairs"]) == (kept.sum(), mass.size)
        assert row["share_kept"] == pytest.approx(kept.mean())
        assert row["mass_kept"] == pytest.approx(mass[kept].sum() / mass.sum())
    assert (rows[0]["block"], rows[0]["type"], rows[0]["pairs_kept"]) == (0, "qkv", 1)
    assert [rows[spectra.THRESHOLDS][k] for k in ("tau", "share_kept", "mass_kept")] == [0, 1, 1]


def test_mass_of_a_vanished_factor_has_no_points(tmp_path):
    assert spectra.concentration(np.zeros(3), np.ones(2)) == []
    path = tmp_path / "seed0/factors/0123456789abcdef.spectra.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{"head/G": np.zeros(3), "head/A": np.ones(2)})
    assert [path.name for path in spectra.draw(tmp_path, tmp_path)] == ["spectra.png"]
    assert staircase.draw(tmp_path, tmp_path) == []
