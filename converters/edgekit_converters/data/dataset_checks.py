"""What the samples of a set are like as a whole: copies, classes, and channels in which nothing happens."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_runtime.format.manifest import InputSpec

DIGEST_BYTES = 16  # kept of every sample; nothing else grows with their number
PER_CLASS = 10  # samples a class on average: with fewer, chance alone leaves classes out
UNEVEN = 10  # times as many of one class as of another
NAMED = 3  # of many, so many are named


class Survey:
    """Sees a set's samples in blocks, as they come, and tells what to worry about."""

    def __init__(self, inputs: tuple[InputSpec, ...]) -> None:
        self._inputs = inputs
        self._digests = bytearray()
        self._classes: Counter[int] = Counter()
        self._extremes: list[tuple[Array, Array]] = []  # an input: (channels,) each

    def see(self, arrays: Sequence[Array], labels: Array | None) -> None:
        """Take in k samples: an array (k, *sample shape) an input, and class indices (k,) or targets (k, ...)."""
        channels = [_channels(array, spec) for array, spec in zip(arrays, self._inputs, strict=True)]
        extremes = [(rows.min(axis=0), rows.max(axis=0)) for rows in channels]
        before = self._extremes or extremes
        self._extremes = [
            (np.minimum(low, lower), np.maximum(high, higher))
            for (low, high), (lower, higher) in zip(before, extremes, strict=True)
        ]
        for sample in zip(*arrays, strict=True):
            content = b"".join(np.ascontiguousarray(array).tobytes() for array in sample)
            self._digests += hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
        if labels is not None and labels.dtype.kind == "i":
            self._classes.update(labels.tolist())

    def notes(self, classes: tuple[str, ...]) -> Iterator[str]:
        """What is remarkable, for people; ``classes`` are names by index, where there are any."""
        count = len(self._digests) // DIGEST_BYTES
        digests = np.frombuffer(bytes(self._digests), dtype=[("high", "u8"), ("low", "u8")])
        copies = count - len(np.unique(digests))
        if copies:
            yield f"{copies} of {count} samples are copies of others: they tell nothing new"
        if count > 1:
            yield from self._still()
        if self._classes:
            yield from _balance(self._classes, classes)

    def _still(self) -> Iterator[str]:
        for spec, (low, high) in zip(self._inputs, self._extremes, strict=True):
            still = np.flatnonzero(low == high)
            if np.dtype(spec.dtype).kind == "f" and len(still):
                what = "channels" if spec.layout else "features"
                yield f"input {spec.name!r}: {len(still)} of {len(low)} {what} never change: {_named(still.tolist())}"


def _channels(array: Array, spec: InputSpec) -> Array:
    """Bring samples to (values, channels); without a layout the last axis counts as the channels."""
    axis = 1 if spec.layout == "NCHW" else -1
    whole = array[:, np.newaxis] if array.ndim == 1 else array
    return np.moveaxis(whole, axis, -1).reshape(-1, whole.shape[axis])


def _balance(seen: Counter[int], names: tuple[str, ...]) -> Iterator[str]:
    count, known = seen.total(), max(len(names), max(seen) + 1)
    if count < PER_CLASS * known:
        return

    def name(index: int) -> str:
        return names[index] if index < len(names) else str(index)

    missing = [index for index in range(known) if not seen[index]]
    if missing:
        yield f"{len(missing)} of {known} classes have no sample: {_named([name(index) for index in missing])}"
    (most, many), (least, few) = seen.most_common(1)[0], seen.most_common()[-1]
    if many >= UNEVEN * few:
        yield f"classes are uneven: {many} samples of {name(most)}, {few} of {name(least)}"


def _named(found: Sequence[object]) -> str:
    more = len(found) - NAMED
    return ", ".join(map(str, found[:NAMED])) + (f" and {more} more" if more > 0 else "")
