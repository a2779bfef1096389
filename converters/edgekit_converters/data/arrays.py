"""Reads .npz and .npy files: arrays whose first axis counts the samples."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from edgekit_converters.data.samples import Array, Block, DataRequest, Samples, spread_note, spread_positions
from edgekit_runtime.errors import DataError

ACCEPTS = "FILE.npz or FILE.npy"
IMAGE_KEYS = ("x", "images")  # for a model with one input, beside the input's own name
LABEL_KEYS = ("y", "labels")
CLASS_KEY = "classes"
BLOCK_SAMPLES = 256


def reads(spec: str) -> bool:
    """Return whether the spec names a file for this reader."""
    return Path(spec).suffix.lower() in (".npz", ".npy")


def read(request: DataRequest) -> Samples:
    """Read ``x``/``y``, ``images``/``labels`` or the model's input names from .npz; one input from .npy.

    A .npy file is memory-mapped. ``classes`` in a .npz may name the classes.

    Raises:
        DataError: the file is missing, damaged, holds pickles, lacks an input, has unknown keys, or its
            arrays have different numbers of samples.
    """
    path = Path(request.spec)
    if not path.is_file():
        raise DataError(f"{path}: no such file; {request.purpose} data may be {ACCEPTS}")
    with _readable(path):
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = _all(loaded) if isinstance(loaded, NpzFile) else None
    columns, labels = _only(loaded, request, path) if arrays is None else _choose(arrays, request, path)
    total = _count([*columns, labels] if labels is not None else columns, path)
    chosen = spread_positions(total, request.samples)
    return Samples(
        blocks=_blocks(columns, labels, chosen, path),
        layout=request.layout,
        classes=_classes(arrays or {}, path),
        notes=spread_note(len(chosen), total),
    )


def _all(loaded: NpzFile) -> dict[str, Array]:
    """Return every array of a .npz; members that are no arrays become bytes, which no column accepts."""
    with loaded:
        return {key: np.asarray(loaded[key]) for key in loaded.files}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; save it as .npy, which is memory-mapped") from error
    except (
        ValueError,
        EOFError,
        OverflowError,
        BadZipFile,
        zlib.error,
        OSError,
        NotImplementedError,
    ) as error:
        raise DataError(
            f"{path}: cannot be read as arrays of numbers: {error}; "
            f"write it with numpy.save or numpy.savez, without object arrays"
        ) from error


def _only(array: Array, request: DataRequest, path: Path) -> tuple[list[Array], None]:
    """Return the one array of a .npy file, without labels."""
    if len(request.inputs) != 1:
        names = ", ".join(spec.name for spec in request.inputs)
        raise DataError(f"{path}: a .npy feeds one input; the model has {names}: use a .npz with these keys")
    return [array], None


def _choose(arrays: Mapping[str, Any], request: DataRequest, path: Path) -> tuple[list[Array], Array | None]:
    """Return the arrays of the inputs, in order, and the labels; unknown keys are rejected."""
    names = [spec.name for spec in request.inputs]
    inputs = names
    if not set(names) <= set(arrays) and len(names) == 1:
        inputs = [key for key in IMAGE_KEYS if key in arrays][:1] or names
    label = next((key for key in LABEL_KEYS if key in arrays and key not in inputs), None)
    if not set(inputs) <= set(arrays) or set(arrays) - {*inputs, label, CLASS_KEY}:
        wanted = "/".join((names[0], *IMAGE_KEYS)) if len(names) == 1 else ", ".join(names)
        raise DataError(
            f"{path}: the keys are {', '.join(sorted(arrays)) or 'none'}; wanted: {wanted} for the inputs, "
            f"optionally {' or '.join(LABEL_KEYS)} for labels, and {CLASS_KEY} for class names"
        )
    return [arrays[key] for key in inputs], arrays[label] if label else None


def _count(arrays: list[Array], path: Path) -> int:
    counts = {len(array) if array.ndim else None for array in arrays}
    if counts == {None} or len(counts) != 1:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise DataError(
            f"{path}: the first axis of inputs and labels counts the samples and must be equal; the shapes are {shapes}"
        )
    return len(arrays[0])


def _classes(arrays: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    if CLASS_KEY not in arrays:
        return ()
    names = arrays[CLASS_KEY]
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: {CLASS_KEY} must be names, not {names.dtype} of shape {names.shape}")
    return tuple(str(name) for name in names.astype("U"))


def _blocks(columns: list[Array], labels: Array | None, chosen: list[int], path: Path) -> Iterator[Block]:
    for start in range(0, len(chosen), BLOCK_SAMPLES):
        rows = chosen[start : start + BLOCK_SAMPLES]
        yield Block(
            inputs=tuple(np.asarray(column[rows]) for column in columns),
            labels=None if labels is None else labels[rows],
            names=tuple(f"{path}: sample {row}" for row in rows),
        )
