"""Experiment files: the grid, tuning, tables and figures."""
