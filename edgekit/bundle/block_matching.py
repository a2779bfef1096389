"""Find which stretches of a new file an old one has, wherever they are in it.

The old file is cut into blocks, whose hashes are looked up at every position of the new one, as rsync does it
(A. Tridgell, Efficient Algorithms for Sorting and Synchronization, 1999, chapter 3). A block that is found is extended
to both sides as far as the files agree. What lies between is told with the old stretch that stands where it should:
weights that moved a little are close to their old values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit_runtime.store.delta.format import STRETCH_BYTES

BLOCK_BYTES = 32
WINDOW = 1 << 20  # positions of the new file that are hashed at once
LEAST_COPY = 64  # bytes: a shorter agreement in the midst of others costs more as a step than it saves
_Q = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64: the golden ratio's fraction

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class CopyRange:
    """A stretch of the new file, and the old one's stretch that it is, or that is like it."""

    offset: int
    old_offset: int
    size_bytes: int
    same: bool


def find_stretches(new: bytes, old: bytes, most: int) -> list[CopyRange]:
    """Stretches that make up the new file, in order: at most so many, if that may be.

    Those that are not the same in the old file have at most ``STRETCH_BYTES``.
    """
    if new == old:
        return [CopyRange(0, 0, len(new), same=True)] if new else []
    matches = _matches(np.frombuffer(new, np.uint8), np.frombuffer(old, np.uint8))
    least = LEAST_COPY
    while True:
        found = list(_between(_absorbed(matches, least), len(new), len(old)))
        if len(found) <= most or least > len(new):
            return found
        least *= 4


def _matches(new: Bytes, old: Bytes) -> list[CopyRange]:
    """Agreements, in the order of the new file; none overlaps another there."""
    if len(old) < BLOCK_BYTES or len(new) < BLOCK_BYTES:
        return []
    hashes, places = _index(old)
    found: list[CopyRange] = []
    end = 0
    for start in range(0, len(new) - BLOCK_BYTES + 1, WINDOW):
        rolled = _rolled(new[start : start + WINDOW + BLOCK_BYTES - 1])
        rank = np.minimum(np.searchsorted(hashes, rolled), len(hashes) - 1)
        hits = np.flatnonzero(hashes[rank] == rolled)
        at = 0
        while True:
            at += int(np.searchsorted(hits[at:], end - start))
            if at >= len(hits):
                break
            position = int(hits[at])
            match = _extended(new, old, start + position, int(places[rank[position]]), end)
            if match is None:
                at += 1
                continue
            found.append(match)
            end = match.offset + match.size_bytes
    return found


def _index(old: Bytes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The hashes of the old file's blocks in order, and where the first block of each begins."""
    count = len(old) // BLOCK_BYTES
    blocks = old[: count * BLOCK_BYTES].reshape(count, BLOCK_BYTES)
    hashes = np.zeros(count, np.uint64)
    for column, power in enumerate(_powers(_Q, BLOCK_BYTES)):
        hashes += blocks[:, column].astype(np.uint64) * power
    unique, first = np.unique(hashes, return_index=True)
    return unique, first.astype(np.int64) * BLOCK_BYTES


def _rolled(piece: Bytes) -> Hashes:
    """The hash of the block at each position: sum of byte k times Q^k, modulo 2^64, from sums over all before."""
    sums = np.zeros(len(piece) + 1, np.uint64)
    np.cumsum(piece.astype(np.uint64) * _powers(_Q, len(piece)), out=sums[1:])
    count = len(piece) - BLOCK_BYTES + 1
    rolled: Hashes = (sums[BLOCK_BYTES:] - sums[:count]) * _powers(pow(_Q, -1, 1 << 64), count)
    return rolled


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    powers: Hashes = np.cumprod(factors)
    return powers


def _extended(new: Bytes, old: Bytes, offset: int, old_offset: int, end: int) -> CopyRange | None:
    """The agreement around a block that may be the same; not before ``end``, where the last one ended."""
    forward = _agreeing(new[offset:], old[old_offset:])
    if forward < BLOCK_BYTES:
        return None  # another block of the same hash
    room = min(offset - end, old_offset)
    backward = _agreeing(new[offset - room : offset][::-1], old[old_offset - room : old_offset][::-1])
    return CopyRange(offset - backward, old_offset - backward, backward + forward, same=True)


def _agreeing(left: Bytes, right: Bytes) -> int:
    """How many bytes at the beginning are equal, looked at in pieces that grow."""
    size, done, step = min(len(left), len(right)), 0, 256
    while done < size:
        end = min(done + step, size)
        unlike = left[done:end] != right[done:end]
        if unlike.any():
            return done + int(unlike.argmax())
        done, step = end, step * 4
    return size


def _absorbed(matches: list[CopyRange], least: int) -> Iterator[CopyRange]:
    """The matches without short ones."""
    return (match for match in matches if match.size_bytes >= least)


def _between(matches: Iterator[CopyRange], size: int, old_size: int) -> Iterator[CopyRange]:
    """The matches, and what lies between them beside the old stretch that continues the match before."""
    end, shift = 0, 0  # of the last match, and how far to the right it lies of where it was
    for match in matches:
        yield from _gap(end, match.offset, shift, old_size)
        yield match
        end, shift = match.offset + match.size_bytes, match.offset - match.old_offset
    yield from _gap(end, size, shift, old_size)


def _gap(start: int, end: int, shift: int, old_size: int) -> Iterator[CopyRange]:
    for offset in range(start, end, STRETCH_BYTES):
        size = min(STRETCH_BYTES, end - offset)
        old_offset = max(0, min(offset - shift, old_size - size))
        yield CopyRange(offset, old_offset, size, same=False)
