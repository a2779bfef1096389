"""Prepare data: convert the user's samples to arrays on disk, which every worker can memory-map.

Runs in a child process that needs numpy only, and Pillow for images. Samples are checked, resized and brought to the
input's layout here, once. ``batches`` normalizes them later, so that uint8 images take a quarter of the space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit_converters.data import arrays, generator, image_folder, layout
from edgekit_converters.data.dataset_checks import DatasetChecks
from edgekit_converters.data.npy_writer import Column
from edgekit_converters.data.samples import Array, Block, DataRequest, DataSet, Samples, SubsetRequest, spread_order
from edgekit_converters.execution.stage import Stage
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec
from edgekit_runtime.inference import preprocess

__all__ = [
    "PREPARE",
    "READERS",
    "SUBSET",
    "DataRequest",
    "DataSet",
    "SubsetRequest",
    "batches",
    "labels",
    "normalize",
    "one_by_one",
    "pick",
    "prepare",
    "subset",
]
BLOCK = 256  # samples copied at a time

Reads = Callable[[str], bool]
Read = Callable[[DataRequest], Samples]

# The kinds of data: description for messages, test for a spec, reader.
READERS: tuple[tuple[str, Reads, Read], ...] = (
    (image_folder.ACCEPTS, image_folder.reads, image_folder.read),
    (arrays.ACCEPTS, arrays.reads, arrays.read),
    (generator.ACCEPTS, generator.reads, generator.read),
)


def prepare(request: DataRequest, folder: Path) -> DataSet:
    """Read the data, check them, and write one .npy an input, and the labels, into ``folder``.

    Equal requests on equal data give equal files and digests. After an error no file is left.

    Raises:
        DataError: the data are missing, damaged, too few, constant, or do not fit the model; the message names
            file, sample and input.
        OSError: the disk is full.
    """
    samples = _read(request)
    with ExitStack() as files:
        columns = [
            files.enter_context(Column(folder / f"input_{index}.npy", f"input {spec.name!r}"))
            for index, spec in enumerate(request.inputs)
        ]
        targets = files.enter_context(Column(folder / "labels.npy", "the label"))
        checks = DatasetChecks(request.inputs)
        notes = _write(samples, request, columns, targets, checks)
        _check_count(request, columns[0].count)
        for spec, column in zip(request.inputs, columns, strict=True):
            _check_values(request, spec, column)
        if targets.count not in (0, columns[0].count):
            raise DataError(f"{request.spec}: {targets.count} labels for {columns[0].count} samples")
    return DataSet(
        inputs=tuple(str(column.path) for column in columns),
        labels=str(targets.path) if targets.count else None,
        classes=samples.classes,
        count=columns[0].count,
        sha256=hashlib.sha256(b"".join(column.digest() for column in [*columns, targets])).hexdigest(),
        notes=(*samples.notes, *notes, *_warnings(request, columns), *checks.notes(samples.classes)),
    )


# reading the data is as fast as verifying a cached copy
PREPARE = Stage(prepare, toolchain=lambda _: "data", pure=False)


def subset(request: SubsetRequest, folder: Path) -> DataSet:
    """Copy the first samples by :func:`spread_order`, and their labels; the copies keep the order of the set.

    Raises:
        OSError: the disk is full.
    """
    data = request.data
    rows = np.sort(spread_order(data.count)[: request.count])
    with ExitStack() as files:
        columns = [
            files.enter_context(Column(folder / Path(path).name, path))
            for path in (*data.inputs, *((data.labels,) if data.labels else ()))
        ]
        for column in columns:
            samples = np.load(column.title, mmap_mode="r")
            for start in range(0, len(rows), BLOCK):
                block = rows[start : start + BLOCK]
                column.append(samples[block], tuple(map(str, block)))
    return replace(
        data,
        inputs=tuple(str(column.path) for column in columns[: len(data.inputs)]),
        labels=str(columns[-1].path) if data.labels else None,
        count=len(rows),
        sha256=hashlib.sha256(b"".join(column.digest() for column in columns)).hexdigest(),
        notes=(*data.notes, f"{len(rows)} of {data.count} samples taken: {request.reason}"),
    )


# as PREPARE
SUBSET = Stage(subset, toolchain=lambda _: "data", pure=False)


def iterate_samples(data: DataSet, inputs: tuple[InputSpec, ...]) -> Iterator[list[Array]]:
    """Yield normalized samples by :func:`spread_order`: for each input (1, *input shape without batch)."""
    columns = [np.load(path, mmap_mode="r") for path in data.inputs]
    for row in spread_order(data.count):
        yield [normalize(column[row : row + 1], spec) for column, spec in zip(columns, inputs, strict=True)]


def batches(
    data: DataSet, inputs: tuple[InputSpec, ...], size: int, first: int = 0, end: int | None = None
) -> Iterator[list[Array]]:
    """Yield at most ``size`` samples at a time, in order: for each input (b, *input shape without batch).

    The runtime's own preprocessing normalizes them, so that a board computes the same values. They have the input's
    dtype. ``first`` and ``end`` (exclusive) select a range of samples.
    """
    columns = [np.load(path, mmap_mode="r") for path in data.inputs]  # an input: (count, *its shape[1:])
    end = data.count if end is None else min(end, data.count)
    for start in range(first, end, size):
        rows = slice(start, min(start + size, end))
        yield [normalize(column[rows], spec) for column, spec in zip(columns, inputs, strict=True)]


def pick_samples(data: DataSet, inputs: tuple[InputSpec, ...], count: int) -> list[Array]:
    """Return ``count`` samples, or all there are, spread evenly over the set, normalized as by :func:`batches`."""
    rows = np.unique(np.linspace(0, data.count - 1, min(count, data.count)).astype(int))
    columns = [np.load(path, mmap_mode="r") for path in data.inputs]
    return [normalize(column[rows], spec) for column, spec in zip(columns, inputs, strict=True)]


def labels(data: DataSet) -> Array | None:
    """Return the labels: int64 class indices (count,) or float targets (count, ...), or None."""
    return None if data.labels is None else np.load(data.labels)


def _read(request: DataRequest) -> Samples:
    for _, reads, read in READERS:
        if reads(request.spec):
            return read(request)
    accepted = "; ".join(accepts for accepts, _, _ in READERS)
    found = "cannot be read" if Path(request.spec).exists() else "no such file or folder"
    raise DataError(f"{request.spec}: {found}; {request.purpose} data may be: {accepted}")


def _write(
    samples: Samples, request: DataRequest, columns: list[Column], targets: Column, checks: DatasetChecks
) -> list[str]:
    """Write every block into the columns and return notes; the first sample decides the layout of all."""
    fits: list[layout.Fit] = []
    resized: set[layout.Fit] = set()
    for block in samples.blocks:
        name = block.names[0]
        if not fits:
            fits = [
                layout.choose(spec, array.shape[1:], samples.layout, name)
                for spec, array in zip(request.inputs, block.inputs, strict=True)
            ]
        arrays = [way.apply(array, name) for way, array in zip(fits, block.inputs, strict=True)]
        resized |= {way for way, array in zip(fits, block.inputs, strict=True) if way.resizes(array.shape[1:])}
        labels = None if block.labels is None else _target(block.labels, block)
        for column, array in zip(columns, arrays, strict=True):
            column.append(array, block.names)
        if labels is not None:
            targets.append(labels, block.names)
        checks.add(arrays, labels)
    return [note for way in fits for note in way.notes(resized=way in resized)]


def _target(labels: Array, block: Block) -> Array:
    """Return class indices as int64 (k,), also from a column (k, 1), and float targets unchanged."""
    if labels.dtype.kind not in "biu":
        return labels
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{block.names[0]}: integer labels are class indices, one a sample; these have the shape "
            f"{labels.shape[1:]} a sample: take the argmax of one-hot labels, or save other targets as floats"
        )
    if (labels < 0).any():
        name = block.names[int(np.argmin(labels >= 0))]
        raise DataError(f"{name}: the label is negative; class indices start at 0")
    return labels.astype(np.int64)


def _check_count(request: DataRequest, count: int) -> None:
    if count == 0:
        raise DataError(f"{request.spec}: no samples in it for {request.purpose}{_file_hint(Path(request.spec))}")
    if count < request.minimum:
        limit = f" (--samples {request.samples})" if count == request.samples else ""
        raise DataError(
            f"{request.spec}: {count} samples{limit} are too few for {request.purpose}; "
            f"at least {request.minimum} are needed, {max(request.minimum, request.recommended)} are advised"
        )


def _file_hint(folder: Path) -> str:
    """Return a hint at a file of samples in a folder that has no images."""
    found = sorted(entry for entry in folder.iterdir() if arrays.reads(entry.name)) if folder.is_dir() else []
    return f"; it holds {found[0].name}: give that file, {found[0]}" if found else ""


def _check_values(request: DataRequest, spec: InputSpec, column: Column) -> None:
    """Reject constant values, and values that the input's dtype cannot hold."""
    wanted = np.dtype(spec.dtype)
    if wanted.kind == "f" and column.lowest == column.highest:
        raise DataError(
            f"{request.spec}: {column.title} is range-constant: every value of every sample is "
            f"{column.lowest}; give data as in real use"
        )
    if wanted.kind not in "iu" or column.dtype is None or spec.preprocessing:
        return
    limits = np.iinfo(wanted)
    if column.dtype.kind == "f" or column.lowest < limits.min or column.highest > limits.max:
        raise DataError(
            f"{request.spec}: {column.title} wants {wanted}, the samples are {column.dtype} "
            f"from {column.lowest} to {column.highest}"
        )


def _warnings(request: DataRequest, columns: list[Column]) -> Iterator[str]:
    count = columns[0].count
    if count < request.recommended:
        yield f"only {count} samples: {request.recommended} or more are advised for {request.purpose}"
    for spec, column in zip(request.inputs, columns, strict=True):
        scale = spec.preprocessing.scale if spec.preprocessing else 1.0
        if scale <= 1 / 16 and column.highest <= 1:
            yield f"{column.title}: the largest value is {column.highest}; is a scale of {scale:.4g} intended?"


def normalize(samples: Array, spec: InputSpec) -> Array:
    """Normalize samples from disk, (b, *shape), and convert them to the input's dtype."""
    if spec.preprocessing is None:
        return np.array(samples, dtype=spec.dtype)
    return preprocess.apply(replace(spec.preprocessing, resize=None), samples, spec.dtype, spec.layout)
