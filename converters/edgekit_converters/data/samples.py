"""Records of the data: the request, the samples of a reader, and the prepared data on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from edgekit_runtime.format.manifest import InputSpec

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class DataRequest:
    """Read data of the user for the inputs of a model."""

    spec: str  # as typed: a folder, .npz, .npy or FILE.py:callable
    inputs: tuple[InputSpec, ...]  # shapes with batch 1 first
    samples: int | None = None  # at most so many
    layout: str | None = None  # "NHWC" or "NCHW", of the samples, if the user gives it
    minimum: int = 1  # with fewer samples an error
    recommended: int = 1  # with fewer samples a note
    purpose: str = "calibration"  # or "evaluation", for messages


@dataclass(frozen=True)
class DataSet:
    """Prepared data: files every worker can memory-map, in the samples' own dtype, not normalized."""

    inputs: tuple[str, ...]  # one .npy a model input, in order: (count, *input shape without batch)
    labels: str | None  # .npy: int64 class indices (count,), or float targets (count, ...) as in the data
    classes: tuple[str, ...]  # names by index, if the data have them
    count: int
    sha256: str  # of arrays and labels; file names and folders do not change it
    notes: tuple[str, ...]  # what was done to the samples, and warnings


@dataclass(frozen=True)
class SubsetRequest:
    """Take the first samples of a set, by the order of :func:`spread_order`."""

    data: DataSet
    count: int
    reason: str  # for the note


@dataclass(frozen=True)
class Block:
    """Some consecutive samples."""

    inputs: tuple[Array, ...]  # one a model input: (k, *sample shape)
    labels: Array | None  # (k,) or (k, *target shape)
    names: tuple[str, ...]  # k names for messages, such as "test.npz: sample 7"


@dataclass(frozen=True)
class Samples:
    """Blocks of samples from a reader, with their metadata."""

    blocks: Iterator[Block]
    layout: str | None  # of images, if known
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def spread_positions(total: int, limit: int | None) -> list[int]:
    """Return at most ``limit`` of ``total`` positions, ascending, evenly spread and always the same.

    The range is divided into ``limit`` equal intervals with one position from each, so that of data sorted by class
    every class has its share. Within an interval the position follows the golden ratio (Knuth's multiplicative hash,
    TAOCP 6.4), because a fixed step could select one class only where classes alternate.
    """
    if limit is None or limit >= total:
        return list(range(total))
    starts = [index * total // limit for index in range(limit + 1)]
    return [
        start + ((index * 2654435769 % 2**32) * (end - start) >> 32)
        for index, (start, end) in enumerate(pairwise(starts))
    ]


def spread_order(total: int) -> list[int]:
    """Return all positions of ``total`` in an order of which every prefix is spread evenly over the set.

    They are sorted by the fractional parts of their multiples of the golden ratio, which are evenly distributed in
    every interval of the set (Weyl 1916). A longer prefix contains a shorter one.
    """
    return sorted(range(total), key=lambda position: position * 2654435769 % 2**32)


def spread_note(taken: int, total: int) -> tuple[str, ...]:
    """Return a note if not all samples were taken."""
    return () if taken == total else (f"{taken} of {total} samples taken, spread evenly over the set",)
