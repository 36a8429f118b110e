"""From weights to numbers: the per-example table, and metrics that are pure functions of it."""
