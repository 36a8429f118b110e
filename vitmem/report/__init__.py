"""The report of an experiment or a run: one HTML file that opens from disk and asks nothing of a network."""
