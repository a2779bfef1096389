"""Preprocess raw inputs as for training. Calibration, evaluation and the board all use this implementation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Preprocessing
    from edgekit_runtime.tensors import Array

BAND = 16  # target samples that are resampled together
TILE = 1 << 18  # multiplications at once: their data fit in caches, and OpenBLAS starts no threads for so few


def apply(preprocessing: Preprocessing, x: Array, dtype: str | np.dtype[Any], layout: str | None = None) -> Array:
    """Resize to the declared size, then compute ``(x * scale - mean) / std`` per channel in float32.

    Args:
        preprocessing: the manifest's preprocessing of the input.
        x: a batch: (N, H, W, C) for ``"NHWC"``, (N, C, H, W) for ``"NCHW"``, any shape for None.
        dtype: of the result; integers are rounded to even and clipped.
        layout: of ``x`` and of the result. With None, resizing is not possible, and several values of ``mean`` or
            ``std`` apply along the last axis.

    Returns:
        An array of ``dtype`` in the layout of ``x``.
    """
    if preprocessing.resize is not None:
        last = np.moveaxis(x, 1, 3) if layout == "NCHW" else x
        last = resize(last, preprocessing.resize)
        x = np.moveaxis(last, 3, 1) if layout == "NCHW" else last
    return _cast(_normalise(preprocessing, x, layout), np.dtype(dtype))


def _normalise(preprocessing: Preprocessing, x: Array, layout: str | None) -> Array:
    real = np.multiply(x, np.float32(preprocessing.scale), dtype=np.float32, order="C")
    rows, pixels = real, 1
    if layout != "NCHW" and real.ndim > 1:  # all pixels of a row at once, since numpy is slow on short rows
        pixels = real.shape[-2]
        rows = real.reshape(*real.shape[:-2], pixels * real.shape[-1])  # (..., W * C), a view
    if preprocessing.mean:
        rows -= _per_channel(preprocessing.mean, layout, pixels)
    if preprocessing.std:
        rows /= _per_channel(preprocessing.std, layout, pixels)
    return real


def _per_channel(values: tuple[float, ...], layout: str | None, pixels: int) -> Array:
    channels = np.asarray(values, dtype=np.float32)  # (1,) or (C,)
    if layout == "NCHW":
        return channels.reshape(-1, 1, 1)
    return np.tile(channels, pixels) if len(channels) > 1 else channels


def _cast(real: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind not in "iu":
        return np.ascontiguousarray(real, dtype=dtype)
    limits = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(np.rint(real), limits.min, limits.max), dtype=dtype)


def resize(images: Array, size: tuple[int, int]) -> Array:
    """Resize bilinearly with antialiasing: a triangle filter as wide as the scale when shrinking, half-pixel centres.

    Pillow's ``BILINEAR`` computes the same, to within one level for uint8, since it rounds between its two passes and
    uses fixed-point weights.

    Args:
        images: (N, H, W, C), uint8 or float.
        size: height and width of the result.

    Returns:
        (N, height, width, C): uint8 rounded from uint8, else float32. The input itself if it has that size.
    """
    height, width = size
    if images.shape[1:3] == (height, width):
        return images
    rows, columns = _bands(images.shape[1], height), _bands(images.shape[2], width)
    channels = images.shape[3]
    out = np.empty((len(images), height, width, channels), dtype=np.float32)
    for i, image in enumerate(images):  # one image at a time, since a batch in float32 may be large
        down = _resampled(rows, image.reshape(len(image), -1), height)  # (height, W * C)
        turned = np.moveaxis(down.reshape(height, -1, channels), 1, 0)  # (W, height, C)
        across = _resampled(columns, turned.reshape(len(turned), -1), width)  # (width, height * C)
        out[i] = np.moveaxis(across.reshape(width, height, channels), 0, 1)
    if images.dtype != np.uint8:
        return out
    np.rint(out, out=out)
    return np.clip(out, 0, 255, out=out).astype(np.uint8)


class _Band(NamedTuple):
    """Neighbouring target samples, and the source samples that they depend on."""

    target: slice
    source: slice
    weights: Array  # (targets, sources)


@lru_cache(maxsize=32)
def _bands(source: int, target: int) -> tuple[_Band, ...]:
    """Return the resampling matrix in bands, without most of its zeros."""
    weights = _weights(source, target)
    bands = []
    for first in range(0, target, BAND):
        rows = weights[first : first + BAND]
        used = np.flatnonzero(rows.any(axis=0))
        around = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(_Band(slice(first, first + len(rows)), around, np.ascontiguousarray(rows[:, around])))
    return tuple(bands)


def _resampled(bands: tuple[_Band, ...], samples: Array, target: int) -> Array:
    """Return the weighted sums of the columns of ``samples`` (source, M): (target, M) in float32."""
    real = np.ascontiguousarray(samples, dtype=np.float32)
    out = np.empty((target, real.shape[1]), dtype=np.float32)
    for band in bands:
        step = max(1, TILE // band.weights.size)
        for start in range(0, real.shape[1], step):
            tile = slice(start, start + step)
            np.matmul(band.weights, real[band.source, tile], out=out[band.target, tile])
    return out


def _weights(source: int, target: int) -> Array:
    """Return the weight of each source sample in each target sample, (target, source); every row sums to 1."""
    step = source / target
    support = max(step, 1.0)
    centres = (np.arange(target) + 0.5) * step  # (target,)
    samples = np.arange(source) + 0.5  # (source,)
    weights = np.maximum(0.0, 1.0 - np.abs(samples - centres[:, None]) / support)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)
