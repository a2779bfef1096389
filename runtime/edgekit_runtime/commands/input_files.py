"""Read a model's inputs from a file: ``.npy``, ``.npz``, or an image if Pillow is installed."""

from __future__ import annotations

import os
import zlib
from tokenize import TokenError
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from edgekit_runtime.errors import DataError

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import InputSpec
    from edgekit_runtime.tensors import Array

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's mode
# Errors of numpy for a truncated or changed .npy or .npz: RuntimeError from zipfile for what it cannot unpack,
# TokenError for a header whose brackets do not close, MemoryError for an impossible size.
READ_ERRORS = (OSError, ValueError, EOFError, BadZipFile, zlib.error, RuntimeError, TokenError, MemoryError)


def read_sample(path: str, inputs: tuple[InputSpec, ...]) -> tuple[Any, bool]:
    """Read the inputs of one call of the model.

    Returns:
        The value for ``model(x, raw=raw)``, and ``raw``: true for images. Arrays are passed unchanged.

    Raises:
        DataError: the file cannot be read, or Pillow is missing.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".npy", ".npz"):
        return _image(path, inputs), True
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found, False
        with found:
            return {name: found[name] for name in found.files}, False
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from error


def _image(path: str, inputs: tuple[InputSpec, ...]) -> Array:
    """Read an image as uint8 (H, W, C), with the number of channels of the model's only input."""
    spec = inputs[0]
    if len(inputs) != 1 or spec.layout is None:
        raise DataError(f"{path}: only a model with a single image input can read image files: use .npy or .npz")
    channels = spec.shape[3] if spec.layout == "NHWC" else spec.shape[1]
    if channels not in MODES:
        raise DataError(f"{path}: image files do not have the {channels} channels of input {spec.name!r}: use .npy")
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{path}: image files need Pillow: pip install 'edgekit-runtime[image]'") from error
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(MODES[channels]))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def write_outputs(path: str, outputs: dict[str, Array]) -> None:
    """Write one output as ``.npy``, or any number of outputs by name as ``.npz``.

    Raises:
        DataError: the name ends in neither, there are several outputs for one ``.npy``, or the file cannot be written.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".npy", ".npz") or (kind == ".npy" and len(outputs) != 1):
        raise DataError(f"{path}: wanted a name ending in .npz{', or in .npy' if len(outputs) == 1 else ''}")
    try:
        if kind == ".npy":
            np.save(path, next(iter(outputs.values())), allow_pickle=False)
        else:
            np.savez(path, **outputs)  # type: ignore[arg-type]  # numpy's stubs mistake the names for allow_pickle
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
