"""``vitmem figures`` and ``vitmem table``."""

import pytest
from drawn import write_results

from vitmem.figures.words import row_of


@pytest.fixture
def experiment_folder(tmp_path):
    """The table of an experiment, without its run folders."""
    models = {name: (row_of(name)["edit"], "rho", row_of(name)["value"]) for name in ("kfac-rho0.5", "kfac-rho0.9")}
    write_results(tmp_path / "e" / "results.csv", seeds=(0, 1), models={"base": ("", "", ""), **models})
    return tmp_path / "e"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_figures_again_are_the_same_bytes_in_the_formats_asked_for(cli, experiment_folder, tmp_path):
    command = ("figures", experiment_folder, "--only=frontier", "--format=svg,png", "--width=3.3", "--style=talk")
    code, printed, errors = cli(*command)
    assert (code, errors) == (0, "")
    assert printed == f"1 figures (svg, png, csv): {experiment_folder / 'figures'}\n"
    first = contents(experiment_folder / "figures")
    assert set(first) == {"frontier.svg", "frontier.png", "frontier.csv"}
    assert cli(*command)[0] == 0
    assert contents(experiment_folder / "figures") == first
    (tmp_path / "names.yaml").write_text("kfac: Published\n")
    assert cli(*command, f"--labels={tmp_path / 'names.yaml'}")[0] == 0
    changed = contents(experiment_folder / "figures")
    assert changed["frontier.csv"] == first["frontier.csv"]
    assert changed["frontier.svg"] != first["frontier.svg"]


def test_a_sheet_of_images_is_drawn_from_the_run(cli, run_folder):
    assert cli("eval", run_folder.parent)[0] == 0
    code, printed, errors = cli("figures", run_folder.parent, "--only=sheet,training", "--format=png")
    assert (code, errors) == (0, "")
    assert "2 figures" in printed or "1 figures" in printed  # a sheet needs an edit that halves the memory


def test_a_table_is_printed_or_written(cli, experiment_folder, tmp_path):
    code, printed, errors = cli("table", experiment_folder)
    assert (code, errors) == (0, "")
    assert printed.startswith(f"<!-- vitmem table {experiment_folder} -->\n\n| ")
    assert "| K-FAC, rho 0.5 " in printed
    (tmp_path / "names.csv").write_text("id,words\nkfac-rho0.5,A & B\n")
    out = tmp_path / "t.tex"
    arguments = (
        "--format=latex",
        "--columns=validation_accuracy",
        f"--labels={tmp_path / 'names.csv'}",
        f"--out={out}",
    )
    code, printed, _ = cli("table", experiment_folder, *arguments)
    assert (code, printed) == (0, f"table: {out}\n")
    assert out.read_text().startswith("% vitmem table ")
    assert r"A \& B" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["figures"], "path"),
        (["figures", "nowhere"], "there is no folder nowhere"),
        (["figures", "E", "--only=frontyer"], "no figure is called 'frontyer'; give some of training, sweep"),
        (["figures", "E", "--only=bits"], "has none of bits to draw"),
        (["figures", "EMPTY"], "has nothing to draw; give the folder of an experiment"),
        (["figures", "E", "--style=poster"], "style is 'poster'"),
        (["figures", "E", "--width=100"], "width is 100 inches; give 1.5 to 40"),
        (["figures", "E", "--format=gif"], "format is 'gif'"),
        (["figures", "E", "--labels=NAMES"], "names 'kfax', which is none of: kfac, base, kfac-rho0.5, kfac-rho0.9"),
        (["figures", "EMPTY", "--labels=NAMES"], "holds none of results.csv"),
        (["table", "E", "--labels=NAMES"], "names 'kfax'"),
        (["table", "E", "--format=word"], "format is 'word'; give one of markdown, latex, csv"),
        (["table", "E", "--table=bands"], "has no table 'bands'; its tables are results"),
        (["table", "E", "--columns=x"], "columns has 'x'"),
        (["table", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_input(cli, experiment_folder, tmp_path, arguments, words):
    (tmp_path / "names.yaml").write_text("kfax: x\n")
    (tmp_path / "empty").mkdir()
    places = {
        "E": experiment_folder,
        "EMPTY": tmp_path / "empty",
        "--labels=NAMES": f"--labels={tmp_path / 'names.yaml'}",
    }
    code, printed, errors = cli(*(places.get(argument, argument) for argument in arguments))
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert words in errors
    assert not (experiment_folder / "figures").exists()
