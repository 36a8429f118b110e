"""``vitmem compare`` from end to end: tables, run folders, formats, and power."""

import csv
import io
import shutil

import pytest
from scipy import stats

import vitmem
from vitmem.runs.evaluate import examples

HEADER = "experiment,seed,id,edit,option,value,status,ground_truth_accuracy,validation_accuracy,noise_rate"
VALUES = {"base": (0.0, 0.0, 0.01, 0.0), "kfac-rho0.9": (0.5, 0.62, 0.57, 0.6), "svd-keep0.1": (0.4, 0.47, 0.5, 0.49)}


def table(folder, rate=0.1, skip=()):
    """Write the table of an experiment with four seeds."""
    lines = [HEADER]
    for name, values in VALUES.items():
        edit = name.partition("-")[0] if "-" in name else ""
        for seed, value in enumerate(values):
            if (name, seed) not in skip:
                lines.append(f"{folder.name},{seed},{name},{edit},,,ok,{value * (1 - rate):.6f},0.9,{rate}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder


def parsed(text):
    return list(csv.DictReader(io.StringIO(text)))


def line(text, *starts):
    """Return the cells of the first line of a Markdown table that starts so."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("| ")]
    return next(row for row in rows if row[: len(starts)] == list(starts))


def test_edits_of_an_experiment_against_each_other_and_against_any_baseline(cli, tmp_path):
    folder = table(tmp_path / "a", skip=[("svd-keep0.1", 3)])
    code, printed, errors = cli("compare", folder, "--between", "kfac-rho0.9,svd-keep0.1")
    assert (code, errors) == (0, "")
    first, second = VALUES["kfac-rho0.9"], VALUES["svd-keep0.1"]
    expected = stats.ttest_rel([0.9 * v for v in first[:3]], [0.9 * v for v in second[:3]])
    header, cells = line(printed, "first - second"), line(printed, "kfac-rho0.9 - svd-keep0.1", "ground truth")
    found = dict(zip(header, cells, strict=True))
    assert (found["n"], found["p"], found["flips"]) == ("3", f"{expected.pvalue:.2g}", "0.25")
    assert "- svd-keep0.1 lacks seed 3 (no row)" in printed
    assert "BCa intervals of 3 seeds hold the mean in" in printed
    assert "Holm: p corrected for the 2 comparisons of this table" in printed
    printed = cli("compare", folder / "results.csv", "--all", "--against", "svd-keep0.1")[1]
    assert line(printed, "base - svd-keep0.1", "ground truth")
    assert not any(text in printed for text in ("kfac-rho0.9 - base", "svd-keep0.1 -"))
    assert line(cli("compare", folder, "--all")[1], "kfac-rho0.9 - base", "ground truth")


def test_experiments_beside_each_other_with_interactions_in_every_format(cli, tmp_path):
    folders = [table(tmp_path / "a"), table(tmp_path / "b", 0.4), table(tmp_path / "c" / "a", 0.2)]
    command = ["compare", *folders, "--between", "kfac-rho0.9,svd-keep0.1"]
    printed = cli(*command)[1]
    assert line(printed, "b", "0, 1, 2, 3", "0.4")  # of the experiments
    names = [str(folders[0]), "b", str(folders[2])]  # two are called a
    assert all(line(printed, "kfac-rho0.9 - svd-keep0.1", name, "ground truth") for name in names)
    assert line(printed, "kfac-rho0.9 - svd-keep0.1", "mean of levels (of 3)")
    assert line(printed, "kfac-rho0.9 - svd-keep0.1", f"experiment b less experiment {names[0]}")
    out = tmp_path / "table.tex"
    assert cli(*command, "--by=noise_rate", "--format=latex", f"--out={out}")[1] == f"4 tables: {out}\n"
    assert out.read_text().count(r"\toprule") == 4
    rows = parsed(cli(*command, "--by=noise_rate", "--format=csv")[1])
    found = [r for r in rows if r["table"] == "interactions" and r["metric"] == "ground_truth_accuracy"]
    gap = sum(a - b for a, b in zip(VALUES["kfac-rho0.9"], VALUES["svd-keep0.1"], strict=True)) / 4
    assert [float(r["difference"]) for r in found] == pytest.approx([-0.1 * gap, -0.3 * gap], abs=1e-5)
    again = vitmem.compare(folders[1], ["kfac-rho0.9", "svd-keep0.1"])
    (own,) = [r for r in again if r["table"] == "compared" and r["metric"] == "ground_truth_accuracy"]
    other = next(r for r in rows if r["table"] == "compared" and r["noise_rate"] == "0.4")
    assert float(other["difference"]) == own["difference"]
    assert vitmem.compare(vitmem.results(folders[1]), ["kfac-rho0.9", "svd-keep0.1"])[0] == again[0]


def test_one_seed_is_compared_over_its_examples(cli, run_folder):
    code, printed, errors = cli("compare", run_folder, "--between=kfac-rho0.9,base", "--metrics=validation_accuracy")
    assert (code, errors) == (0, "")
    hits = []
    for name in ("kfac-rho0.9", "base"):
        said = examples(run_folder, name)
        hits.append((said.prediction == said.true)[said.split == 1])
    only = [int((a & ~b).sum()) for a, b in (hits, hits[::-1])]
    p = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    cells = line(printed, "kfac-rho0.9 - base", "0", "validation")
    assert cells[2:5] == ["validation", str(len(hits[0])), f"{hits[0].mean():.3f}"]
    assert cells[-3:] == [f"{only[0]} / {only[1]}", f"{p:.2g}", f"{p:.2g}"]
    assert "kfac-rho0.9 - base: one seed, so no test over seeds" in printed
    (run_folder / "evals" / "base" / "examples.npz").unlink()
    code, printed, _ = cli("compare", run_folder, "--between=kfac-rho0.9,base", "--metrics=validation_accuracy")
    assert code == 0
    assert "examples.npz is missing" in printed


def test_configurations_come_from_run_folders_and_examples_of_every_seed_are_paired(cli, run_folder, tmp_path):
    both = []
    for name, lr in (("one", "0.001"), ("two", "0.5")):
        folder = table(tmp_path / name)
        shutil.copytree(run_folder, folder / "seed0")
        config = folder / "seed0" / "config.yaml"
        before = next(part for part in config.read_text().splitlines() if part.strip().startswith("lr: "))
        config.write_text(config.read_text().replace(before, before.partition("lr: ")[0] + f"lr: {lr}"))
        both.append(folder)
    printed = cli("compare", *both, "--between=kfac-rho0.9,base", "--examples")[1]
    assert line(printed, "experiment", "seeds", "train.lr")
    assert line(printed, "two", "0, 1, 2, 3", "0.5, ?")  # other seeds have no run folder here
    assert line(printed, "kfac-rho0.9 - base", "one", "0", "validation")
    assert "the run folder of one, seed 1, is not beside the table" in printed


def test_what_cannot_be_compared_is_said_where_it_belongs(cli, tmp_path):
    alone = [(name, seed) for name in VALUES for seed in (1, 2, 3)]
    folders = [table(tmp_path / "a", skip=alone), table(tmp_path / "b", skip=[("svd-keep0.1", s) for s in range(4)])]
    (folders[1] / "results.csv").write_text(
        (folders[1] / "results.csv").read_text().replace("kfac-rho0.9", "kfac-rho0.5")
    )
    code, printed, errors = cli("compare", *folders, "--between=kfac-rho0.9,svd-keep0.1")
    assert (code, errors) == (0, "")
    assert "- experiment b has no row of any of these" in printed
    assert "- of one seed, so without interval: kfac-rho0.9, svd-keep0.1" in printed
    assert "- kfac-rho0.9 - svd-keep0.1: one seed, so no test over seeds" in printed
    assert "- the run folder of a, seed 0, is not beside the table, so that examples cannot be paired" in printed
    assert "Compared over examples" not in printed


def test_a_table_of_a_sweep_is_compared_by_its_options(cli, tmp_path):
    folder = table(tmp_path / "a")
    header, *lines = (folder / "results.csv").read_text().splitlines()
    swept = [f"{text},{lr}" for lr in ("0.1", "0.01") for text in lines]
    (folder / "results.csv").write_text("\n".join([f"{header},train.lr", *swept]) + "\n")
    code, _, errors = cli("compare", folder, "--between=kfac-rho0.9,base")
    assert (code, errors.partition(";")[0]) == (
        2,
        "vitmem: kfac-rho0.9 has several rows for seed 0, which differ in train.lr",
    )
    printed = cli("compare", folder, "--between=kfac-rho0.9,base", "--by=train.lr")[1]
    assert line(
        printed, "kfac-rho0.9 - base", "train.lr 0.1 less train.lr 0.01", "ground truth", "4", "+0.000 [+0.000, +0.000]"
    )


def test_power_of_a_table_and_of_a_given_sd(cli, tmp_path):
    code, printed, _ = cli("compare", "--power", "--sd=1", "--difference=1", "--seeds=10")
    assert (code, printed.splitlines()[0]) == (0, "### Power")
    header, cells = line(printed, "sd"), line(printed, "1.0000")
    found = dict(zip(header, cells, strict=True))
    assert found == {"sd": "1.0000", "seeds for 1": "10", "detectable, 10 seeds": "0.996"}
    folder = table(tmp_path / "a")
    rows = parsed(cli("compare", folder, "--all", "--power", "--difference=0.05", "--format=csv")[1])
    assert [row["first"] for row in rows[::2]] == ["kfac-rho0.9", "svd-keep0.1"]
    assert int(rows[0]["seeds_needed"]) < int(rows[0]["seeds_needed_family"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare: give folders or tables"),
        (["{a}"], "either --between A,B or --all"),
        (["{a}", "--all", "--between=base"], "either --between A,B or --all"),
        (["{a}", "--between=kfac,base"], "between: there is no 'kfac' in the table; there are: kfac-rho0.9"),
        (["{a}", "--all", "--by=rate"], "by: no row has a 'rate'; columns in which rows differ: id, edit"),
        (["{a}", "--all", "--metrics=truth"], "metrics: no row that is compared has a number as 'truth'"),
        (["{a}", "--all", "--margin=0"], "margin is 0; expected a difference above 0"),
        (["{a}", "--all", "--format=html"], "format is 'html'; give one of: markdown, latex, csv"),
        (["{a}", "--all", "--out={a}/results.csv"], "a table that is compared; give another file"),
        (["{a}/nothing", "--all"], "there is no table"),
        (["{b}", "--all"], "these are no results: columns seed, id and edit are needed"),
        (["--sd=1"], "sd is 1; it is for --power"),
        (["--sd=1", "--power", "{a}"], "sd is given beside tables"),
        (["--sd=0", "--power"], "sd is 0; expected a number above 0"),
        (["--sd=1", "--power", "--seeds=1,2"], "seeds is '1,2'; expected whole numbers"),
    ],
)
def test_bad_input_is_one_line(cli, tmp_path, arguments, message):
    folder, other = table(tmp_path / "a"), tmp_path / "b"
    other.mkdir()
    (other / "results.csv").write_text("name,x\na,1\n")
    before = (folder / "results.csv").read_text()
    code, printed, errors = cli("compare", *(part.format(a=folder, b=other) for part in arguments))
    assert (code, printed, errors.count("\n")) == (2, "", 1)
    assert message in errors
    assert (folder / "results.csv").read_text() == before
