"""Curvature masses lambda_i * mu_j of a layer's eigen-pairs, from its two spectra and without an array of all pairs."""

import math

import numpy as np

SLACK = 1 - 1e-12  # masses this near each other count as equal: tau / lambda is rounded
STEPS = 64  # bisections: any range of doubles shrinks far below the slack


class PairMasses:
    """Masses of the pairs (i, j): i ranks the output gradients, j the inputs.

    Args:
        lambda_O: eigenvalues of G, descending.
        mu_I: eigenvalues of A, descending.
    """

    def __init__(self, lambda_O: np.ndarray, mu_I: np.ndarray):
        self.pairs = len(lambda_O) * len(mu_I)
        self.lambda_ = lambda_O[lambda_O > 0]  # the others give pairs without mass, which no threshold keeps
        self.mu = mu_I[mu_I > 0]
        self._ascending = self.mu[::-1]
        self._mu_mass = np.concatenate([[0.0], np.cumsum(self.mu)])
        self.total = float(self.lambda_.sum() * self._mu_mass[-1])

    @property
    def largest(self) -> float:
        """The largest mass; 0 where no pair has any."""
        return float(self.lambda_[0] * self.mu[0]) if self.total > 0 else 0.0

    def columns(self, tau: float) -> np.ndarray:
        """Return how many j are kept (lambda_i mu_j >= tau) for each i with lambda_i > 0, for tau > 0."""
        return len(self.mu) - np.searchsorted(self._ascending, tau * SLACK / self.lambda_)

    def kept(self, tau: float) -> tuple[int, float]:
        """Return number and share of the mass of the pairs with lambda_i mu_j >= tau, for tau > 0."""
        columns = self.columns(tau)
        return int(columns.sum()), float((self.lambda_ * self._mu_mass[columns]).sum()) / self.total

    def threshold(self, rho: float) -> float:
        """Return the largest mass tau such that the pairs from tau on hold the share rho of the mass.

        Args:
            rho: in (0, 1).
        """
        low, high = math.log(self.lambda_[-1]) + math.log(self.mu[-1]), math.log(self.largest) + 1
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.kept(math.exp(middle))[1] >= rho else (low, middle)
        columns = self.columns(math.exp(low))
        rows = np.flatnonzero(columns)
        return float((self.lambda_[rows] * self.mu[columns[rows] - 1]).min())
