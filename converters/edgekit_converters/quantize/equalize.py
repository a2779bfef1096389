"""Cross-layer equalization: even out the channels between two layers, without changing what the model computes.

M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019), section 4.1: where f(s x) = s f(x) for s > 0, as of ReLU, pooling and the product with a gate,

    W2 f(W1 x + b1) = (W2 S) f(S⁻¹ W1 x + S⁻¹ b1),    s_i = sqrt(r1_i / r2_i),

where r1_i is the greatest magnitude among the weights that make channel i and r2_i among those that take it. After
that both are sqrt(r1_i r2_i), so a tensor with one scale for all channels no longer rounds the small ones away.

A channel with next to no weights and a bias, as folding a normalization that switched it off leaves one, counts as if
it had weights in proportion to its bias: made as great as the others' by its weights alone, its bias would take the
whole range. (The paper moves such a bias into the next layer, section 4.1.3, which is exact only while the sum stays
above zero.)

ReLU6 is no such f. A channel passes it only where the bound of its input proves that 6 is never reached, and its s_i
is kept so large that this stays so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SWEEPS = 40  # over all links, one after the other, because a layer between two others is in two of them
SETTLED = 1e-3  # the sweeps end when no channel changes by more than this
CEILING = 6.0
HEAVY = 8.0  # times the ratio of bias to weight that is usual in a layer: a bias above that counts as a weight, too

Constants = dict[Hashable, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """A constant, by its key, and which of its axes counts the channels.

    Of a flattened image an axis counts all its values, the channels again and again: then it says how many they are.
    """

    constant: Hashable
    axis: int
    channels: int | None = None


@dataclass(frozen=True)
class Link:
    """Channels that one layer makes and one or more take, with nothing between but what scales with them.

    A layer that shares its constants with another one is in no link.
    """

    weights: Part  # that make the channels
    biases: tuple[Part, ...]
    takers: tuple[Part, ...]
    bounded: bool = False  # a ReLU6 lies between, and another one gives what the weights take


def equalize(constants: Constants, links: Iterable[Link]) -> None:
    """Scale the constants in place; a channel that nobody makes or takes stays as it is."""
    links = tuple(links)
    for _ in range(SWEEPS):
        moved = [_apply(constants, link) for link in links]
        if max(moved, default=0.0) < SETTLED:
            return


def _apply(constants: Constants, link: Link) -> float:
    """Even out one link and return how far its channels were from even, as the logarithm of a factor."""
    scales = _scales(constants, link)
    for part in (link.weights, *link.biases):
        array, axis = _by_axis(constants, part)
        array /= _along(scales, array, axis)
    for part in link.takers:
        array, axis = _by_axis(constants, part)
        array *= _along(scales, array, axis)
    return float(np.abs(np.log(scales)).max())


def _scales(constants: Constants, link: Link) -> NDArray[np.float64]:
    made = _made(constants, link)
    taken = np.max([_greatest(constants, part) for part in link.takers], axis=0)
    used = (made > 0) & (taken > 0)
    scales = np.sqrt(np.where(used, made, 1.0) / np.where(used, taken, 1.0))
    if not link.bounded:
        return scales
    reached = _reached(constants, link)
    return np.where(reached <= CEILING, np.maximum(scales, reached / CEILING), 1.0)


def _made(constants: Constants, link: Link) -> NDArray[np.float64]:
    """Return the greatest magnitude that makes each channel, (channels,); zero where no weight does."""
    weights, bias = _greatest(constants, link.weights), np.abs(_bias(constants, link))
    both = (weights > 0) & (bias > 0)
    if not both.any():
        return weights
    usual = np.median(bias[both] / weights[both])  # which no scaling of channels changes
    return np.where(both, np.maximum(weights, bias / (HEAVY * usual)), weights)


def _bias(constants: Constants, link: Link) -> NDArray[np.float64]:
    """Return what is added to each channel, (channels,)."""
    parts = [_by_channel(constants, part)[:, 0] for part in link.biases]
    return np.asarray(sum(parts, np.zeros(len(_by_channel(constants, link.weights)))), dtype=np.float64)


def _greatest(constants: Constants, part: Part) -> NDArray[np.float64]:
    """Return the greatest magnitude of each channel, (channels,)."""
    return np.asarray(np.abs(_by_channel(constants, part)).max(axis=1), dtype=np.float64)


def _reached(constants: Constants, link: Link) -> NDArray[np.float64]:
    """Return what no channel exceeds when everything the weights take lies in 0..6, (channels,)."""
    weights = _by_channel(constants, link.weights)
    return np.asarray(_bias(constants, link) + CEILING * np.maximum(weights, 0).sum(axis=1), dtype=np.float64)


def _by_channel(constants: Constants, part: Part) -> NDArray[np.float64]:
    """Return a constant as (channels, values of each)."""
    array = np.moveaxis(*_by_axis(constants, part), 0)
    return array.reshape(len(array), -1).astype(np.float64)


def _by_axis(constants: Constants, part: Part) -> tuple[NDArray[Any], int]:
    """Return a constant, or a view of it, with an axis that counts channels and nothing else, and which that is."""
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
