"""The house: which room may import from which, and how large a module and a function may grow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"vitmem": ROOT / "vitmem", "vitmem.datamodules": ROOT / "datamodules", "vitmem.figures": ROOT / "figures"}

# Top to bottom: a room imports only from floors below its own (and from itself). A new room is one name here.
FLOORS = [
    {"__main__"},
    {"cli", "face"},
    {"report"},
    {"experiment"},
    {"runs"},
    {"analysis"},
    {"attacks"},
    {"editing"},
    {"curvature", "training", "evaluation"},
    {"datamodules", "models", "figures"},
    {"options"},
    {"yaml_files"},
    {"files", "distributed", "progress"},
    {""},  # vitmem/__init__.py
    {"_version", "shapes", "registry"},
]
LONGEST_MODULE, LONGEST_FUNCTION = 400, 60
TABLES_AND_PARSERS = {"vitmem.editing.edits"}  # a registry is a table


def modules():
    """Return the path of every module by its name."""
    found = {}
    for package, folder in ROOMS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()


def imports(name):
    """Return the modules of the house that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {other for other in whole if other in MODULES} or {node.module}
    return {module for module in found if module in MODULES} - {name}


GRAPH = {name: imports(name) for name in MODULES}


def room(name):
    """Return the room that a module is in: the first part below ``vitmem``."""
    return [*name.split("."), ""][1]


def floor(name):
    """Return the number of a module's floor, from the top."""
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_room_is_on_one_floor():
    placed = [room for rooms in FLOORS for room in rooms]
    assert sorted(placed) == sorted({room(name) for name in MODULES})


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    upwards = {other for other in GRAPH[name] if room(other) != room(name) and floor(other) <= floor(name)}
    assert not upwards, f"{name} imports {sorted(upwards)} from its own floor or above"


def test_no_module_imports_itself_through_others():
    def reached(name):
        seen, left = set(), [name]
        while left:
            left += [other for other in GRAPH[left.pop()] if other not in seen and not seen.add(other)]
        return seen

    assert not [name for name in MODULES if name in reached(name)]


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name):
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and f"{name}.{node.name}" not in TABLES_AND_PARSERS:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{name}.{node.name} has {lines} lines"


def test_no_module_is_named_for_no_purpose():
    assert not [name for name in MODULES if name.rpartition(".")[2] in ("utils", "helpers", "misc", "common")]


def test_tests_lie_where_their_modules_do():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders <= {room(name) for name in MODULES} | {"faults"}  # bad input, of every room
