"""Fake quantization: round, in floating point, to what a scheme's integers can say, so that training gets used to it.

Gradients pass as if nothing had been rounded (the straight-through estimator: Bengio, Léonard and Courville, 2013);
what is rounded where follows Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), section 3. Here is the law, in numpy; a framework has it in its terms.

Normalization needs no folding for it. A layer's integers are scaled by output channel, and folding multiplies all of
a channel by one factor g: the scale is max|g w| / 127 = |g| max|w| / 127, so ``round(g w) = g round(w)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

import numpy as np

from edgekit_converters.data.samples import Array

SMALLEST = 1e-9  # range: a scale is no zero (AI Edge Quantizer's bound)
# Ranges are what quantization takes, the extremes of all that was seen. As weights change, what was seen long ago
# counts less: a range grows at once, so nothing is clipped in training, and shrinks by this part of the way a step.
RANGE_DECAY = 0.01
ROUND_HALF_UP = 0.5 + 1e-4  # an average that is half an integer in the engine is nearly that in floating point
RANGES = "ranges/"  # in the state of a student


@dataclass(frozen=True)
class Arithmetic:
    """What a scheme computes with."""

    weight_bits: int  # symmetric, a scale an output channel
    activation_bits: int = 0  # 0: activations are in floating point, or rounded by what each batch is
    symmetric: bool = False  # activations: zero is the integer 0; else it is wherever the range has it

    @property
    def weight_levels(self) -> int:
        """The greatest integer of a weight: 127 of 8 bits."""
        return int(2 ** (self.weight_bits - 1)) - 1

    @property
    def depthwise(self) -> Arithmetic:
        """What depthwise and transposed convolutions compute with: they have no kernels for fewer than 8 bits."""
        return replace(self, weight_bits=max(self.weight_bits, 8))


ARITHMETICS = {
    "int8-static": Arithmetic(8, 8),
    "int16x8-static": Arithmetic(8, 16, symmetric=True),
    "int8-dynamic": Arithmetic(8),
    "int8-weights": Arithmetic(8),
    "int4-weights": Arithmetic(4),
}


class Role(Enum):
    """What an operation is for the operations beside it."""

    INPUT = "what the model takes"
    CONSTANT = "what an operator that is no layer multiplies by, or adds"
    LAYER = "a convolution or a matrix of weights"
    NORM = "a normalization whose factors are constant in use"
    RELU = "an activation that integer operators clip their results by"
    HARD_SIGMOID = "a shift, which becomes part of a layer's bias, and such an activation"
    SIGMOID = "gives 0 to 1, in the same integers whatever it takes"
    TANH = "gives -1 to 1, in the same integers whatever it takes"
    MOVES = "moves values, or leaves some out: what was rounded stays as it is"
    POOLS = "gives the same integers as it takes: a pool"
    CONCATENATES = "takes everything in the integers that it gives: a concatenation"
    FLOAT = "gives floating point: a softmax"
    OTHER = "anything else"


class RoundBetween(Protocol):
    """Rounds the values between the operators that one operation of a framework becomes in an artifact."""

    def __call__(self, values: Any, name: str, role: Role = Role.OTHER) -> Any:
        """Return the values as the next operator reads them.

        Args:
            values: of the framework's tensor type.
            name: unique in the operation.
            role: of the operator that computed the values.
        """


# role: what such an operation becomes part of
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
    """The integers that a tensor is rounded to.

    ``ends`` are those of a range that is always the same; any other is kept for the ``point`` in the model where it was
    made, and is widened by what is seen there if it ``observes``. Averages are ``ties_away`` as TFLite's kernels do it.
    """

    point: str
    observes: bool = True
    fixed_range: tuple[float, float] | None = None
    ties_away: bool = False


def fuses(consumer: Role, producer: Role, *, alone: bool = True) -> bool:
    """Tell whether an operation becomes part of the one before it, so that nothing is rounded between them.

    It cannot where it is not ``alone`` to take what that gives.
    """
    return producer in FUSES_INTO.get(consumer, ()) and alone


def grid_of(role: Role, point: str, taken: Sequence[Grid | None], arithmetic: Arithmetic) -> Grid | None:
    """Return what the result of an operation is rounded to; None where it is in floating point.

    Args:
        role: of the operation.
        point: where in the model it is.
        taken: what each tensor it takes is rounded to, None where it is not.
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
    """Return the range of an operation that always has the same: that of TFLite's LOGISTIC and TANH."""
    low, high = FIXED_RANGES[role]
    if arithmetic.symmetric:
        step = 2.0 ** (1 - arithmetic.activation_bits)
        return step - 1, 1 - step
    return low, high - (high - low) / 2**arithmetic.activation_bits


def fake_quantize_weights(weights: Array, channels: tuple[int, ...], arithmetic: Arithmetic) -> Array:
    """Return weights as they are when made whole again, of the same shape.

    Args:
        weights: float32.
        channels: the axes whose every place is an output of its own, with a scale of its own.
        arithmetic: of the scheme.
    """
    summed = tuple(axis for axis in range(weights.ndim) if axis not in {one % weights.ndim for one in channels})
    maximum = np.maximum(np.abs(weights).max(axis=summed, keepdims=True), SMALLEST)
    step = maximum / np.float32(arithmetic.weight_levels)
    return np.asarray(np.round(weights / step) * step, np.float32)


def fake_quantize_activations(
    values: Array, low: float, high: float, arithmetic: Arithmetic, *, ties_away: bool = False
) -> Array:
    """Return values as they are in integers spread over a range; those outside are at its ends.

    The range is made to hold zero, which is then exact: borders are padded with it.

    Args:
        values: of any shape.
        low: least of the range.
        high: greatest of it.
        arithmetic: of the scheme.
        halved: values are averages of integers: those half way between two become the one farther from the integer 0,
            as in TFLite's kernels, and not the even one.
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
    """Return what one integer more means in a range, and which integer stands for 0.0."""
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
