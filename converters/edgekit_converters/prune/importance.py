"""What a channel is worth, from the weights it lies on; no framework.

A channel lies on many weights: those that make it, those that pass it on (a depthwise kernel, a normalization), and
those that use it. With θ over the entries of them that belong to one channel, and L the loss of a batch:

==============  ==================================================================  =============================
``l1``          Σ abs(θ) over the kernels that make and pass it                     Li et al., ICLR 2017
``l2``          √Σ θ² over the same                                                 the same
``taylor``      abs(Σ θ·∂L/∂θ) of each layer that uses it, mean over batches, sum   Molchanov et al., CVPR 2019
``gradient``    ‖∂L/∂θ‖ / ‖θ‖ over those that make and pass it, mean over batches   what a relative change does
``batch-norm``  abs(γ), mean over its normalizations; ``l2`` where there are none   Liu et al., ICCV 2017
``random``      uniform in 0..1, by seed and group                                  the control
==============  ==================================================================  =============================

Over the weights that use a channel, Σ θ·∂L/∂θ is Σ x·∂L/∂x over the channel's values x: to first order, what the loss
changes by when that layer does without the channel. Layers are not set off against each other: gains in one that cancel
losses in another hold to first order only, and a channel that a whole stage reads would look as if nobody needed it.
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
    """Return what each channel of a group is worth, (width,) float64, none below 0.

    Args:
        importance: one of ``edgekit_converters.prune.IMPORTANCES``.
        members: the weights the group's channels lie on; for those of WITH_GRADIENTS, with gradients.
        seed: of "random", and the group's name.
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
