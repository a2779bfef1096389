"""Check a set of samples as a whole: duplicates, class balance, and constant channels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_runtime.format.manifest import InputSpec

DIGEST_BYTES = 16  # stored for each sample
PER_CLASS = 10  # samples a class on average: with fewer, classes can be missing by chance
MAX_IMBALANCE = 10  # ratio of the largest to the smallest class
MAX_NAMES = 3  # listed in a note


class DatasetChecks:
    """Collects statistics of samples, block by block, and returns notes on problems."""

    def __init__(self, inputs: tuple[InputSpec, ...]) -> None:
        self._inputs = inputs
        self._digests = bytearray()
        self._classes: Counter[int] = Counter()
        self._extremes: list[tuple[Array, Array]] = []  # an input: (channels,) each

    def add(self, arrays: Sequence[Array], labels: Array | None) -> None:
        """Add k samples: for each input (k, *sample shape), and class indices (k,) or targets (k, ...)."""
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
        """Yield notes; ``classes`` are names by index, if there are any."""
        count = len(self._digests) // DIGEST_BYTES
        digests = np.frombuffer(bytes(self._digests), dtype=[("high", "u8"), ("low", "u8")])
        copies = count - len(np.unique(digests))
        if copies:
            yield f"{copies} of {count} samples are duplicates of others"
        if count > 1:
            yield from self._constant_channels()
        if self._classes:
            yield from _balance(self._classes, classes)

    def _constant_channels(self) -> Iterator[str]:
        for spec, (low, high) in zip(self._inputs, self._extremes, strict=True):
            constant = np.flatnonzero(low == high)
            if np.dtype(spec.dtype).kind == "f" and len(constant):
                axis = "channels" if spec.layout else "features"
                names = _named(constant.tolist())
                yield f"input {spec.name!r}: {len(constant)} of {len(low)} {axis} are constant: {names}"


def _channels(array: Array, spec: InputSpec) -> Array:
    """Reshape samples to (values, channels); without a layout the last axis holds the channels."""
    axis = 1 if spec.layout == "NCHW" else -1
    whole = array[:, np.newaxis] if array.ndim == 1 else array
    return np.moveaxis(whole, axis, -1).reshape(-1, whole.shape[axis])


def _balance(counts: Counter[int], names: tuple[str, ...]) -> Iterator[str]:
    count, known = counts.total(), max(len(names), max(counts) + 1)
    if count < PER_CLASS * known:
        return

    def name(index: int) -> str:
        return names[index] if index < len(names) else str(index)

    missing = [index for index in range(known) if not counts[index]]
    if missing:
        yield f"{len(missing)} of {known} classes have no sample: {_named([name(index) for index in missing])}"
    (most, many), (least, few) = counts.most_common(1)[0], counts.most_common()[-1]
    if many >= MAX_IMBALANCE * few:
        yield f"classes are unbalanced: {many} samples of {name(most)}, {few} of {name(least)}"


def _named(found: Sequence[object]) -> str:
    more = len(found) - MAX_NAMES
    return ", ".join(map(str, found[:MAX_NAMES])) + (f" and {more} more" if more > 0 else "")
