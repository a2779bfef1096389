"""Quantize and dequantize arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]


def quantize(x: Array, scale: float, zero_point: int, dtype: str | np.dtype[Any]) -> Array:
    """Return ``clip(round(x / scale) + zero_point)`` in the range of ``dtype``, computed in float32.

    Halves are rounded to even and the division is a multiplication by float32's ``1 / scale``, as in the
    kernels that convert float inputs when LiteRT runs with its default XNNPACK delegate (``f32-qs8-vcvt``:
    0.5, 1.5, 2.5 become 0, 2, 2). The reference kernel rounds halves away from zero instead.

    Args:
        x: finite real numbers, any shape.
        scale: the real value of one step, positive.
        zero_point: the integer that represents 0.
        dtype: int8, uint8 or int16.

    Returns:
        The integers, in the shape of ``x``.
    """
    return quantizer(scale, zero_point, dtype)(x)


def quantizer(scale: float, zero_point: int, dtype: str | np.dtype[Any]) -> Callable[[Array], Array]:
    """Return ``quantize`` as a function of ``x`` alone, which is faster for repeated calls."""
    target = np.dtype(dtype)
    limits = np.iinfo(target)
    low, high = np.float32(limits.min), np.float32(limits.max)
    inverse, zero = np.float32(1) / np.float32(scale), np.float32(zero_point)

    def to_steps(x: Array) -> Array:
        steps = np.multiply(x, inverse, dtype=np.float32)
        np.rint(steps, out=steps)
        np.add(steps, zero, out=steps)
        np.clip(steps, low, high, out=steps)
        return steps.astype(target)

    return to_steps


def dequantize(q: Array, scale: float, zero_point: int, dtype: str | np.dtype[Any] = "float32") -> Array:
    """Return ``(q - zero_point) * scale``, computed in float32 and cast to ``dtype``, in the shape of ``q``."""
    real = q.astype(np.float32)
    real -= np.float32(zero_point)
    real *= np.float32(scale)
    return real.astype(dtype, copy=False)


def dequantization_table(dtype: str, scale: float, zero_point: int, to: str) -> Array:
    """Return the real values of the bit patterns 0..255 of an 8-bit ``dtype``, so that dequantizing is one look-up.

    The values equal those of :func:`dequantize` bit by bit, since a double holds the product of a 9-bit integer and a
    float32 exactly. They are computed without numpy, whose arithmetic kernels would load 130 KB that no call needs.
    """
    first = 128 if dtype == "int8" else 256  # the first bit pattern of a negative number
    step = float(np.float32(scale))
    real = [((q if q < first else q - 256) - zero_point) * step for q in range(256)]
    return np.array(real, np.float32).astype(to, copy=False)
