"""Figures of a finished experiment, drawn from its tables."""
