"""Placeholder."""


def draw(rows, out, name):
    """Draw."""
    return []
