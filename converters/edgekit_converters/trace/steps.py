"""What a model computes step by step: records of the steps, and fingerprints of their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = 256  # of an array's values
SAME_DB = 60.0  # what a float artifact must keep of its source, too


@dataclass(frozen=True)
class Step:
    """One call of a layer, or one node of an artifact; steps are in the order of execution."""

    name: str
    operator: str
    shape: tuple[int, ...]  # of its first output
    parameters: int
    macs: int  # multiplications by weights
    takes: tuple[int, ...]  # the steps whose outputs it takes, by their place
    moves: bool  # it only rearranges the values of an input, such as a reshape, or a dropout


@dataclass(frozen=True)
class Weights:
    """What a step has of them."""

    parameters: int = 0
    macs: int = 0


class Steps:
    """Collects steps while a model runs."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._rows: list[np.ndarray] = []

    def add(self, step: tuple[str, str], weights: Weights, takes: Sequence[int], result: Any, taken: Any) -> int:
        """Note a step and return its place.

        Args:
            step: its name and its operator.
            weights: its weights.
            takes: the places of the steps it takes from.
            result: its first output.
            taken: its inputs that are no constants.
        """
        row = fingerprint(result)
        moves = any(np.size(one) == np.size(result) and same(row, fingerprint(one)) for one in taken)
        shape = tuple(map(int, np.shape(result)))
        self.steps.append(Step(*step, shape, weights.parameters, weights.macs, tuple(takes), moves))
        self._rows.append(row)
        return len(self.steps) - 1

    def drop(self, place: int) -> None:
        """Take back the steps from a place on."""
        del self.steps[place:], self._rows[place:]

    @property
    def values(self) -> np.ndarray:
        """The fingerprints of all steps, (steps, QUANTILES)."""
        return np.stack(self._rows) if self._rows else np.zeros((0, QUANTILES))


def fingerprint(array: Any) -> np.ndarray:
    """Return QUANTILES values of an array, sorted: the same for arrays that hold the same values in any layout."""
    values = np.sort(np.asarray(array, dtype=np.float64).ravel())
    places = np.round(np.linspace(0, len(values) - 1, QUANTILES)).astype(int)
    return values[places] if len(values) else np.zeros(QUANTILES)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell whether two fingerprints are of the same values, but for the rounding of other kernels."""
    noise = float(np.sum((a - b) ** 2))
    return noise <= 10 ** (-SAME_DB / 10) * float(np.sum(a**2))


def positions(shape: Sequence[int]) -> int:
    """Return how often a kernel is applied to give a tensor (1, ..., channels)."""
    return math.prod(shape[1:-1])
