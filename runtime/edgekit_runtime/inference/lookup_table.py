"""From a raw 8-bit image straight to the artifact's tensor: normalising and quantizing folded into one step.

A byte has 256 values, so the whole chain (``preprocess.apply``, then the quantization of the edge) is a table of 256
entries a channel, made by running that chain on every byte. The table is the law: whatever is cheaper than looking
it up is taken only where it gives every entry of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.format.manifest import Preprocessing
from edgekit_runtime.inference import preprocess

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import InputSpec, TensorBinding
    from edgekit_runtime.tensors import Array

    Fold = Callable[[Array], Array]

BLOCK = 49152  # values taken through the arithmetic at once: its float32 scratch stays in the processor's cache


def fold(spec: InputSpec, binding: TensorBinding, feed: Callable[[Array], Array]) -> Fold | None:
    """The cheapest equivalent of ``feed(preprocess.apply(...))``, for uint8 images in the layout (N, H, W, C).

    Args:
        spec: an image input, with what is declared for it.
        binding: the artifact's tensor.
        feed: from the input's dtype to the artifact's: the quantization of the edge. Element by element.

    Returns:
        A function from images that have been resized to the artifact's tensor, still in (N, H, W, C); or None where
        some byte has no value in the artifact (it would be infinite), or where its values are wider than 16 bits
        and the chain itself is as fast.
    """
    own = np.dtype(binding.dtype)
    if own.kind not in "iu" or own.itemsize > 2:
        return None
    table = _table(spec, feed)
    if table is None:
        return None
    for cheaper in (_same, _flipped, _on_a_line):
        found = cheaper(table, spec, binding)
        if found is not None:
            return found
    return _looked_up(table)


def _table(spec: InputSpec, feed: Callable[[Array], Array]) -> Array | None:
    """What the naive chain makes of every byte in every channel, (256, C) in the artifact's dtype."""
    steps = spec.preprocessing or Preprocessing()
    channels = channels_of(spec)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)  # (256, C)
    with np.errstate(over="ignore", invalid="ignore"):
        real = preprocess.apply(_without_resize(steps), levels, spec.dtype)
    return feed(real) if np.isfinite(real).all() else None


def channels_of(spec: InputSpec) -> int:
    """The channels of an image input."""
    return spec.shape[3] if spec.layout == "NHWC" else spec.shape[1]


def _without_resize(steps: Preprocessing) -> Preprocessing:
    return Preprocessing(None, steps.scale, steps.mean, steps.std)


def _same(table: Array, spec: InputSpec, binding: TensorBinding) -> Fold | None:
    """Nothing to do: every byte stands for itself."""
    if table.dtype != np.uint8 or not np.array_equal(table, _bytes_like(table)):
        return None
    return lambda images: images


def _flipped(table: Array, spec: InputSpec, binding: TensorBinding) -> Fold | None:
    """int8 holds ``byte - 128``, which is the byte with its top bit flipped."""
    if table.dtype != np.int8 or not np.array_equal(table.view(np.uint8) ^ 0x80, _bytes_like(table)):
        return None
    return lambda images: np.bitwise_xor(images, np.uint8(0x80)).view(np.int8)


def _bytes_like(table: Array) -> Array:
    return np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], table.shape)


def _on_a_line(table: Array, spec: InputSpec, binding: TensorBinding) -> Fold | None:
    """``floor(byte * slope + offset)`` in the unsigned twin of the dtype, where that hits every entry.

    Arithmetic runs through the processor's vector units, look-ups do not. The offset is the middle of all that hit,
    so that float32's rounding has as much room as there is.
    """
    steps = spec.preprocessing or Preprocessing()
    limits = np.iinfo(table.dtype)
    most = limits.max - limits.min
    wanted = table.astype(np.int64) - limits.min  # (256, C), counted from 0
    slope = np.asarray(steps.scale / (np.asarray(steps.std or 1.0) * (binding.scale or 1.0)), dtype=np.float32)
    slope = np.broadcast_to(slope, table.shape[1:])  # (C,)
    rising = np.arange(256)[:, None] * slope.astype(np.float64)  # (256, C)
    above = np.where(wanted > 0, wanted - rising, -np.inf).max(axis=0)  # clipping takes care of the ends
    below = np.where(wanted < most, wanted + 1 - rising, np.inf).min(axis=0)
    if not (np.isfinite(above) & np.isfinite(below) & (above < below)).all():
        return None
    line = _Line(slope, ((above + below) / 2).astype(np.float32), table.dtype)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], table.shape[1], axis=1)
    return line if np.array_equal(line(levels), table) else None


class _Line:
    """``floor(byte * slope + offset)`` per channel, clipped, in blocks."""

    def __init__(self, slope: Array, offset: Array, dtype: np.dtype[Any]) -> None:
        channels = len(slope)
        pixels = max(1, BLOCK // channels)
        self._slope = np.tile(slope, pixels)  # (pixels * C,): one long row, as the vector units like it
        self._offset = np.tile(offset, pixels)
        self._dtype = dtype
        self._unsigned = np.dtype(f"u{dtype.itemsize}")
        self._most = np.float32(np.iinfo(self._unsigned).max)
        ends = np.multiply([[0], [255]], slope, dtype=np.float32) + offset  # (2, C), as they will be computed
        self._clips = bool((ends < 0).any() or (ends >= self._most + 1).any())
        # Signed integers are counted from their least one up to here, and brought back by flipping the top bit.
        self._top_bit = self._unsigned.type(1 << (8 * dtype.itemsize - 1)) if dtype.kind == "i" else None

    def __call__(self, images: Array) -> Array:
        flat = images.reshape(-1)
        steps = np.empty(flat.size, self._unsigned)
        channels = images.shape[-1]
        blocks = -(-flat.size // len(self._slope))
        block = -(-flat.size // (blocks * channels)) * channels  # all of about one size, none a mere rest
        scratch = np.empty(min(block, flat.size), np.float32)
        for start in range(0, flat.size, block):
            part = flat[start : start + block]
            real = scratch[: part.size]
            np.copyto(real, part)
            np.multiply(real, self._slope[: part.size], out=real)
            np.add(real, self._offset[: part.size], out=real)
            if self._clips:
                np.clip(real, np.float32(0), self._most, out=real)
            np.copyto(steps[start : start + block], real, casting="unsafe")  # what is not negative is rounded down
        if self._top_bit is not None:
            np.bitwise_xor(steps, self._top_bit, out=steps)
        return steps.view(self._dtype).reshape(images.shape)


def _looked_up(table: Array) -> Fold:
    """The table itself: once for all channels where they share it, else channel by channel."""
    columns = np.ascontiguousarray(table.T)  # (C, 256)
    if (columns == columns[0]).all():
        look_up_all: Fold = columns[0].take
        return look_up_all

    def look_up(images: Array) -> Array:
        tensor = np.empty(images.shape, columns.dtype)
        for channel, column in enumerate(columns):
            tensor[..., channel] = column.take(images[..., channel])
        return tensor

    return look_up
