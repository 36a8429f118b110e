import re
from dataclasses import dataclass

import pytest

from vitmem.options import Parser, inline, options_parser, read_options


@dataclass(frozen=True)
class Few:
    """A few options.

    Args:
        rate: a number.
        steps: how many, or None.
        sizes: several.
        seed: of the draws.
        on: or off.
    """

    rate: float = 0.5
    steps: int | None = 3
    sizes: tuple[int, ...] = (1, 2)
    seed: int = 0
    on: bool = False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": None}, "rate is null; it needs a value, such as its default 0.5"),
        ({"rate": float("inf")}, "rate is inf; numbers must be finite"),
        ({"rate": float("nan")}, "rate is nan; numbers must be finite"),
        ({"rate": -1e19}, "rate is -1e+19; numbers must be finite, and at most 1e+18"),
        ({"rate": "much"}, "rate is much; expected float"),
        ({"rate": 10**400}, "whole numbers must be at most 1,000,000,000,000,000,000"),
        ({"steps": 10**30}, "whole numbers must be at most 1,000,000,000"),
        ({"steps": True}, "steps is True; expected int, null"),
        ({"sizes": [1, None]}, "sizes is"),
        ({"sizes": [10**10]}, "sizes[0] is 10000000000"),
        ({"seed": -1}, "seed is -1; seeds must be in"),
        ({"seed": 2**63}, "seed is 9223372036854775808; seeds must be in"),
        ({"on": None}, "on is null"),
        ({"on": 1}, "on is 1; expected bool"),
        ({3: 1}, "the key 3 is no name of an option"),
        ({"__path__": 1}, "the key '__path__' is no name"),
        ({"config": "other.yaml"}, "config is no option of a file"),
        ({"class_path": "os.system"}, "class_path is no option of a file"),
        ({"ratee": 1}, "did you mean --rate"),
        ({"rate": "1"}, "rate is the text '1'; write 1 without quotes"),
        ({"on": "true"}, "on is the text 'true'; write true without quotes"),
        ({"steps": "null"}, "steps is the text 'null'; write null without quotes"),
    ],
)
def test_wrong_values(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_options("few", Few, options)


def test_null_where_the_type_allows_it():
    assert read_options("few", Few, {"steps": None, "seed": 2**62}) == Few(steps=None, seed=2**62)


def nested() -> Parser:
    parser = Parser(prog="nested")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--text", type=str, default="x")
    parser.add_class_arguments(Few, "few")
    return parser


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"few": 3}, "few is 3; expected a mapping of its options"),
        ({"few": "other.yaml"}, "few is 'other.yaml'; expected a mapping"),
        ({"few": {"rate": 1}, "few.rate": 2}, "few.rate is given twice"),
        ({"few": {"class_path": "this.Zen"}}, "few.class_path is no option of a file"),
        ({"few": {"rate": None}}, "few.rate is null"),
        ({"force": 3}, "force is 3; give true or false"),
        ({"text": None}, "text is null"),
    ],
)
def test_sections(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        nested().read_object(options)


def test_the_command_line_takes_what_files_take(tmp_path):
    parser = nested()
    parser.add_argument("--config", action="config")
    file = tmp_path / "a.yaml"
    file.write_text("few: {rate: 1e-4, steps: null}\ntext: '1e-4'\n")
    values = parser.read(["--config", str(file), "--few.sizes=[4]"])
    assert (values.few.rate, values.few.steps, list(values.few.sizes), values.text) == (1e-4, None, [4], "1e-4")
    assert parser.read([f"--config={inline({'few': {'rate': 2.0}})}"]).few.rate == 2.0
    for arguments, message in {
        ("--few=a.yaml",): "--few is 'a.yaml'; give its options one by one",
        ("--few.rate=.inf",): "few.rate is inf",
        ("--few.rate=",): "few.rate is ''; expected float",
        ("--few.steps=" + "9" * 40,): "few.steps is 9999",
        ("--few.rate=" + "9" * 400,): "too large",
        ("--config",): "expected one argument",
        ("--config={few: {rate: 1, rate: 2}}",): "comes twice",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            parser.read(arguments)
    file.write_text("few: {rate: .nan}\n")
    with pytest.raises(ValueError, match=r"a.yaml: few.rate is nan"):
        parser.read([f"--config={file}"])


def test_a_pattern_in_braces_stays_a_text():
    assert options_parser("few", Few).read(["--rate=1"]).rate == 1.0
    assert nested().read(["--text={a,b}"]).text == "{a,b}"
