"""Convert raw sensor data to the artifact's tensor, with the declared preprocessing.

For 8-bit images, normalization and quantization are fused into one step. A byte has 256 values, so both steps together
are a table of 256 entries for each channel, computed by running them on every byte. A faster method than a look-up is
used only if it gives every entry of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.errors import InputMismatch
from edgekit_runtime.format.manifest import Preprocessing
from edgekit_runtime.inference import preprocess
from edgekit_runtime.inference.tensor_io import as_array, describe, value_converter
from edgekit_runtime.record import replace

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import InputSpec, TensorBinding
    from edgekit_runtime.inference.tensor_io import ToTensor
    from edgekit_runtime.tensors import Array

    Fused = Callable[[Array], Array]

BLOCK = 49152  # values computed at once, so that their float32 buffer stays in the processor's cache


def raw_to_tensor(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    """Return the conversion of a raw input: an image as uint8 (H, W, C) or (1, H, W, C), else numbers in its shape.

    The result equals, bit by bit, that of ``preprocess.apply`` followed by ``tensor_io.to_tensor``.

    The conversion raises InputMismatch for another kind of value, and for another size if no resize is declared.
    """
    return _image_converter(spec, binding) if spec.layout else _number_converter(spec, binding)


def _number_converter(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    steps, convert = spec.preprocessing or Preprocessing(), value_converter(spec, binding)

    def convert_numbers(value: Any) -> Array:
        array = _numbers(spec, value)
        _check_shape(spec, array.shape)
        return convert(preprocess.apply(steps, array, spec.dtype))

    return convert_numbers


def _image_converter(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    steps, convert = spec.preprocessing or Preprocessing(), value_converter(spec, binding)
    normalization = replace(steps, resize=None)
    channels_first = spec.layout == "NCHW"
    fused = fuse_preprocessing(spec, binding, convert)

    def convert_image(value: Any) -> Array:
        images = _images(spec, value)
        if steps.resize is not None:
            images = preprocess.resize(images, steps.resize)
        if fused is None:
            images = np.moveaxis(images, 3, 1) if channels_first else images
            _check_shape(spec, images.shape)
            return convert(preprocess.apply(normalization, images, spec.dtype, spec.layout))
        tensor = fused(images)
        tensor = np.ascontiguousarray(np.moveaxis(tensor, 3, 1)) if channels_first else tensor
        _check_shape(spec, tensor.shape)
        return tensor

    return convert_image


def _numbers(spec: InputSpec, value: Any) -> Array:
    array = value if type(value) is np.ndarray else as_array(spec, value)
    if array.dtype.kind not in "biuf":
        raise InputMismatch(f"input {spec.name!r}: raw values must be numbers, not {array.dtype}")
    return array


def _images(spec: InputSpec, value: Any) -> Array:
    array = _numbers(spec, value)
    images = array[np.newaxis] if array.ndim == 3 else array
    channels = _channels(spec)
    if images.ndim != 4 or images.shape[3] != channels or images.dtype != np.uint8 or 0 in images.shape:
        raise InputMismatch(
            f"input {spec.name!r}: a raw image must be uint8 (height, width, {channels}) or "
            f"(1, height, width, {channels}), but got {array.dtype} {list(array.shape)}"
        )
    return images


def _check_shape(spec: InputSpec, shape: tuple[int, ...]) -> None:
    if shape == spec.shape:
        return
    resized = spec.preprocessing is not None and spec.preprocessing.resize is not None
    raise InputMismatch(f"{describe(spec)}{'' if resized else ', no resize is declared'}: its shape is {list(shape)}")


def fuse_preprocessing(spec: InputSpec, binding: TensorBinding, quantize: Callable[[Array], Array]) -> Fused | None:
    """Return the fastest equivalent of ``quantize(preprocess.apply(...))`` for uint8 images, (N, H, W, C).

    Args:
        spec: an image input, with its preprocessing.
        binding: the artifact's tensor.
        quantize: converts the input's dtype to the artifact's, element by element.

    Returns:
        A function from resized images to the artifact's tensor, still in (N, H, W, C). None if a byte would become
        infinite, or if the tensor has more than 16 bits, where fusing is not faster.
    """
    own = np.dtype(binding.dtype)
    if own.kind not in "iu" or own.itemsize > 2:
        return None
    table = _table(spec, quantize)
    if table is None:
        return None
    for method in (_identity, _flip_top_bit, _linear):
        found = method(table, spec, binding)
        if found is not None:
            return found
    return _look_up(table)


def _table(spec: InputSpec, quantize: Callable[[Array], Array]) -> Array | None:
    """Run the separate steps on every byte in every channel: (256, C) in the artifact's dtype."""
    steps = spec.preprocessing or Preprocessing()
    channels = _channels(spec)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)  # (256, C)
    with np.errstate(over="ignore", invalid="ignore"):
        real = preprocess.apply(_without_resize(steps), levels, spec.dtype)
    return quantize(real) if np.isfinite(real).all() else None


def _channels(spec: InputSpec) -> int:
    """Return the number of channels of an image input."""
    return spec.shape[3] if spec.layout == "NHWC" else spec.shape[1]


def _without_resize(steps: Preprocessing) -> Preprocessing:
    return Preprocessing(None, steps.scale, steps.mean, steps.std)


def _identity(table: Array, spec: InputSpec, binding: TensorBinding) -> Fused | None:
    """Return the images unchanged, if every byte maps to itself."""
    if table.dtype != np.uint8 or not np.array_equal(table, _bytes_like(table)):
        return None
    return lambda images: images


def _flip_top_bit(table: Array, spec: InputSpec, binding: TensorBinding) -> Fused | None:
    """Flip the top bit, if the table is ``byte - 128`` in int8."""
    if table.dtype != np.int8 or not np.array_equal(table.view(np.uint8) ^ 0x80, _bytes_like(table)):
        return None
    return lambda images: np.bitwise_xor(images, np.uint8(0x80)).view(np.int8)


def _bytes_like(table: Array) -> Array:
    return np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], table.shape)


def _linear(table: Array, spec: InputSpec, binding: TensorBinding) -> Fused | None:
    """Compute ``floor(byte * slope + offset)`` in the unsigned dtype of the same size, if it gives every entry.

    Arithmetic uses the processor's vector units, look-ups do not. The offset is the middle of those that give every
    entry, to leave the most room for float32's rounding.
    """
    steps = spec.preprocessing or Preprocessing()
    limits = np.iinfo(table.dtype)
    most = limits.max - limits.min
    wanted = table.astype(np.int64) - limits.min  # (256, C), counted from 0
    slope = np.asarray(steps.scale / (np.asarray(steps.std or 1.0) * (binding.scale or 1.0)), dtype=np.float32)
    slope = np.broadcast_to(slope, table.shape[1:])  # (C,)
    rising = np.arange(256)[:, None] * slope.astype(np.float64)  # (256, C)
    above = np.where(wanted > 0, wanted - rising, -np.inf).max(axis=0)  # values beyond the ends are clipped
    below = np.where(wanted < most, wanted + 1 - rising, np.inf).min(axis=0)
    if not (np.isfinite(above) & np.isfinite(below) & (above < below)).all():
        return None
    linear = _Linear(slope, ((above + below) / 2).astype(np.float32), table.dtype)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], table.shape[1], axis=1)
    return linear if np.array_equal(linear(levels), table) else None


class _Linear:
    """Computes ``floor(byte * slope + offset)`` per channel, clipped, in blocks."""

    def __init__(self, slope: Array, offset: Array, dtype: np.dtype[Any]) -> None:
        channels = len(slope)
        pixels = max(1, BLOCK // channels)
        self._slope = np.tile(slope, pixels)  # (pixels * C,): one long row, for the vector units
        self._offset = np.tile(offset, pixels)
        self._dtype = dtype
        self._unsigned = np.dtype(f"u{dtype.itemsize}")
        self._most = np.float32(np.iinfo(self._unsigned).max)
        ends = np.multiply([[0], [255]], slope, dtype=np.float32) + offset  # (2, C), with the rounding of the call
        self._clips = bool((ends < 0).any() or (ends >= self._most + 1).any())
        # Signed integers are computed as offsets from their minimum; flipping the top bit converts them.
        self._top_bit = self._unsigned.type(1 << (8 * dtype.itemsize - 1)) if dtype.kind == "i" else None

    def __call__(self, images: Array) -> Array:
        flat = images.reshape(-1)
        steps = np.empty(flat.size, self._unsigned)
        channels = images.shape[-1]
        blocks = -(-flat.size // len(self._slope))
        block = -(-flat.size // (blocks * channels)) * channels  # of about equal size, without a small rest
        buffer = np.empty(min(block, flat.size), np.float32)
        for start in range(0, flat.size, block):
            part = flat[start : start + block]
            real = buffer[: part.size]
            np.copyto(real, part)
            np.multiply(real, self._slope[: part.size], out=real)
            np.add(real, self._offset[: part.size], out=real)
            if self._clips:
                np.clip(real, np.float32(0), self._most, out=real)
            np.copyto(steps[start : start + block], real, casting="unsafe")  # rounds values that are not negative down
        if self._top_bit is not None:
            np.bitwise_xor(steps, self._top_bit, out=steps)
        return steps.view(self._dtype).reshape(images.shape)


def _look_up(table: Array) -> Fused:
    """Look values up in the table: for all channels at once if they share it, else channel by channel."""
    columns = np.ascontiguousarray(table.T)  # (C, 256)
    if (columns == columns[0]).all():
        look_up_all: Fused = columns[0].take
        return look_up_all

    def look_up(images: Array) -> Array:
        tensor = np.empty(images.shape, columns.dtype)
        for channel, column in enumerate(columns):
            tensor[..., channel] = column.take(images[..., channel])
        return tensor

    return look_up
