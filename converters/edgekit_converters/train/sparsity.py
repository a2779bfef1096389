"""Sparsity: which single weights are zero at each step of a training; independent of frameworks.

A fraction of each layer's weights is set to zero, the smallest first. The fraction rises along a cubic curve, so most
weights go while there are many to take over (Zhu & Gupta, To prune, or not to prune, 2017, eq. 1). For a pattern N:M,
the M - N smallest of each M neighbouring inputs of an output are zero from the first step; the rest of the training is
recovery (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_converters.train import SparseLayer
from edgekit_converters.train.student import Kernel, State
from edgekit_runtime.errors import PlanError

RAMP_FRACTION = 0.5  # of the steps: the share of zeros rises over the first half, the other half recovers
MAX_UPDATES = 20  # at most: so often the weights that go are chosen anew meanwhile
MASKS = "masks/"  # of a training's state
MAX_BLOCK = 64  # M of a pattern N:M


@dataclass(frozen=True)
class Sparsity:
    """The weights to set to zero: a fraction of each layer, or a number of each few neighbours."""

    share: float  # of zeros, above 0 and below 1
    block: int = 0  # M of N:M; 0 leaves it open which weights of a layer go

    def mask(self, kernel: Kernel, share: float | None = None) -> Array:
        """Return which weights are kept, bool of the kernel's shape.

        Args:
            kernel: the weights; the smallest are not kept.
            share: fraction of zeros during the ramp; patterns have no ramp.
        """
        sizes = np.abs(kernel.weights)
        if self.block:
            return _of_blocks(sizes, kernel.inputs, self.block, round(self.block * self.share))
        left = max(1, round(sizes.size * (1 - (self.share if share is None else share))))
        mask = np.zeros(sizes.size, dtype=bool)
        mask[np.argsort(-sizes, axis=None, kind="stable")[:left]] = True
        return mask.reshape(sizes.shape)

    def reason_dense(self, kernel: Kernel) -> str | None:
        """Return why a kernel stays dense; None if it can be made sparse."""
        taken = kernel.weights.shape[kernel.inputs]
        if kernel.dense_reason:
            return kernel.dense_reason
        if self.block and taken % self.block:
            return f"takes {taken} inputs, which is no multiple of {self.block}"
        return None


@dataclass(frozen=True)
class Schedule:
    """The ramp of the fraction of zeros; steps are counted after they are done."""

    every: int  # steps between two choices of the weights that go
    end: int  # step after which they stay the same

    def due(self, step: int) -> bool:
        """Tell whether the zeros are selected again after a step."""
        return step <= self.end and step % self.every == 0

    def share(self, step: int, final: float) -> float:
        """Return the fraction of zeros after a step: 0 at the beginning, ``final`` from ``end`` on."""
        return final * (1 - (1 - min(1.0, step / self.end)) ** 3)


def read(text: str) -> Sparsity:
    """Read ``0.8``, or ``2:4``: of each 4 neighbours 2 are left.

    Raises:
        PlanError: it is neither.
    """
    left, colon, block = text.partition(":")
    try:
        numbers = (int(left), int(block)) if colon else None
        share = 1 - numbers[0] / numbers[1] if numbers else float(text)
    except (ValueError, ZeroDivisionError):
        numbers, share = None, math.nan
    if not 0 < share < 1 or (numbers and not 0 < numbers[0] < numbers[1] <= MAX_BLOCK):
        raise PlanError(
            f"--sparsity {text}: the part of the weights that becomes zero, above 0 and below 1, such as 0.8; or N:M, "
            f"N left of each M neighbours, such as 2:4 (M up to {MAX_BLOCK})"
        )
    return Sparsity(share, numbers[1] if numbers else 0)


def schedule(steps: int) -> Schedule:
    """Return the schedule for a number of steps."""
    every = max(1, round(steps * RAMP_FRACTION / MAX_UPDATES))
    return Schedule(every, every * max(1, int(steps * RAMP_FRACTION) // every))


def choose(sparsity: Sparsity, kernels: Sequence[Kernel], keep: Sequence[str] = ()) -> tuple[list[int], list[str]]:
    """Return the indices of the kernels to make sparse, and notes about the others.

    Raises:
        PlanError: there is none, or a pattern matches no layer.
    """
    for pattern in keep:
        if not any(fnmatchcase(one.layer, pattern) for one in kernels):
            some = ", ".join(one.layer for one in kernels[:8])
            raise PlanError(
                f"--exclude-layer {pattern}: no layer with weights has such a name; there are {some} and so on"
            )
    kept = [any(fnmatchcase(one.layer, pattern) for pattern in keep) for one in kernels]
    whys = ["kept" if held else sparsity.reason_dense(one) for one, held in zip(kernels, kept, strict=True)]
    places = [place for place, why in enumerate(whys) if why is None]
    notes = [
        f"{one.layer} stays dense: {why}" for one, why in zip(kernels, whys, strict=True) if why not in (None, "kept")
    ]
    if not any((~sparsity.mask(kernels[place])).any() for place in places):
        reasons = "".join(f"\n  {line}" for line in notes[:5])
        raise PlanError(f"nothing can be made sparse: no layer is left that has weights enough to lose some{reasons}")
    return places, notes


def count_zeros(kernels: Sequence[Kernel]) -> tuple[SparseLayer, ...]:
    """Count the zeros of kernels."""
    return tuple(SparseLayer(one.layer, one.weights.size, int((one.weights == 0).sum())) for one in kernels)


class MaskableStudent(Protocol):
    """A student whose weights can be set to zero."""

    def kernels(self) -> list[Kernel]:
        """Return its kernels with their present weights."""

    def apply_masks(self, masks: dict[int, Array]) -> None:
        """Set weights to zero, by the indices of their kernels."""


class SparsityTraining:
    """Makes a student sparse during its training.

    Args:
        sparsity: at the end.
        student: to make sparse.
        steps: the schedule.
        keep: name patterns of the layers that stay dense.

    Raises:
        PlanError: no layer can be made sparse, or a pattern matches no layer.
    """

    def __init__(self, sparsity: Sparsity, student: MaskableStudent, steps: Schedule, keep: Sequence[str] = ()) -> None:
        self._sparsity, self._student, self._steps = sparsity, student, steps
        self._places, notes = choose(sparsity, student.kernels(), keep)
        self.notes = tuple(notes)
        self._masks: dict[int, Array] = {}

    def after(self, step: int) -> None:
        """Apply the masks after a step, and select new ones when due; ``step`` counts the steps done."""
        if not self._masks if self._sparsity.block else self._steps.due(step):
            self._choose(step)
        self._student.apply_masks(self._masks)

    def done(self, step: int) -> bool:
        """Tell whether all zeros are in place."""
        return step >= (1 if self._sparsity.block else self._steps.end)

    def state(self) -> State:
        """Return what a later process needs to continue."""
        return {f"{MASKS}{place}": mask for place, mask in self._masks.items()}

    def restore(self, state: State) -> None:
        """Restore a state."""
        self._masks = {int(name.removeprefix(MASKS)): mask for name, mask in state.items() if name.startswith(MASKS)}

    def count_zeros(self) -> tuple[SparseLayer, ...]:
        """Count the present zeros."""
        kernels = self._student.kernels()
        return count_zeros([kernels[place] for place in self._places])

    def _choose(self, step: int) -> None:
        kernels = self._student.kernels()
        share = self._steps.share(step, self._sparsity.share)
        self._masks = {place: self._sparsity.mask(kernels[place], share) for place in self._places}


def _of_blocks(sizes: Array, axis: int, block: int, zeros: int) -> Array:
    """Return a mask without the smallest of each ``block`` neighbours along an axis; of equal ones, the first."""
    last = np.moveaxis(sizes, axis, -1)
    blocks = last.reshape(-1, block)
    mask = np.ones(blocks.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(blocks, axis=1, kind="stable")[:, :zeros], False, axis=1)
    return np.ascontiguousarray(np.moveaxis(mask.reshape(last.shape), -1, axis))
