"""A table of predictions that the tests of evaluation share."""

import numpy as np

from vitmem.evaluation.predict import ExampleTable

COLUMNS = tuple(name for name in ExampleTable.__dataclass_fields__ if name != "chosen")  # that every table has


def by_hand():
    """Six examples: three noisy, two clean, one validation."""
    return ExampleTable(
        split=np.array([0, 0, 0, 0, 0, 1]),
        index=np.arange(6),
        given=np.array([1, 1, 2, 0, 1, 2]),
        true=np.array([0, 0, 0, 0, 1, 2]),
        is_noisy=np.array([True, True, True, False, False, False]),
        prediction=np.array([1, 0, 1, 0, 2, 2]),
        log_prob_given=np.log([0.5, 0.25, 0.5, 0.5, 0.1, 0.9]),
        log_prob_true=np.log([0.25, 0.5, 0.125, 0.5, 0.1, 0.9]),
        is_known=np.array([True, False, True, False, False, False]),
    )
