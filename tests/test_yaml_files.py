import os
import re

import pytest
import yaml

from vitmem.yaml_files import DEEPEST, LARGEST_FILE, LONGEST_LIST, MOST_NODES, dump_yaml, load_yaml, read_yaml

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(20)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("[1, 1_000, 0x1F, 1.5e3, .5, -1.]", [1, 1000, 31, 1500.0, 0.5, -1.0]),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}),
        ("[" * DEEPEST + "]" * DEEPEST, eval("[" * DEEPEST + "]" * DEEPEST)),
    ],
)
def test_plain_values(text, value):
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000, "line 1 is nested too deep"),
        ("\n".join(" " * k + "a:" for k in range(200)), "nested too deep"),
        (ALIASES, f"more than {MOST_NODES:,} values"),
        ("&a [*a]", "*a stands for something that it is a part of"),
        ("a: &a\n  b: *a", "line 2: *a stands for"),
        ("a: 1\nb: 2\na: 3", "the key 'a' comes twice, in lines 1 and 3"),
        ("{a: {b: 1, b: 1}}", "the key 'b' comes twice"),
        ("1: 2\n0x1: 3", "the key 1 comes twice"),
        ("[a, {b: 1, b: 2}]", "the key 'b' comes twice"),
        ("!!python/object/apply:os.system [ls]", "has the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!set {x, y}", "has the tag"),
        ("? [a]\n: 1", "unhashable"),
        (f"[{'a,' * (LONGEST_LIST + 1)}]", f"a list of {LONGEST_LIST + 1:,} values"),
        ("9" * 5000, "digits"),
        ("a: 1\n---\na: 2", "expected a single document"),
    ],
)
def test_what_is_no_plain_value(text, message):
    with pytest.raises(yaml.YAMLError, match=re.escape(message)):
        load_yaml(text)


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.yaml").write_bytes("é: 1".encode("latin-1"))
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    for name, message in {
        "pipe": "is no regular file",
        "latin.yaml": "it is not UTF-8",
        "large.yaml": f"has {LARGEST_FILE + 1:,} bytes",
        ".": "is a folder",
        "none": "there is no file",
        "large.yaml/below": "there is no file",
        "a\0b": "cannot be the name of a file",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_yaml(tmp_path / name)


TEXTS = ["1e3", "-1.5E-2", ".5", "1_000", "null", "~", "true", "yes", "0x1F", "1", "2020-01-01", "=", "", "a: b", "é"]


def test_texts_come_back_as_they_were():
    content = {"texts": TEXTS, "numbers": [1, 1.5, 1e-5, 1e20, True, None], "b": {"z": 1, "a": 2}}
    assert load_yaml(dump_yaml(content)) == content
    assert list(load_yaml(dump_yaml(content))["b"]) == ["z", "a"]


@pytest.mark.slow
def test_what_vitmem_wrote_may_be_longer(tmp_path):
    file = tmp_path / "config.yaml"
    content = {"classes": [f"class{k}" for k in range(MOST_NODES + 1)]}
    file.write_text(dump_yaml(content))
    assert read_yaml(file, own=True) == content
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_yaml(file)


def test_a_text_is_read_anew_whoever_changes_what_was_read_before():
    load_yaml("a: [1, 2]")["a"].append(3)
    assert load_yaml("a: [1, 2]") == {"a": [1, 2]}
    assert load_yaml("a: 0x10") == {"a": 16}
    many = f"a: [{'1,' * (LONGEST_LIST + 1)}]"
    assert len(load_yaml(many, own=True)["a"]) == LONGEST_LIST + 1
    with pytest.raises(yaml.YAMLError, match="begins a list"):
        load_yaml(many)
