"""Help, lists, and which option wins."""

import contextlib

import pytest

from vitmem.editing import edits
from vitmem.editing.contract import TRACKS
from vitmem.runs.named import edit_parser


def test_help_and_lists(cli):
    for arguments in ([], ["--help"], ["edit"], ["list"]):
        code, printed, errors = cli(*arguments)
        assert (code, errors) == (0 if arguments else 2, "")
        assert printed
    assert all(
        name in cli("list")[1] for name in ("digits", "pair_flip", "vit_base_patch16_224", "kfac", "memorized_accuracy")
    )
    shown = dict(part.split(" (with", 1) for part in cli("list")[1].split("edits, track ")[1:])
    for track, name in zip(TRACKS, ("svd", "rewind", "finetune", "npo"), strict=True):
        assert f"\n  {name} " in shown.pop(track)
    assert ["\n  oracle_labels " in bound for bound in shown.values()] == [True]


@pytest.mark.parametrize("verb", [["train"], ["run"], ["eval"], ["edit", "kfac"]])
def test_help_of_a_verb_shows_defaults(capsys, verb):
    from vitmem.cli import main

    with pytest.raises(SystemExit) as stop:
        main([*verb, "--help"])
    assert stop.value.code == 0
    assert "default: " in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(edits()))
def test_help_of_an_edit_describes_every_option(capsys, name):
    parser = edit_parser("vitmem edit", name)
    assert [action.dest for action in parser._actions if not action.help] == []


def test_precedence_and_print_config(capsys, tmp_path):
    from vitmem.cli import main

    (tmp_path / "a.yaml").write_text("noise: {kind: pair_flip, rate: 0.3}\ntrain: {epochs: 7, lr: 1e-4}\n")
    with pytest.raises(SystemExit) as stop:
        main(["train", f"--config={tmp_path / 'a.yaml'}", "--train.epochs=9", "--print_config"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "kind: pair_flip" in printed
    assert "epochs: 9" in printed
    assert "lr: 0.0001" in printed
    assert "batch_size: 64" in printed


@pytest.mark.parametrize(
    ("what", "there", "not_there"),
    [("edits", ["kfac", "svd"], "symmetric"), ("noise", ["symmetric"], "kfac"), ("kfac", ["kfac", "rho 0.75"], "svd")],
)
def test_a_part_of_the_list(cli, what, there, not_there):
    code, printed, _ = cli("list", what)
    assert code == 0
    names = {line.split()[0] for line in printed.splitlines() if line.startswith("  ")}
    assert all(word in printed for word in there)
    assert not_there not in names


@pytest.mark.parametrize(
    "verb",
    [
        "train",
        "edit",
        "edit kfac",
        "eval",
        "analyse",
        "compare",
        "report",
        "export",
        "clean",
        "adopt",
        "run",
        "figures",
        "table",
        "list",
    ],
)
def test_help_has_two_examples_and_choices_as_they_are_typed(cli, verb, capsys):
    from vitmem.cli import main

    with pytest.raises(SystemExit) if verb not in ("edit", "list") else contextlib.nullcontext():
        assert main([*verb.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Literal" not in printed
    assert "Path to a configuration file" not in printed
    examples = printed[printed.index("examples:") :].splitlines()[1:3]
    assert all(line.startswith(f"  vitmem {verb}") for line in examples)
