"""Cross-layer equalization: even out the channels between two layers, without changing what the model computes.

M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019), section 4.1. If f(s x) = s f(x) for s > 0, as for ReLU, pooling and the product with a gate,

    W2 f(W1 x + b1) = (W2 S) f(S⁻¹ W1 x + S⁻¹ b1),    s_i = sqrt(r1_i / r2_i),

where r1_i is the largest magnitude among the weights that produce channel i and r2_i among those that consume it. Then
both are sqrt(r1_i r2_i), so a tensor with one scale for all channels no longer rounds the small ones to zero.

Folding a normalization that switched a channel off leaves a bias and almost no weights. Such a channel counts as if its
weights were in proportion to its bias: scaled up by its weights alone, its bias would take the whole range. (The paper
moves such a bias into the next layer, section 4.1.3, which is exact only while the sum stays above zero.)

ReLU6 is no such f. A channel is scaled through it only if the upper bound of its input proves that it stays below 6,
and its s_i is kept large enough for that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SWEEPS = 40  # over all links, because a layer between two others is in two of them
TOLERANCE = 1e-3  # the sweeps end when no channel changes by more than this
RELU6_MAX = 6.0
BIAS_FACTOR = 8.0  # times the median ratio of bias to weight in a layer: a larger bias counts as a weight

Constants = dict[Hashable, NDArray[Any]]


@dataclass(frozen=True)
class ChannelAxis:
    """A constant and the axis of its channels.

    The axis of a flattened image holds all its values, the channels repeated; ``channels`` then says how many they are.
    """

    constant: Hashable
    axis: int
    channels: int | None = None


@dataclass(frozen=True)
class ChannelLink:
    """Channels that one layer produces and others consume, with only homogeneous operations between them.

    A layer that shares its constants with another layer is in no link.
    """

    weights: ChannelAxis  # that produce the channels
    biases: tuple[ChannelAxis, ...]
    consumers: tuple[ChannelAxis, ...]
    relu6: bool = False  # a ReLU6 is between them, and another ReLU6 gives the input of the weights


def equalize(constants: Constants, links: Iterable[ChannelLink]) -> None:
    """Scale the constants in place; a channel without producing or consuming weights is not scaled."""
    links = tuple(links)
    for _ in range(SWEEPS):
        changes = [_apply(constants, link) for link in links]
        if max(changes, default=0.0) < TOLERANCE:
            return


def _apply(constants: Constants, link: ChannelLink) -> float:
    """Scale the channels of one link; return the largest change, as the logarithm of a factor."""
    scales = _scales(constants, link)
    for part in (link.weights, *link.biases):
        array, axis = _by_axis(constants, part)
        array /= _along(scales, array, axis)
    for part in link.consumers:
        array, axis = _by_axis(constants, part)
        array *= _along(scales, array, axis)
    return float(np.abs(np.log(scales)).max())


def _scales(constants: Constants, link: ChannelLink) -> NDArray[np.float64]:
    produced = _producer_magnitudes(constants, link)
    consumed = np.max([_largest(constants, part) for part in link.consumers], axis=0)
    used = (produced > 0) & (consumed > 0)
    scales = np.sqrt(np.where(used, produced, 1.0) / np.where(used, consumed, 1.0))
    if not link.relu6:
        return scales
    bounds = _upper_bounds(constants, link)
    return np.where(bounds <= RELU6_MAX, np.maximum(scales, bounds / RELU6_MAX), 1.0)


def _producer_magnitudes(constants: Constants, link: ChannelLink) -> NDArray[np.float64]:
    """Return the largest magnitude of the weights that produce each channel, (channels,)."""
    weights, bias = _largest(constants, link.weights), np.abs(_bias(constants, link))
    both = (weights > 0) & (bias > 0)
    if not both.any():
        return weights
    usual = np.median(bias[both] / weights[both])  # no scaling of channels changes it
    return np.where(both, np.maximum(weights, bias / (BIAS_FACTOR * usual)), weights)


def _bias(constants: Constants, link: ChannelLink) -> NDArray[np.float64]:
    """Return the bias of each channel, (channels,)."""
    parts = [_by_channel(constants, part)[:, 0] for part in link.biases]
    return np.asarray(sum(parts, np.zeros(len(_by_channel(constants, link.weights)))), dtype=np.float64)


def _largest(constants: Constants, part: ChannelAxis) -> NDArray[np.float64]:
    """Return the largest magnitude of each channel, (channels,)."""
    return np.asarray(np.abs(_by_channel(constants, part)).max(axis=1), dtype=np.float64)


def _upper_bounds(constants: Constants, link: ChannelLink) -> NDArray[np.float64]:
    """Return an upper bound of each channel when all inputs lie in 0..6, (channels,)."""
    weights = _by_channel(constants, link.weights)
    return np.asarray(_bias(constants, link) + RELU6_MAX * np.maximum(weights, 0).sum(axis=1), dtype=np.float64)


def _by_channel(constants: Constants, part: ChannelAxis) -> NDArray[np.float64]:
    """Return a constant as (channels, values of a channel)."""
    array = np.moveaxis(*_by_axis(constants, part), 0)
    return array.reshape(len(array), -1).astype(np.float64)


def _by_axis(constants: Constants, part: ChannelAxis) -> tuple[NDArray[Any], int]:
    """Return a constant, or a view of it, and the axis that counts its channels only."""
    array, axis = constants[part.constant], part.axis
    if part.channels is None:
        return array, axis
    view = array.view()
    view.shape = (*array.shape[:axis], -1, part.channels, *array.shape[axis + 1 :])  # raises where it would copy
    return view, axis + 1


def _along(scales: NDArray[np.float64], array: NDArray[Any], axis: int) -> NDArray[np.float64]:
    shape = [1] * array.ndim
    shape[axis] = -1
    return scales.reshape(shape)
