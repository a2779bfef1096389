"""The records of the data stage: what is asked for, what a reader gives, and what is left on disk."""

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
    """The data a user named, and the model inputs they are for."""

    spec: str  # what the user typed: a folder, .npz, .npy or FILE.py:callable
    inputs: tuple[InputSpec, ...]  # shapes with batch 1 first
    samples: int | None = None  # at most so many
    layout: str | None = None  # "NHWC" or "NCHW": the samples' layout, when the user says it
    minimum: int = 1  # refused below
    recommended: int = 1  # a note below
    purpose: str = "calibration"  # or "evaluation", for messages


@dataclass(frozen=True)
class DataSet:
    """Prepared data: files every worker can memory-map, in the samples' own dtype, not yet normalised."""

    inputs: tuple[str, ...]  # one .npy a model input, in order: (count, *input shape without batch)
    labels: str | None  # .npy: int64 class indices (count,), or float targets (count, ...) as given
    classes: tuple[str, ...]  # names by index, where the data have them
    count: int
    sha256: str  # of arrays and labels alone: file names and folders do not change it
    notes: tuple[str, ...]  # for people: what was done, and what to worry about


@dataclass(frozen=True)
class SubsetRequest:
    """The first samples of a set, in the order of :func:`nested`."""

    data: DataSet
    count: int
    why: str  # for the note


@dataclass(frozen=True)
class Block:
    """Some samples in a row."""

    inputs: tuple[Array, ...]  # one a model input: (k, *sample shape)
    labels: Array | None  # (k,) or (k, *target shape)
    names: tuple[str, ...]  # k names for messages, such as "test.npz: sample 7"


@dataclass(frozen=True)
class Samples:
    """What a reader gives: blocks of samples, and what it knows of them."""

    blocks: Iterator[Block]
    layout: str | None  # of images among them, where it is known
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def spread(total: int, limit: int | None) -> list[int]:
    """At most ``limit`` positions out of ``total``, ascending, evenly spread and always the same.

    The range is cut into ``limit`` equal stretches and one position is taken from each, so data sorted by
    class give every class its share. Within its stretch the position follows the golden ratio (Knuth's
    multiplicative hash, TAOCP 6.4): a fixed step would meet only one class where classes alternate.
    """
    if limit is None or limit >= total:
        return list(range(total))
    starts = [index * total // limit for index in range(limit + 1)]
    return [
        start + ((index * 2654435769 % 2**32) * (end - start) >> 32)
        for index, (start, end) in enumerate(pairwise(starts))
    ]


def nested(total: int) -> list[int]:
    """All positions out of ``total``, in an order whose every beginning is spread evenly over the set.

    They come by the fractional parts of their multiples of the golden ratio: below any bound lie about as many in
    every stretch of the set, whatever its period (Weyl 1916), so a longer beginning holds a shorter one.
    """
    return sorted(range(total), key=lambda position: position * 2654435769 % 2**32)


def spread_note(taken: int, total: int) -> tuple[str, ...]:
    """The note that says a spread was taken, when one was."""
    return () if taken == total else (f"{taken} of {total} samples taken, spread evenly over the set",)
