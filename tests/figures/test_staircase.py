import numpy as np
import pytest
from drawn import write_random_spectra, write_spectra

from vitmem.figures import staircase
from vitmem.figures.kronecker import PairMasses
from vitmem.figures.tables import read_csv


@pytest.mark.slow
def test_staircase_keeps_the_fewest_pairs_that_hold_the_mass(tmp_path):
    layers = write_random_spectra(tmp_path)
    assert [path.name for path in staircase.draw(tmp_path, tmp_path)] == ["staircase.png"]
    rows = read_csv(tmp_path / "staircase.csv")
    shown = ["blocks.0.attn.qkv", "blocks.0.mlp.fc2", "blocks.1.attn.qkv", "blocks.1.mlp.fc2"]
    assert list(dict.fromkeys(row["layer"] for row in rows)) == shown
    for layer in shown:
        mass = np.outer(*layers[layer])
        falling = np.sort(mass.ravel())[::-1]
        for rho in staircase.RHOS:
            count = 1 + np.searchsorted(np.cumsum(falling), rho * mass.sum())
            corners = [row for row in rows if (row["layer"], row["rho"]) == (layer, rho)]
            columns = (mass >= falling[count - 1]).sum(axis=1)
            assert [(row["i"], row["j_max"]) for row in corners] == [(i, j) for i, j in enumerate(columns, 1) if j]
            assert {(row["tau"], row["pairs_kept"], row["pairs"]) for row in corners} == {
                (falling[count - 1], count, mass.size)
            }


@pytest.mark.slow
def test_staircase_thins_a_long_boundary_and_keeps_its_ends(tmp_path):
    write_spectra(tmp_path / "seed0/factors/0123456789abcdef.spectra.npz", size=3000)
    staircase.draw(tmp_path, tmp_path)
    rows = [row for row in read_csv(tmp_path / "staircase.csv") if row["rho"] == 0.99]
    corners = [row["i"] for row in rows if row["layer"] == "blocks.0.attn.qkv"]
    assert 40 <= len(corners) <= staircase.CORNERS
    assert corners[0] == 1
    assert rows[len(corners) - 1]["j_max"] >= 1


def test_pair_masses_keep_equal_masses_together():
    masses = PairMasses(np.array([3.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0]))
    tau = masses.threshold(0.7)  # of 10: the two threes and one of four ones
    assert (tau, masses.kept(tau)) == (1.0, (6, 1.0))
    assert masses.columns(tau).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (
            ["blocks.0.mlp.fc2", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "head"],
            ["blocks.0.attn.qkv", "blocks.0.mlp.fc2"],
        ),
        (["blocks.0.fc1", "blocks.1.fc1", "blocks.2.fc1"], ["blocks.0.fc1", "blocks.2.fc1"]),
        (["stem", "neck", "head"], ["stem", "head"]),
        ([], []),
    ],
)
def test_staircase_chooses_the_ends_of_the_outer_blocks(layers, expected):
    assert staircase.choose(layers) == expected
