"""Between real numbers and the integers an artifact computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]


def quantize(x: Array, scale: float, zero_point: int, dtype: str | np.dtype[Any]) -> Array:
    """``clip(round(x / scale) + zero_point)`` in the range of ``dtype``, computed in float32.

    Halves are rounded to even and the division is a multiplication by float32's ``1 / scale``, as in the
    kernels that convert float inputs when LiteRT runs with its default XNNPACK delegate (``f32-qs8-vcvt``:
    0.5, 1.5, 2.5 become 0, 2, 2). The reference kernel rounds halves away from zero instead.

    Args:
        x: finite real numbers, any shape.
        scale: real units a step, positive.
        zero_point: the integer that stands for 0.
        dtype: int8, uint8 or int16.

    Returns:
        The integers, in the shape of ``x``.
    """
    return quantizer(scale, zero_point, dtype)(x)


def quantizer(scale: float, zero_point: int, dtype: str | np.dtype[Any]) -> Callable[[Array], Array]:
    """``quantize`` with all but ``x`` settled, for those who call it often."""
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
    """``(q - zero_point) * scale``, computed in float32 and given as ``dtype``, in the shape of ``q``."""
    real = q.astype(np.float32)
    real -= np.float32(zero_point)
    real *= np.float32(scale)
    return real.astype(dtype, copy=False)


def dequantization_table(dtype: str, scale: float, zero_point: int, to: str) -> Array:
    """What the bit patterns 0..255 of an 8-bit ``dtype`` stand for: exact, and one look-up.

    To the bit as :func:`dequantize`: a double holds the product of an integer of 9 bits and a float32 exactly. It is
    made without numpy's arithmetic, whose kernels would be 130 KB of memory that nothing else of a call needs.
    """
    first = 128 if dtype == "int8" else 256  # the pattern from which on they stand for negative numbers
    step = float(np.float32(scale))
    real = [((q if q < first else q - 256) - zero_point) * step for q in range(256)]
    return np.array(real, np.float32).astype(to, copy=False)
