"""Compute the importance of channels from the weights that hold them; independent of frameworks.

A channel is held by many weights: those that produce it, those that pass it on (a depthwise kernel, a normalization),
and those that consume it. With θ for the entries of these weights that belong to one channel, and L for the loss of a
batch:

==============  ==================================================================  =============================
``l1``          Σ abs(θ) over the kernels that produce and pass it                  Li et al., ICLR 2017
``l2``          √Σ θ² over the same kernels                                         Li et al., ICLR 2017
``taylor``      abs(Σ θ·∂L/∂θ) of each consumer, mean over batches, then sum        Molchanov et al., CVPR 2019
``gradient``    ‖∂L/∂θ‖ / ‖θ‖ over those that produce and pass it, mean of batches  effect of a relative change
``batch-norm``  abs(γ), mean over its normalizations; ``l2`` without any            Liu et al., ICCV 2017
``random``      uniform in 0..1, by seed and group                                  the baseline
==============  ==================================================================  =============================

Over the weights that consume a channel, Σ θ·∂L/∂θ equals Σ x·∂L/∂x over the channel's values x: to first order, the
change of the loss when that layer does not read the channel. The absolute value is taken for each consumer. A sum over
consumers before it would let gains in one layer cancel losses in another, and a channel that a whole stage reads would
look unimportant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
WITH_GRADIENTS = ("taylor", "gradient")


@dataclass(frozen=True)
class WeightSums:
    """What one weight says of a group's channels, each number summed over the entries that belong to a channel."""

    role: str  # it "produces", "passes" or "consumes" the channels
    kind: str  # "kernel", "scale" (of a normalization) or "other", such as a bias
    absolutes: Array  # (width,): Σ|θ|
    squares: Array  # (width,): Σθ²
    products: Array | None = None  # (batches, width): Σ θ·∂L/∂θ; None without gradients
    gradients: Array | None = None  # (batches, width): Σ (∂L/∂θ)²


def score_channels(importance: str, weights: Sequence[WeightSums], seed: tuple[int, str] = (0, "")) -> Array:
    """Return the importance of each channel of a group, (width,) float64, never negative.

    Args:
        importance: one of ``edgekit_converters.prune.IMPORTANCES``.
        weights: the weights that hold the group's channels; with gradients for the importances of WITH_GRADIENTS.
        seed: for "random": the seed and the group's name.
    """
    if importance == "random":
        return np.random.default_rng([seed[0], *seed[1].encode()]).random(len(weights[0].squares))
    if importance == "taylor":
        used = [one.products for one in weights if one.role == "consumes" and one.products is not None]
        return np.asarray(np.abs(used).mean(axis=1).sum(axis=0), dtype=np.float64)
    scales = [one.absolutes for one in weights if one.kind == "scale"]
    if importance == "batch-norm" and scales:
        return np.asarray(np.mean(scales, axis=0), dtype=np.float64)
    kernels = [one for one in weights if one.kind == "kernel" and one.role != "consumes"]
    if importance == "l1":
        return np.asarray(np.sum([one.absolutes for one in kernels], axis=0), dtype=np.float64)
    norms = np.sqrt(np.sum([one.squares for one in kernels], axis=0), dtype=np.float64)
    if importance == "gradient":
        found = np.sqrt(np.sum([one.gradients for one in kernels if one.gradients is not None], axis=0))
        return np.asarray(found.mean(axis=0) / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float64)
    return np.asarray(norms, dtype=np.float64)
