from drawn import write_csv, write_results

from vitmem.figures.palette import COLORS, Palette
from vitmem.figures.style import Settings, written_as


def test_every_edit_has_one_look_in_every_figure(tmp_path):
    models = {"base": ("", "", "")}
    models |= {f"{name}-rho{rho}": (name, "rho", rho) for name in ("svd", "kfac") for rho in (0.5, 0.9)}
    write_results(tmp_path / "results.csv", models=models)
    write_csv(tmp_path / "attacks.csv", ["id"], [["kfac-rho0.9"], ["retrain"], ["base"], ["svd-rho0.5"]])
    palette = Palette.beside(tmp_path / "attacks.csv")
    assert [edit.key for edit in palette.edits] == ["svd", "kfac"]  # the order of results.csv, not of the attacks
    assert palette.look("svd")["color"] == COLORS[0]
    assert palette.look("kfac-rho0.9") == palette.look("kfac-rho0.5") == palette.look("kfac")
    assert palette.ordered(["kfac-rho0.9", "new", "svd-rho0.5", "retrain", "base"]) == [
        "svd-rho0.5", "kfac-rho0.9", "base", "retrain", "new"
    ]  # fmt: skip
    assert palette.words("kfac-rho0.9") == "K-FAC, rho 0.9"
    (tmp_path / "results.csv").unlink()
    assert Palette.beside(tmp_path / "attacks.csv").words("svd-rho0.5") == "SVD, rho 0.5"


def test_many_edits_differ():
    palette = Palette({"id": f"edit{n}", "edit": f"edit{n}"} for n in range(60))
    looks = [palette.look(f"edit{n}") for n in range(60)]
    assert len({look["color"] for look in looks[:13]}) == 13
    assert len({tuple(look.values()) for look in looks}) == 60


def test_options_of_one_edit_are_told_apart_and_labels_are_shown():
    rows = [{"id": f"svd-{o}2", "edit": "svd", "option": o, "value": 2.0} for o in ("keep", "rank")]
    with written_as(Settings(labels={"svd": "Singular $"})):
        palette = Palette(rows)
    assert [edit.key for edit in palette.edits] == ["svd_keep", "svd_rank"]
    assert palette.title("svd_rank") == r"Singular \$ (rank)"
    assert palette.words("svd-rank2") == r"Singular \$, rank 2"
