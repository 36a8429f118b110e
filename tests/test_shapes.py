import pytest

from vitmem.shapes import COUNT, NAME, SHA256, SHARE, Each, mismatch

SHAPE = {
    "id": NAME,
    "n": COUNT,
    "share": (SHARE, None),
    "rows": [Each(str, (str, float, None))],
    "more?": {"low": float},
    "told?": ({"trials": COUNT}, None),
}
GOOD = {"id": "a-1", "n": 3, "share": 0.5, "rows": [{"x": 1, "y": "z"}, {}], "unknown": [1]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share": None},
        {"share": 1},
        {"rows": []},
        {"more": {"low": -1e300}},
        {"told": None},
        {"told": {"trials": 0}},
    ],
)
def test_what_fits(changes):
    assert mismatch(GOOD | changes, SHAPE) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "../up"}, "id is '../up'; it must be a name of letters"),
        ({"id": ".hidden"}, "id is '.hidden'"),
        ({"id": 3}, "id is 3"),
        ({"n": -1}, "n is -1; it must be a whole number from 0 on"),
        ({"n": 2.0}, "n is 2.0"),
        ({"n": True}, "n is true"),
        ({"n": 10**400}, "n is a number of more than 19 digits"),
        ({"share": 1.5}, "share is 1.5; it must be a number from 0 up to 1 or null"),
        ({"share": float("nan")}, "share is NaN"),
        ({"rows": {}}, "rows is a mapping; it must be a list"),
        ({"rows": [{}, 3]}, "rows[1] is 3; it must be a mapping"),
        ({"rows": [{"x": []}]}, "rows[0].x is a list; it must be text or a number or null"),
        ({"more": {}}, "more.low is missing; it must be a number"),
        ({"more": None}, "more is null; it must be a mapping"),
        ({"told": {"trials": "x" * 99}}, f"told.trials is '{'x' * 59}...; it must be a whole number"),
    ],
)
def test_what_does_not_fit_says_where_and_what_is_allowed(changes, words):
    assert mismatch(GOOD | changes, SHAPE).startswith(words)


@pytest.mark.parametrize("value", [None, 3, [], "x"])
def test_the_whole_must_be_a_mapping(value):
    assert mismatch(value, SHAPE).startswith("the whole is")


def test_keys_have_shapes_too():
    assert mismatch({"../up": None}, Each(NAME, (SHA256, None))).startswith(
        "the key '../up' is '../up'; it must be a name"
    )
