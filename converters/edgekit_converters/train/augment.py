"""Augmentation: training images mirrored and shifted, before preprocessing, reproducibly.

A sample has a few variants; variant 0 is the sample itself. Variant ``v`` of sample ``i`` depends only on the seed,
``v`` and ``i``, so a teacher's outputs for all variants can be computed before the training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_converters.train import Settings
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

MAX_VARIANTS = 8  # of a sample: a teacher's answers to them cost an eighth or so of a training of 20 epochs
SHIFT_DIVISOR = 8  # an image moves by up to an eighth of its side: 4 of 32 pixels (He et al., 2015)


def _flip(images: Array, draws: Array) -> Array:
    """Mirror half of the images left to right; (b, H, W, C) in and out."""
    return np.where((draws[:, 0] < 0.5).reshape(-1, 1, 1, 1), images[:, :, ::-1], images)


def _shift(images: Array, draws: Array) -> Array:
    """Move each image by whole pixels; the border is filled with zeros, as the padding of convolutions."""
    height, width = images.shape[1:3]
    tall, wide = height // SHIFT_DIVISOR, width // SHIFT_DIVISOR
    padded = np.pad(images, ((0, 0), (tall, tall), (wide, wide), (0, 0)))
    tops = np.floor(draws[:, 0] * (2 * tall + 1)).astype(int)
    lefts = np.floor(draws[:, 1] * (2 * wide + 1)).astype(int)
    rows = tops[:, None] + np.arange(height)  # (b, H)
    columns = lefts[:, None] + np.arange(width)  # (b, W)
    moved: Array = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


# (images (b, H, W, C), two numbers in 0..1 for each (b, 2)) -> images of the same shape and dtype
AUGMENTATIONS: dict[str, Callable[[Array, Array], Array]] = {"flip": _flip, "shift": _shift}


def variants(settings: Settings) -> int:
    """Return the number of variants of each sample."""
    return min(MAX_VARIANTS, settings.epochs) if settings.augment else 1


def check(names: Sequence[str], inputs: Sequence[InputSpec]) -> None:
    """Refuse to augment inputs that are not images.

    Raises:
        DataError: no input is an image.
    """
    if names and not any(spec.layout for spec in inputs):
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in inputs)
        raise DataError(f"--augment {names[0]} is for images, but the inputs are {shapes}: leave it out")


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a data set; random numbers are drawn for each variant when it is used."""

    names: tuple[str, ...]
    seed: int
    count: int  # samples of the set

    def apply(self, images: Array, spec: InputSpec, rows: Array, variant: int) -> Array:
        """Return variant ``variant`` of the samples ``rows``; (b, *shape) in and out, without preprocessing."""
        if variant == 0 or not self.names or spec.layout is None:
            return images
        last = np.moveaxis(images, 1, -1) if spec.layout == "NCHW" else images
        for place, name in enumerate(self.names):
            last = AUGMENTATIONS[name](last, _draws(self.seed, variant, place, self.count)[rows])
        return np.moveaxis(last, -1, 1) if spec.layout == "NCHW" else last


@functools.lru_cache(maxsize=8)
def _draws(seed: int, variant: int, place: int, count: int) -> Array:
    """Return two numbers in 0..1 for each sample of a data set: (count, 2)."""
    return np.random.default_rng([seed, variant, place]).random((count, 2))
