"""Fake quantization: round values, in floating point, to those that a scheme's integers represent.

Gradients pass unchanged (straight-through estimator: Bengio, Léonard and Courville, 2013). Where values are rounded
follows Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018), section 3. This module has the definition in numpy; each framework implements it with its own operations.

Normalization needs no folding. Weights have a scale for each output channel, and folding multiplies a channel by one
factor g: the scale is max|g w| / 127 = |g| max|w| / 127, so ``round(g w) = g round(w)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np

from edgekit_converters.data.samples import Array

SMALLEST = 1e-9  # range: a scale is never zero (limit of AI Edge Quantizer)
# Quantization uses the extremes of all values. As weights change, old extremes count less: a range grows at once, so
# that nothing is clipped during training, and shrinks in each step by this fraction of the difference.
RANGE_DECAY = 0.01
ROUND_HALF_UP = 0.5 + 1e-4  # an average that is a tie in the engine may be slightly less in floating point
RANGES = "ranges/"  # prefix in the state of a student


@dataclass(frozen=True)
class Arithmetic:
    """The integer arithmetic of a scheme."""

    weight_bits: int  # symmetric, one scale for each output channel
    activation_bits: int = 0  # 0: activations stay in floating point, or are quantized dynamically
    symmetric: bool = False  # activations: the zero point is 0

    @property
    def weight_levels(self) -> int:
        """The largest integer of a weight: 127 for 8 bits."""
        return int(2 ** (self.weight_bits - 1)) - 1

    @property
    def depthwise(self) -> Arithmetic:
        """The arithmetic of depthwise and transposed convolutions, which have no kernels for fewer than 8 bits."""
        return replace(self, weight_bits=max(self.weight_bits, 8))


ARITHMETICS = {
    "int8-static": Arithmetic(8, 8),
    "int16x8-static": Arithmetic(8, 16, symmetric=True),
    "int8-dynamic": Arithmetic(8),
    "int8-weights": Arithmetic(8),
    "int4-weights": Arithmetic(4),
}


class Role(Enum):
    """The kind of an operation, as far as rounding depends on it."""

    INPUT = "an input of the model"
    CONSTANT = "a constant operand of an operator that is not a layer"
    LAYER = "a convolution or a matrix product with weights"
    NORM = "a normalization with constant factors in inference"
    RELU = "an activation that integer operators apply by clipping"
    HARD_SIGMOID = "a shift, which is fused into a bias, and such an activation"
    SIGMOID = "results from 0 to 1, with a fixed range"
    TANH = "results from -1 to 1, with a fixed range"
    MOVES = "moves or selects values: they stay rounded"
    POOLS = "average pooling: the result has the range of the input"
    CONCATENATES = "a concatenation: all inputs have the range of the result"
    FLOAT = "results in floating point: a softmax"
    OTHER = "any other operation"


class RoundBetween(Protocol):
    """Rounds the values between the operators that one operation of a framework becomes in an artifact."""

    def __call__(self, values: Any, name: str, role: Role = Role.OTHER) -> Any:
        """Return the values as the next operator reads them.

        Args:
            values: of the framework's tensor type.
            name: unique in the operation.
            role: of the operator that computed the values.
        """


# role: the roles that such an operation is fused into
FUSES_INTO = {
    Role.NORM: (Role.LAYER,),
    Role.RELU: (Role.LAYER, Role.NORM, Role.OTHER),
    Role.HARD_SIGMOID: (Role.LAYER, Role.NORM),
    Role.CONCATENATES: (Role.LAYER, Role.NORM, Role.RELU, Role.HARD_SIGMOID, Role.CONCATENATES, Role.OTHER),
}
FIXED_RANGES = {
    Role.SIGMOID: (0.0, 1.0),
    Role.TANH: (-1.0, 1.0),
}  # the last integer stands for one step less than the end


@dataclass(frozen=True)
class Grid:
    """The quantization range of a tensor.

    ``fixed_range`` is one that never changes. Other ranges are stored by ``point``, the place in the model where the
    tensor is computed, and updated with its values if the grid ``observes``. Ties of averages are rounded away from the
    integer zero with ``ties_away``, as in TFLite's kernels.
    """

    point: str
    observes: bool = True
    fixed_range: tuple[float, float] | None = None
    ties_away: bool = False


def fuses(consumer: Role, producer: Role, *, alone: bool = True) -> bool:
    """Tell whether an operation is fused into the one before it, so that nothing is rounded between them.

    It is not fused unless it is ``alone`` in reading the tensor between them.
    """
    return producer in FUSES_INTO.get(consumer, ()) and alone


def grid_of(role: Role, point: str, taken: Sequence[Grid | None], arithmetic: Arithmetic) -> Grid | None:
    """Return the range that the result of an operation is rounded to; None if it stays in floating point.

    Args:
        role: of the operation.
        point: its place in the model.
        taken: the range of each input, None if it is not rounded.
        arithmetic: of the scheme.
    """
    if role is Role.FLOAT:
        return None
    if role in FIXED_RANGES:
        return Grid(point, observes=False, fixed_range=fixed_range(role, arithmetic))
    if role in (Role.MOVES, Role.POOLS) and len(taken) == 1:
        return replace(taken[0], observes=False, ties_away=role is Role.POOLS) if taken[0] else None
    return Grid(point)


def fixed_range(role: Role, arithmetic: Arithmetic) -> tuple[float, float]:
    """Return the fixed range of an operation: that of TFLite's LOGISTIC and TANH."""
    low, high = FIXED_RANGES[role]
    if arithmetic.symmetric:
        step = 2.0 ** (1 - arithmetic.activation_bits)
        return step - 1, 1 - step
    return low, high - (high - low) / 2**arithmetic.activation_bits


def fake_quantize_weights(weights: Array, channels: tuple[int, ...], arithmetic: Arithmetic) -> Array:
    """Return weights as quantization represents them, of the same shape.

    Args:
        weights: float32.
        channels: the axes whose indices have a scale of their own.
        arithmetic: of the scheme.
    """
    summed = tuple(axis for axis in range(weights.ndim) if axis not in {one % weights.ndim for one in channels})
    maximum = np.maximum(np.abs(weights).max(axis=summed, keepdims=True), SMALLEST)
    step = maximum / np.float32(arithmetic.weight_levels)
    return np.asarray(np.round(weights / step) * step, np.float32)


def fake_quantize_activations(
    values: Array, low: float, high: float, arithmetic: Arithmetic, *, ties_away: bool = False
) -> Array:
    """Return values as integers over a range represent them; values outside are clipped.

    The range is extended to contain zero, which is then exact: padding is zero.

    Args:
        values: of any shape.
        low: lower end of the range.
        high: upper end of the range.
        arithmetic: of the scheme.
        ties_away: values are averages of integers: round ties away from the integer 0, as TFLite's kernels do, and not
            to even.
    """
    step, zero = scale_and_zero_point(low, high, arithmetic)
    top = 2 ** (arithmetic.activation_bits - 1) - 1
    bottom = -top if arithmetic.symmetric else -top - 1
    integers = values / step + zero
    whole = (
        np.sign(integers) * np.floor(np.abs(integers) + ROUND_HALF_UP) if ties_away else np.round(values / step) + zero
    )
    return np.asarray((np.clip(whole, bottom, top) - zero) * step, np.float32)


def scale_and_zero_point(low: float, high: float, arithmetic: Arithmetic) -> tuple[np.float32, np.float32]:
    """Return the scale and the zero point of a range."""
    if arithmetic.symmetric:
        top = 2 ** (arithmetic.activation_bits - 1) - 1
        return np.float32(max(abs(low), abs(high), SMALLEST) / top), np.float32(0)
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.float32(max(high - low, SMALLEST) / (2**arithmetic.activation_bits - 1))
    return step, np.float32(np.round(-low / step) - 2 ** (arithmetic.activation_bits - 1))


def updated_range(kept: Array, seen: Array) -> Array:
    """Return a range (low, high) after a batch whose extremes are ``seen``."""
    eased = kept + RANGE_DECAY * (seen - kept)
    return np.array([min(seen[0], eased[0]), max(seen[1], eased[1])], np.float32)
