"""Cover: whether calibration has seen what there is to see, told by whether ranges still grow with more samples.

The extremes of an activation grow for as long as rare values come, so they never stand quite still. What matters is how
much: a range of which a tenth came last has steps that are a ninth coarser, 20 log10(1 / 0.9) = 0.9 dB more noise.
docs/calibration.md has what that is in accuracy.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit_converters.data import DataSet, one_by_one
from edgekit_converters.examine.graph import finite_values
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.progress import report_progress
from edgekit_converters.records import Artifact
from edgekit_runtime.format.manifest import InputSpec

FIRST = 8  # samples: what fewer have shown says nothing of ranges
ENOUGH = 64  # samples: fewer are never taken for enough
STILL = 0.10  # of a range, on average over the tensors: ranges have settled when no more came with twice the samples
NOTABLE = 0.05  # of a range: tensors of which more came are counted
WORST = 3  # tensors named


@dataclass(frozen=True)
class CoverageRequest:
    """Tell whether the activation ranges of a float artifact still grow with more calibration samples."""

    artifact: Artifact
    inputs: tuple[InputSpec, ...]
    data: DataSet
    stop: bool = False  # as soon as they have settled


@dataclass(frozen=True)
class RangeGrowth:
    """How much of a tensor's range came with the second half of the samples: 0..1."""

    tensor: str  # of the artifact
    part: float


@dataclass(frozen=True)
class CoverageStep:
    """What twice as many samples did to the ranges."""

    samples: int  # at its end
    mean: float  # part of a tensor's range that came with it, on average
    grown: float  # share of the tensors of whose range more than a twentieth came with it


@dataclass(frozen=True)
class Coverage:
    """How activation ranges grew from doubling to doubling."""

    samples: int  # seen
    tensors: int
    doublings: tuple[CoverageStep, ...]
    worst: tuple[RangeGrowth, ...]  # in the last doubling
    settled: int | None  # after so many samples


def calibration_coverage(request: CoverageRequest, _folder: Path) -> Coverage:
    """The stage: run a float artifact on the calibration samples, and look at all ranges each time they have doubled.

    The number of samples is halved for as long as ``FIRST`` are left; so the last doubling is the last half. Samples
    come in the order of ``data.samples.nested``.

    Raises:
        ToolchainError: the artifact cannot be read or run.
    """
    artifact, total = request.artifact, request.data.count
    watch = pkgutil.resolve_name(format_of(artifact.engine).value_reader)
    spans = _Spans()
    before: dict[str, float] = {}
    doublings: list[CoverageStep] = []
    growths: list[RangeGrowth] = []
    looks = halves(total)
    for count, held in enumerate(watch(artifact, one_by_one(request.data, request.inputs)), start=1):
        report_progress(count, total)
        spans.see(held.items())
        if count not in looks:
            continue
        now = spans.spans()
        if before:
            growths = [RangeGrowth(tensor, _grown(before.get(tensor, 0.0), span)) for tensor, span in now.items()]
            doublings.append(_doubling(count, growths))
        before = now
        if request.stop and settled(doublings):
            break
    worst = sorted(growths, key=lambda growth: -growth.part)[:WORST]
    return Coverage(count, len(before), tuple(doublings), tuple(worst), settled(doublings))


CALIBRATION_COVERAGE = Stage(calibration_coverage, toolchain=lambda request: request.artifact.toolchain)


def halves(total: int) -> list[int]:
    """Half of all samples, half of that, and so on, ascending, all at last."""
    found = [total]
    while found[0] // 2 >= FIRST:
        found.insert(0, found[0] // 2)
    return found


def settled(doublings: Iterable[CoverageStep]) -> int | None:
    """After how many samples ranges had settled: the first doubling to ``ENOUGH`` from which on all are ``STILL``."""
    found = None
    for doubling in doublings:
        still = doubling.mean <= STILL and doubling.samples >= ENOUGH
        found = (found or doubling.samples) if still else None
    return found


def _grown(before: float, after: float) -> float:
    return 1 - before / after if after else 0.0


def _doubling(samples: int, growths: list[RangeGrowth]) -> CoverageStep:
    parts = [growth.part for growth in growths]
    return CoverageStep(samples, float(np.mean(parts)), float(np.mean([part > NOTABLE for part in parts])))


class _Spans:
    """How much a quantized range of each tensor has to cover; it always holds 0."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, float]] = {}

    def see(self, held: Iterable[tuple[str, np.ndarray]]) -> None:
        for tensor, array in held:
            values = finite_values(array)
            if values.size:
                low, high = self._ends.get(tensor, (0.0, 0.0))
                self._ends[tensor] = min(low, float(values.min())), max(high, float(values.max()))

    def spans(self) -> dict[str, float]:
        return {tensor: high - low for tensor, (low, high) in self._ends.items()}
