"""Solve for the weights with which a pruned layer comes closest to the output of the original layer.

``min ‖Y - XW‖² + λ‖W - W₀‖²``, as He et al., Channel Pruning for Accelerating Very Deep Neural Networks (ICCV 2017),
eq. 3 with fixed channels. The penalty pulls towards the current weights W₀ and not towards zero: weights that the
samples do not determine stay as they are. Independent of frameworks.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
RIDGES = (1e-4, 1e-2, 1.0)  # λ, relative to the mean square of the layer's input
HELD_OUT = 4  # every fourth row is held out, to choose the ridge


def solve_weights(read: Array, targets: Array, weights: Array) -> Array:
    """Return weights that fit better, (features, outputs); the old ones if none are better on held-out rows.

    Args:
        read: the layer's input, (rows, features).
        targets: the wanted outputs, (rows, outputs).
        weights: the current weights, (features, outputs).
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
