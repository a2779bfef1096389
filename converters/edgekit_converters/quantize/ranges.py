"""Calibration ranges: choose the range of a tensor from a histogram of its calibration values.

The smallest and the largest value are the safest range, and often not the best: one rare outlier makes every step
coarser. The rules here clip rare values. All of them work on a :class:`Histogram`, whose size depends neither on the
number of samples nor on the values' magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# A bin is the upper 15 bits of a float32: sign, exponent, and 6 bits of the fraction. So bins need no range
# in advance, and separate values that differ by 1/64 at any magnitude.
SHIFT = 17
BINS = 1 << (32 - SHIFT)
NEGATIVE = BINS // 2  # the first bin with the sign set
FINITE = (0x7F800000 >> SHIFT) - 1  # the last bin of either sign that holds no infinity and no NaN

LINEAR_BINS, ENTROPY_LEVELS, ENTROPY_STEP = 2048, 128, 16  # Migacz's values; he tries every bin, with the same result
ROUNDS = 8  # of moving one end and then the fixed; on real tensors nothing moves after the third

TINY = float(np.finfo(np.float32).tiny)  # exact zeros, of either sign, are counted in the bins next to it

Ends = tuple[float, float]


@dataclass(frozen=True)
class HistogramBins:
    """The nonempty bins of a histogram, in ascending order; every array is (n,)."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def middle(self) -> NDArray[np.float64]:
        """The value that represents a bin."""
        return (self.lower + self.upper) / 2


@dataclass
class Histogram:
    """Counts of values in 256 KiB, for any number of values; infinities and NaN are not counted."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values, of any shape."""
        patterns = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).ravel()
        self.counts += np.bincount(patterns >> SHIFT, minlength=BINS)

    def bins(self) -> HistogramBins:
        """Return the nonempty bins in ascending order: negative bins grow away from zero, so they are reversed."""
        places = np.r_[NEGATIVE + FINITE : NEGATIVE - 1 : -1, 0 : FINITE + 1]
        places = places[self.counts[places] > 0]
        near, far = _value(places), _value(places + 1)
        return HistogramBins(np.minimum(near, far), np.maximum(near, far), self.counts[places])


def percentile(bins: HistogramBins, kept: float) -> Ends:
    """Return the interval that holds ``kept`` per cent of the values; half of the rest lies beyond each end.

    Values are taken as evenly spread in a bin, so an end is exact to 1/64 of its magnitude.
    """
    below = np.cumsum(bins.count)
    total = below[-1]
    ends = []
    for share in ((100 - kept) / 200, (100 + kept) / 200):
        place = min(int(np.searchsorted(below, share * total)), len(below) - 1)
        inside = 1 - (below[place] - share * total) / bins.count[place]
        ends.append(bins.lower[place] + inside * (bins.upper[place] - bins.lower[place]))
    return ends[0], ends[1]


def mse(bins: HistogramBins, full: Ends, levels: int) -> Ends:
    """Return the range within ``full`` with the least expected squared quantization error for ``levels`` steps.

    The error of a value inside the range is rounding, step² / 12 on average; less than half a step away from zero it is
    the square of the value. The error of a value outside is clipping, the square of its distance to the range. That is
    the objective of OCTAV (Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation for Improved
    Quantization-aware Training", ICML 2022, eq. 3) for a range with two ends and an exact zero; it also holds for
    coarse steps. OCTAV uses Newton's method; with all values in bins, each end is tried at every bin while the other
    end is fixed.
    """
    low, high = min(full[0], 0.0), max(full[1], 0.0)
    positive, negative, near = _side(bins, 1), _side(bins, -1), _magnitudes(bins)
    for _ in range(ROUNDS):
        before = low, high
        high = _best_end(positive, near, full[1], _FixedSide(-low, _count_within(negative, -low)), levels)
        low = -_best_end(negative, near, -full[0], _FixedSide(high, _count_within(positive, high)), levels)
        if (low, high) == before:
            break
    return low, high


def entropy(bins: HistogramBins, full: Ends, levels: int) -> Ends:
    """Return ``full`` clipped to the magnitude whose quantized distribution is nearest to the original one.

    S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): of 2048 bins of magnitudes the first i are kept, those
    above counted into the last of them (P), and put together to 128 levels and spread again (Q); the i with the least
    Kullback-Leibler divergence of Q from P is taken. Exact zeros are left out: they are exact in every range.
    Sixteen bits have more levels than there are bins, so nothing is clipped for them.
    """
    top = max(abs(full[0]), abs(full[1]))
    if top == 0 or levels > LINEAR_BINS:
        return full
    counts = _linear(bins, top)
    above = counts.sum() - np.cumsum(counts)  # (2048,)
    kept = range(ENTROPY_LEVELS, LINEAR_BINS + 1, ENTROPY_STEP)
    best = min(kept, key=lambda first: _divergence(counts[:first], float(above[first - 1])))
    limit = best / LINEAR_BINS * top
    return max(full[0], -limit), min(full[1], limit)


def _value(places: NDArray[np.int64]) -> NDArray[np.float64]:
    return (places << SHIFT).astype(np.uint32).view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class _Side:
    """The values on one side of zero by magnitude; every array is (n + 1,), for the values above each end.

    The ends are zero and the bins' upper edges, ascending.
    """

    ends: NDArray[np.float64]
    number: NDArray[np.float64]
    total: NDArray[np.float64]  # of magnitudes
    squares: NDArray[np.float64]


@dataclass(frozen=True)
class _Magnitudes:
    """All values but exact zeros by magnitude, ascending; ``number`` and ``squares`` are (n + 1,), of the first i."""

    size: NDArray[np.float64]
    number: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass(frozen=True)
class _FixedSide:
    """The side whose end is fixed: the magnitude of its end, and how many values are within it."""

    end: float
    within: float


def _side(bins: HistogramBins, sign: int) -> _Side:
    order = np.flatnonzero(sign * bins.middle > TINY)[::sign]
    size, count = np.abs(bins.middle[order]), bins.count[order].astype(np.float64)
    edges = (bins.upper if sign > 0 else -bins.lower)[order]

    def above(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(np.cumsum(values[::-1])[::-1], 0.0)

    return _Side(np.append(0.0, edges), above(count), above(count * size), above(count * size**2))


def _magnitudes(bins: HistogramBins) -> _Magnitudes:
    size = np.abs(bins.middle)
    order = np.argsort(size)[np.count_nonzero(size <= TINY) :]
    size, count = size[order], bins.count[order].astype(np.float64)
    return _Magnitudes(size, np.append(0.0, np.cumsum(count)), np.append(0.0, np.cumsum(count * size**2)))


def _count_within(side: _Side, end: float) -> float:
    """Return how many values lie between zero and an end."""
    beyond = side.number[min(int(np.searchsorted(side.ends, end)), len(side.ends) - 1)]
    return float(side.number[0] - beyond)


def _best_end(side: _Side, near: _Magnitudes, full: float, fixed: _FixedSide, levels: int) -> float:
    """Return the best end on one side, at most the ``full`` one, while the other side is fixed."""
    ends = np.minimum(side.ends, max(full, 0.0))
    step = (ends + fixed.end) / (levels - 1)
    small = np.searchsorted(near.size, np.minimum(step / 2, ends))  # these become zero
    inside = side.number[0] - side.number + fixed.within
    rounding = near.squares[small] + step**2 / 12 * np.maximum(inside - near.number[small], 0)
    clipping = side.squares - 2 * ends * side.total + ends**2 * side.number
    return float(ends[np.argmin(rounding + clipping)])


def _linear(bins: HistogramBins, top: float) -> NDArray[np.float64]:
    """Return how many magnitudes lie in each of 2048 equal parts of 0..top; values are evenly spread in a bin."""
    size = np.abs(bins.middle)
    nonzero = size > TINY
    edges = np.sort(np.abs([bins.lower[nonzero], bins.upper[nonzero]]), axis=0)  # (2, n)
    parts = np.linspace(0, top, LINEAR_BINS + 1)
    below = np.zeros(LINEAR_BINS + 1)
    for lower, upper, count in zip(*edges, bins.count[nonzero], strict=True):
        below += count * np.clip((parts - lower) / (upper - lower), 0, 1)
    below[-1] = bins.count[nonzero].sum()  # the last bin may extend above the largest value
    return np.diff(below)


def _divergence(kept: NDArray[np.float64], above: float) -> float:
    """Return KL(P || Q) in nats; infinite if Q is 0 where P is not."""
    reference = kept.copy()
    reference[-1] += above
    nonzero = kept > 0
    level = np.arange(len(kept)) * ENTROPY_LEVELS // len(kept)
    total = np.bincount(level, kept, ENTROPY_LEVELS)
    share = np.bincount(level, nonzero, ENTROPY_LEVELS)
    spread = np.where(nonzero, (total / np.maximum(share, 1))[level], 0.0)
    if above and not nonzero[-1]:
        return float("inf")
    if not spread.sum():
        return float("inf")
    p, q = reference[nonzero] / reference.sum(), spread[nonzero] / spread.sum()
    return float(np.sum(p * np.log(p / q)))
