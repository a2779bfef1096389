"""Least squares: the weights with which what is left of a layer's input gives most of what the whole input gave.

``min ‖Y - XW‖² + λ‖W - W₀‖²``, as He et al., Channel Pruning for Accelerating Very Deep Neural Networks (ICCV 2017),
eq. 3 with the channels fixed. The ridge pulls towards the weights W₀ that are there, not towards zero, so that what the
samples do not tell stays. No framework.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
RIDGES = (1e-4, 1e-2, 1.0)  # λ, as a part of the mean square of what the layer reads
HELD_OUT = 4  # one row in so many is not solved on, but tells which ridge is best


def solve_weights(read: Array, targets: Array, weights: Array) -> Array:
    """Return better weights, (features, outputs); those given where none are better on rows that were held out.

    Args:
        read: what the layer reads, (rows, features).
        wanted: what it should give, (rows, outputs).
        weights: those it has, (features, outputs).
    """
    read, residual = read.astype(np.float64), targets.astype(np.float64) - read @ weights
    held = np.arange(len(read)) % HELD_OUT == HELD_OUT - 1
    if held.sum() < 2 or not np.any(residual):
        return weights
    gram, correlation = read[~held].T @ read[~held], read[~held].T @ residual[~held]
    changes = [_solve_ridge(gram, correlation, ridge) for ridge in RIDGES]
    errors = [float(np.sum((residual[held] - read[held] @ change) ** 2)) for change in changes]
    best = int(np.argmin(errors))
    if errors[best] >= float(np.sum(residual[held] ** 2)):
        return weights
    gram += read[held].T @ read[held]
    correlation += read[held].T @ residual[held]
    return np.asarray(weights + _solve_ridge(gram, correlation, RIDGES[best]))


def _solve_ridge(gram: Array, correlation: Array, ridge: float) -> Array:
    regularized = gram.copy()
    regularized[np.diag_indices_from(regularized)] += ridge * max(
        float(np.trace(gram)) / len(gram), np.finfo(float).tiny
    )
    return np.asarray(np.linalg.solve(regularized, correlation))
