"""Which range of a tensor to spread the integers over, from a histogram of all values calibration saw of it.

The least and the greatest value are the safest range and often not the best: one rare outlier makes every step
coarser. The rules here cut rare values off. All of them work on a :class:`Histogram`, whose size depends neither on
the number of samples nor on the values' magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# A bin is the upper 15 bits of a float32: sign, exponent, and 6 bits of the fraction. So bins need no range to be
# known before, tell values apart that differ by 1/64 at any magnitude, and merge by addition.
SHIFT = 17
BINS = 1 << (32 - SHIFT)
NEGATIVE = BINS // 2  # the first bin with the sign set
FINITE = (0x7F800000 >> SHIFT) - 1  # the last bin of either sign that holds no infinity and no NaN

LINEAR_BINS, ENTROPY_LEVELS, ENTROPY_STEP = 2048, 128, 16  # Migacz's; he tries every bin, which finds the same
ROUNDS = 8  # of moving one end and then the other; on real tensors nothing moves after the third

TINY = float(np.finfo(np.float32).tiny)  # exact zeros, of either sign, are counted in the bins next to it

Ends = tuple[float, float]


@dataclass(frozen=True)
class HistogramBins:
    """The bins of a histogram that hold anything, in ascending order; every array is (n,)."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def middle(self) -> NDArray[np.float64]:
        """What stands for a bin's values."""
        return (self.lower + self.upper) / 2


@dataclass
class Histogram:
    """How often which value was seen. It takes 256 KiB however many there were; infinities and NaN are not counted."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values, of any shape."""
        patterns = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).ravel()
        self.counts += np.bincount(patterns >> SHIFT, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Count what another one saw; it is as if this one had seen it."""
        self.counts += other.counts

    def bins(self) -> HistogramBins:
        """Return what was seen in ascending order: negative bins grow away from zero, so they come backwards."""
        places = np.r_[NEGATIVE + FINITE : NEGATIVE - 1 : -1, 0 : FINITE + 1]
        places = places[self.counts[places] > 0]
        near, far = _value(places), _value(places + 1)
        return HistogramBins(np.minimum(near, far), np.maximum(near, far), self.counts[places])


def percentile(bins: HistogramBins, kept: float) -> Ends:
    """Return the ends of the interval that holds ``kept`` per cent of the values; half of the rest lies at each end.

    Inside a bin values count as spread evenly, so an end is true to 1/64 of its magnitude.
    """
    below = np.cumsum(bins.count)
    total = below[-1]
    ends = []
    for share in ((100 - kept) / 200, (100 + kept) / 200):
        place = min(int(np.searchsorted(below, share * total)), len(below) - 1)
        inside = 1 - (below[place] - share * total) / bins.count[place]
        ends.append(bins.lower[place] + inside * (bins.upper[place] - bins.lower[place]))
    return ends[0], ends[1]


def mse(bins: HistogramBins, seen: Ends, levels: int) -> Ends:
    """Return the range in ``seen`` whose expected squared error of quantization to ``levels`` steps is least.

    A value inside the range errs by rounding, step² / 12 on average, but less than half a step away from zero by its
    own square; one outside by clipping, the square of its distance to the range. That is the objective of OCTAV
    (Sakr et al., "Optimal Clipping and Magnitude-aware Differentiation for Improved Quantization-aware Training",
    ICML 2022, eq. 3), for a range with two ends and an exact zero, and true for coarse steps, too. OCTAV descends by
    Newton's method; with all values in bins each end can be tried at every bin while the other end rests.
    """
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    positive, negative, near = _side(bins, 1), _side(bins, -1), _small(bins)
    for _ in range(ROUNDS):
        before = low, high
        high = _best_end(positive, near, seen[1], _Other(-low, _within(negative, -low)), levels)
        low = -_best_end(negative, near, -seen[0], _Other(high, _within(positive, high)), levels)
        if (low, high) == before:
            break
    return low, high


def entropy(bins: HistogramBins, seen: Ends, levels: int) -> Ends:
    """Return ``seen`` clipped to the magnitude whose quantized distribution tells most of the original.

    S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): of 2048 bins of magnitudes the first i are kept, those
    above counted into the last of them (P), and put together to 128 levels and spread again (Q); the i with the least
    Kullback-Leibler divergence of Q from P is taken. Exact zeros are left out: they are exact in every range.
    Sixteen bits have more levels than there are bins, so nothing is clipped for them.
    """
    top = max(abs(seen[0]), abs(seen[1]))
    if top == 0 or levels > LINEAR_BINS:
        return seen
    counts = _linear(bins, top)
    above = counts.sum() - np.cumsum(counts)  # (2048,)
    kept = range(ENTROPY_LEVELS, LINEAR_BINS + 1, ENTROPY_STEP)
    best = min(kept, key=lambda first: _divergence(counts[:first], float(above[first - 1])))
    limit = best / LINEAR_BINS * top
    return max(seen[0], -limit), min(seen[1], limit)


def _value(places: NDArray[np.int64]) -> NDArray[np.float64]:
    return (places << SHIFT).astype(np.uint32).view(np.float32).astype(np.float64)


@dataclass(frozen=True)
class _Side:
    """The values on one side of zero by magnitude; every array is (n + 1,) and tells of the values above an end.

    The ends are zero and the bins' upper edges, ascending.
    """

    ends: NDArray[np.float64]
    number: NDArray[np.float64]
    total: NDArray[np.float64]  # of magnitudes
    squares: NDArray[np.float64]


@dataclass(frozen=True)
class _Small:
    """All values but exact zeros by magnitude, ascending; ``number`` and ``squares`` are (n + 1,), of the first i."""

    size: NDArray[np.float64]
    number: NDArray[np.float64]
    squares: NDArray[np.float64]


@dataclass(frozen=True)
class _Other:
    """The side that rests: how far its range reaches, and how many of its values that holds."""

    end: float
    within: float


def _side(bins: HistogramBins, sign: int) -> _Side:
    order = np.flatnonzero(sign * bins.middle > TINY)[::sign]
    size, count = np.abs(bins.middle[order]), bins.count[order].astype(np.float64)
    edges = (bins.upper if sign > 0 else -bins.lower)[order]

    def above(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(np.cumsum(values[::-1])[::-1], 0.0)

    return _Side(np.append(0.0, edges), above(count), above(count * size), above(count * size**2))


def _small(bins: HistogramBins) -> _Small:
    size = np.abs(bins.middle)
    order = np.argsort(size)[np.count_nonzero(size <= TINY) :]
    size, count = size[order], bins.count[order].astype(np.float64)
    return _Small(size, np.append(0.0, np.cumsum(count)), np.append(0.0, np.cumsum(count * size**2)))


def _within(side: _Side, end: float) -> float:
    """Return how many values lie between zero and an end."""
    beyond = side.number[min(int(np.searchsorted(side.ends, end)), len(side.ends) - 1)]
    return float(side.number[0] - beyond)


def _best_end(side: _Side, near: _Small, seen: float, other: _Other, levels: int) -> float:
    """Return the best end on one side, at most what was ``seen`` there, while the other side rests."""
    ends = np.minimum(side.ends, max(seen, 0.0))
    step = (ends + other.end) / (levels - 1)
    small = np.searchsorted(near.size, np.minimum(step / 2, ends))  # these become zero
    inside = side.number[0] - side.number + other.within
    rounding = near.squares[small] + step**2 / 12 * np.maximum(inside - near.number[small], 0)
    clipping = side.squares - 2 * ends * side.total + ends**2 * side.number
    return float(ends[np.argmin(rounding + clipping)])


def _linear(bins: HistogramBins, top: float) -> NDArray[np.float64]:
    """Return how many magnitudes lie in each of 2048 equal parts of 0..top, values of a bin spread evenly."""
    size = np.abs(bins.middle)
    told = size > TINY
    edges = np.sort(np.abs([bins.lower[told], bins.upper[told]]), axis=0)  # (2, n)
    parts = np.linspace(0, top, LINEAR_BINS + 1)
    below = np.zeros(LINEAR_BINS + 1)
    for lower, upper, count in zip(*edges, bins.count[told], strict=True):
        below += count * np.clip((parts - lower) / (upper - lower), 0, 1)
    below[-1] = bins.count[told].sum()  # the last bin may reach above the greatest value
    return np.diff(below)


def _divergence(kept: NDArray[np.float64], above: float) -> float:
    """Return KL(P || Q) in nats; infinite where Q rules out what P has."""
    reference = kept.copy()
    reference[-1] += above
    told = kept > 0
    level = np.arange(len(kept)) * ENTROPY_LEVELS // len(kept)
    total = np.bincount(level, kept, ENTROPY_LEVELS)
    share = np.bincount(level, told, ENTROPY_LEVELS)
    spread = np.where(told, (total / np.maximum(share, 1))[level], 0.0)
    if above and not told[-1]:
        return float("inf")
    if not spread.sum():
        return float("inf")
    p, q = reference[told] / reference.sum(), spread[told] / spread.sum()
    return float(np.sum(p * np.log(p / q)))
