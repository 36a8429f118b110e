"""Kronecker-factored curvature of linear layers: collecting, storing, decomposing, selecting."""
