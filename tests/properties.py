"""How properties are tried: few examples, the same each time, so that a suite is as quick and as stable as without."""

from hypothesis import HealthCheck, settings

few = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
