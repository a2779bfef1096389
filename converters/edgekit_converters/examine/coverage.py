"""Calibration coverage: measure whether activation ranges still grow with more calibration samples.

The extremes of an activation grow as long as rare values appear, so they never stop growing. The amount matters: if a
tenth of a range came last, its steps are a ninth coarser, 20 log10(1 / 0.9) = 0.9 dB more noise. docs/calibration.md
has the effect on accuracy.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit_converters.data import DataSet, iterate_samples
from edgekit_converters.examine.graph import finite_values
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.progress import report_progress
from edgekit_converters.records import Artifact
from edgekit_runtime.format.manifest import InputSpec

MIN_SAMPLES = 8  # fewer say nothing about ranges
MIN_SETTLED_SAMPLES = 64  # with fewer, ranges never count as settled
MAX_GROWTH = 0.10  # of a range with twice the samples, on average over the tensors, when ranges have settled
GROWTH_TO_COUNT = 0.05  # of a range: tensors that grow more are counted
WORST = 3  # tensors in the report


@dataclass(frozen=True)
class CoverageRequest:
    """Measure how the activation ranges of a float artifact grow with more calibration samples."""

    artifact: Artifact
    inputs: tuple[InputSpec, ...]
    data: DataSet
    stop: bool = False  # as soon as ranges have settled


@dataclass(frozen=True)
class RangeGrowth:
    """The part of a tensor's range, 0..1, that the second half of the samples added."""

    tensor: str  # of the artifact
    part: float


@dataclass(frozen=True)
class CoverageStep:
    """The growth of ranges with twice as many samples."""

    samples: int  # after the step
    mean: float  # part of a tensor's range that the step added, on average
    grown: float  # share of the tensors whose range grew by more than a twentieth


@dataclass(frozen=True)
class Coverage:
    """The growth of activation ranges from doubling to doubling."""

    samples: int  # that were run
    tensors: int
    doublings: tuple[CoverageStep, ...]
    worst: tuple[RangeGrowth, ...]  # in the last doubling
    settled: int | None  # after this number of samples; None if ranges still grow


def calibration_coverage(request: CoverageRequest, _folder: Path) -> Coverage:
    """The stage: run a float artifact on the calibration samples, and compare its ranges at each doubling.

    The number of samples is halved down to ``MIN_SAMPLES``, so the last doubling is the last half. Samples are in the
    order of ``data.samples.spread_order``.

    Raises:
        ToolchainError: the artifact cannot be read or run.
    """
    artifact, total = request.artifact, request.data.count
    read_values = pkgutil.resolve_name(format_of(artifact.engine).value_reader)
    spans = _Spans()
    before: dict[str, float] = {}
    doublings: list[CoverageStep] = []
    growths: list[RangeGrowth] = []
    checkpoints = halving_checkpoints(total)
    for count, values in enumerate(read_values(artifact, iterate_samples(request.data, request.inputs)), start=1):
        report_progress(count, total)
        spans.add(values.items())
        if count not in checkpoints:
            continue
        current = spans.spans()
        if before:
            growths = [RangeGrowth(tensor, _growth(before.get(tensor, 0.0), span)) for tensor, span in current.items()]
            doublings.append(_coverage_step(count, growths))
        before = current
        if request.stop and settling_samples(doublings):
            break
    worst = sorted(growths, key=lambda growth: -growth.part)[:WORST]
    return Coverage(count, len(before), tuple(doublings), tuple(worst), settling_samples(doublings))


CALIBRATION_COVERAGE = Stage(calibration_coverage, toolchain=lambda request: request.artifact.toolchain)


def halving_checkpoints(total: int) -> list[int]:
    """Return the numbers of samples at which ranges are compared: all, half, a quarter and so on, ascending."""
    found = [total]
    while found[0] // 2 >= MIN_SAMPLES:
        found.insert(0, found[0] // 2)
    return found


def settling_samples(doublings: Iterable[CoverageStep]) -> int | None:
    """Return after how many samples ranges stop growing by more than ``MAX_GROWTH``; None if they do not."""
    found = None
    for doubling in doublings:
        stable = doubling.mean <= MAX_GROWTH and doubling.samples >= MIN_SETTLED_SAMPLES
        found = (found or doubling.samples) if stable else None
    return found


def _growth(before: float, after: float) -> float:
    return 1 - before / after if after else 0.0


def _coverage_step(samples: int, growths: list[RangeGrowth]) -> CoverageStep:
    parts = [growth.part for growth in growths]
    return CoverageStep(samples, float(np.mean(parts)), float(np.mean([part > GROWTH_TO_COUNT for part in parts])))


class _Spans:
    """The width of each tensor's quantized range, which always includes 0."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[float, float]] = {}

    def add(self, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
        for tensor, array in tensors:
            values = finite_values(array)
            if values.size:
                low, high = self._ends.get(tensor, (0.0, 0.0))
                self._ends[tensor] = min(low, float(values.min())), max(high, float(values.max()))

    def spans(self) -> dict[str, float]:
        return {tensor: high - low for tensor, (low, high) in self._ends.items()}
