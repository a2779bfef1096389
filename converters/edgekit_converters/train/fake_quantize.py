"""Fake quantization: round, in floating point, to what a scheme's integers can say, so that training gets used to it.

Gradients pass as if nothing had been rounded (the straight-through estimator: Bengio, Léonard and Courville, 2013);
what is rounded where follows Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), section 3. Here is the law, in numpy; a framework has it in its terms.

Normalization needs no folding for it. A layer's integers are scaled by output channel, and folding multiplies all of
a channel by one factor g: the scale is max|g w| / 127 = |g| max|w| / 127, so ``round(g w) = g round(w)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from edgekit_converters.data.samples import Array

SMALLEST = 1e-9  # range: a scale is no zero (AI Edge Quantizer's bound)
# Ranges are what quantization takes, the extremes of all that was seen. As weights change, what was seen long ago
# counts less: a range grows at once, so nothing is clipped in training, and shrinks by this part of the way a step.
FORGOTTEN = 0.01
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
    LAYER = "a convolution or a matrix of weights"
    NORM = "a normalization whose factors are constant in use"
    RELU = "an activation that integer operators clip their results by"
    KEEPS = "moves values, or leaves some out: what was rounded stays as it is"
    FLOAT = "gives floating point: a softmax"
    OTHER = "anything else"


def swallows(taker: Role, giver: Role) -> bool:
    """Tell whether an operation becomes part of the one before it, so that nothing is rounded between them."""
    return (taker is Role.NORM and giver is Role.LAYER) or (taker is Role.RELU and giver is not Role.INPUT)


def rounded_weights(weights: Array, channels: tuple[int, ...], arithmetic: Arithmetic) -> Array:
    """Return weights as they are when made whole again, of the same shape.

    Args:
        weights: float32.
        channels: the axes whose every place is an output of its own, with a scale of its own.
        arithmetic: of the scheme.
    """
    summed = tuple(axis for axis in range(weights.ndim) if axis not in {one % weights.ndim for one in channels})
    most = np.maximum(np.abs(weights).max(axis=summed, keepdims=True), SMALLEST)
    step = most / np.float32(arithmetic.weight_levels)
    return np.asarray(np.round(weights / step) * step, np.float32)


def rounded_activations(values: Array, low: float, high: float, arithmetic: Arithmetic) -> Array:
    """Return values as they are in integers spread over a range; those outside are at its ends.

    The range is made to hold zero, which is then exact: borders are padded with it.
    """
    if arithmetic.symmetric:
        top = 2 ** (arithmetic.activation_bits - 1) - 1
        step = np.float32(max(abs(low), abs(high), SMALLEST) / top)
        return np.asarray(np.clip(np.round(values / step), -top, top) * step, np.float32)
    top, low, high = 2**arithmetic.activation_bits - 1, min(low, 0.0), max(high, 0.0)
    step = np.float32(max(high - low, SMALLEST) / top)
    zero = np.round(-low / step)
    return np.asarray((np.clip(np.round(values / step) + zero, 0, top) - zero) * step, np.float32)


def widened(kept: Array, seen: Array) -> Array:
    """Return a range (low, high) after a batch whose extremes are ``seen``."""
    eased = kept + FORGOTTEN * (seen - kept)
    return np.array([min(seen[0], eased[0]), max(seen[1], eased[1])], np.float32)
