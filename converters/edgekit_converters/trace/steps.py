"""The steps that a model computes: records of them, and fingerprints of their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = 256  # of an array's values
SAME_DB = 60.0  # as for a float artifact against its source


@dataclass(frozen=True)
class Step:
    """One call of a layer, or one node of an artifact; steps are in the order of execution."""

    name: str
    operator: str
    shape: tuple[int, ...]  # of its first output
    parameters: int
    macs: int  # multiplications by weights
    inputs: tuple[int, ...]  # indices of the steps whose outputs it uses
    rearranges: bool  # it only rearranges the values of an input, such as a reshape; or is a dropout


@dataclass(frozen=True)
class Weights:
    """Size and cost of a step's weights."""

    parameters: int = 0
    macs: int = 0


class Steps:
    """Collects steps while a model runs."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._fingerprints: list[np.ndarray] = []

    def add(self, step: tuple[str, str], weights: Weights, inputs: Sequence[int], result: Any, arrays: Any) -> int:
        """Add a step and return its index.

        Args:
            step: its name and its operator.
            weights: size and cost of its weights.
            inputs: indices of the steps whose outputs it uses.
            result: its first output.
            arrays: its inputs that are no constants.
        """
        row = fingerprint(result)
        rearranges = any(np.size(one) == np.size(result) and same_values(row, fingerprint(one)) for one in arrays)
        shape = tuple(map(int, np.shape(result)))
        self.steps.append(Step(*step, shape, weights.parameters, weights.macs, tuple(inputs), rearranges))
        self._fingerprints.append(row)
        return len(self.steps) - 1

    def truncate(self, count: int) -> None:
        """Keep only the first ``count`` steps."""
        del self.steps[count:], self._fingerprints[count:]

    @property
    def values(self) -> np.ndarray:
        """The fingerprints of all steps, (steps, QUANTILES)."""
        return np.stack(self._fingerprints) if self._fingerprints else np.zeros((0, QUANTILES))


def fingerprint(array: Any) -> np.ndarray:
    """Return QUANTILES sorted values of an array; arrays with the same values in any layout have the same ones."""
    values = np.sort(np.asarray(array, dtype=np.float64).ravel())
    places = np.round(np.linspace(0, len(values) - 1, QUANTILES)).astype(int)
    return values[places] if len(values) else np.zeros(QUANTILES)


def same_values(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two fingerprints are of the same values, up to the rounding of other kernels."""
    noise = float(np.sum((a - b) ** 2))
    return noise <= 10 ** (-SAME_DB / 10) * float(np.sum(a**2))


def positions(shape: Sequence[int]) -> int:
    """Return how often a kernel is applied to compute a tensor (1, ..., channels)."""
    return math.prod(shape[1:-1])
