"""Augmentations: real changes, the same ones each time, and nothing else."""

import numpy as np
import pytest

from edgekit_converters.train import Settings
from edgekit_converters.train.augment import AUGMENTATIONS, Augmentation, check, variants
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

IMAGE = InputSpec("image", (1, 16, 16, 3), "float32", layout="NHWC")
PLANES = InputSpec("image", (1, 3, 16, 16), "float32", layout="NCHW")
PIXELS = np.random.default_rng(0).integers(1, 256, (200, 16, 16, 3)).astype(np.uint8)  # no zeros
ROWS = np.arange(200)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    found = Augmentation(("flip",), 0, 200).apply(PIXELS, IMAGE, ROWS, 1)
    mirrored = (found == PIXELS[:, :, ::-1]).all(axis=(1, 2, 3))
    left = (found == PIXELS).all(axis=(1, 2, 3))
    assert (mirrored ^ left).all()
    assert 70 < mirrored.sum() < 130


def test_shift_moves_by_up_to_an_eighth_each_way_and_fills_with_zeros():
    found = Augmentation(("shift",), 0, 200).apply(PIXELS, IMAGE, ROWS, 1)
    moves = set()
    for before, after in zip(PIXELS, found, strict=True):
        kept = after.any(axis=2)
        rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
        down, right = (int(rows[0]) or int(rows[-1]) - 15), (int(columns[0]) or int(columns[-1]) - 15)
        moved = np.zeros_like(before)
        height, width = 16 - abs(down), 16 - abs(right)
        moved[max(down, 0) :, max(right, 0) :][:height, :width] = before[max(-down, 0) :, max(-right, 0) :][
            :height, :width
        ]
        assert np.array_equal(moved, after)
        moves.add((down, right))
    assert {down for down, _ in moves} == {right for _, right in moves} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_variant_of_a_sample_is_the_same_in_any_batch_and_in_either_layout(name):
    whole = Augmentation((name,), 3, 200)
    rows = np.array([7, 50, 199])
    some = whole.apply(PIXELS[rows], IMAGE, rows, 2)
    assert np.array_equal(some, whole.apply(PIXELS, IMAGE, ROWS, 2)[rows])
    planes = whole.apply(np.moveaxis(PIXELS[rows], -1, 1), PLANES, rows, 2)
    assert np.array_equal(np.moveaxis(planes, 1, -1), some)
    assert some.dtype == np.uint8


def test_variants_and_seeds_differ_and_the_first_variant_is_the_sample_itself():
    both = ("flip", "shift")
    first, other = (Augmentation(both, seed, 200).apply(PIXELS, IMAGE, ROWS, 1) for seed in (0, 1))
    again = Augmentation(both, 0, 200).apply(PIXELS, IMAGE, ROWS, 2)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, again)
    assert Augmentation(both, 0, 200).apply(PIXELS, IMAGE, ROWS, 0) is PIXELS


def test_there_are_as_many_variants_as_epochs_but_never_many():
    assert variants(Settings(epochs=3, augment=("flip",))) == 3
    assert variants(Settings(epochs=100, augment=("flip",))) == 8
    assert variants(Settings(epochs=100)) == 1


def test_what_is_no_image_is_not_augmented():
    with pytest.raises(DataError, match="--augment flip is for images"):
        check(("flip",), (InputSpec("features", (1, 16), "float32"),))
