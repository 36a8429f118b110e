import pytest
from faults.data_faults import DATA_CASES
from faults.option_faults import OPTION_CASES
from faults.outcomes import check
from faults.run_faults import RUN_CASES
from faults.yaml_faults import YAML_CASES

pytestmark = pytest.mark.slow

CATALOGUE = [*OPTION_CASES, *YAML_CASES, *RUN_CASES, *DATA_CASES]


@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_one_line_no_traceback_nothing_lost(case, scene):
    if case.damage:
        case.damage(scene)
    check(case, scene)


def test_the_catalogue_is_long_and_has_every_verb():
    assert len(CATALOGUE) >= 400
    assert {case.command[0] for case in CATALOGUE} >= {
        "train",
        "edit",
        "eval",
        "compare",
        "report",
        "export",
        "clean",
        "run",
        "list",
    }
