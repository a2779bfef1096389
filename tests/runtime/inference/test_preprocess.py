"""Resizing and normalization equal Pillow and the formula."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit_runtime.format.manifest import Preprocessing
from edgekit_runtime.inference.preprocess import apply, resize

SIZES = [((100, 80), (32, 32)), ((7, 9), (20, 30)), ((33, 50), (22, 22)), ((50, 50), (50, 20)), ((3, 1), (1, 3))]


def images(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.needs_image
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_equals_pillows_bilinear_within_one_level(source: tuple[int, int], target: tuple[int, int]) -> None:
    from PIL import Image

    batch = images(*source, count=2)
    for ours, image in zip(resize(batch, target), batch):
        theirs = np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR))
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_resize_keeps_a_constant_and_the_dtype(source: tuple[int, int], target: tuple[int, int]) -> None:
    grey = np.full((1, *source, 3), 77, np.uint8)
    assert resize(grey, target).dtype == np.uint8
    np.testing.assert_array_equal(resize(grey, target), np.full((1, *target, 3), 77))
    assert resize(grey.astype(np.float32), target).dtype == np.float32


@pytest.mark.parametrize(("source", "target"), [*SIZES, ((480, 640), (224, 224)), ((20, 30), (480, 500))])
def test_resize_equals_the_triangle_filter(source: tuple[int, int], target: tuple[int, int]) -> None:
    def matrix(have: int, want: int) -> np.ndarray:
        step = have / want
        rows = np.zeros((want, have))
        for i in range(want):
            for j in range(have):
                rows[i, j] = max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * step) / max(step, 1.0))
        return rows / rows.sum(axis=1, keepdims=True)

    image = images(*source).astype(np.float32)
    expected = np.einsum(
        "hH,wW,HWc->hwc", matrix(source[0], target[0]), matrix(source[1], target[1]), image[0], optimize=True
    )
    np.testing.assert_allclose(resize(image, target)[0], expected, rtol=1e-5, atol=1e-3)


def test_resize_to_a_half_averages_with_triangle_weights() -> None:
    row = np.array([0, 8, 16, 24], np.float32).reshape(1, 1, 4, 1)
    # The first target sample is centred on 1.0 and reaches 2 to both sides: weights 3, 3, 1 of 7.
    np.testing.assert_allclose(resize(row, (1, 2)).ravel(), [40 / 7, 128 / 7], rtol=1e-6)


def test_normalization_equals_the_formula_per_channel() -> None:
    steps = Preprocessing(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    x = images(4, 5, count=2)
    expected = (x.astype(np.float64) / 255 - [0.5, 0.4, 0.3]) / [0.1, 0.2, 0.3]
    np.testing.assert_allclose(apply(steps, x, "float32", "NHWC"), expected, rtol=1e-5, atol=1e-6)
    moved = apply(steps, np.moveaxis(x, 3, 1), "float32", "NCHW")
    np.testing.assert_array_equal(moved, np.moveaxis(apply(steps, x, "float32", "NHWC"), 3, 1))


def test_resize_works_in_both_layouts() -> None:
    steps = Preprocessing(resize=(3, 2))
    x = images(9, 8)
    last, first = apply(steps, x, "uint8", "NHWC"), apply(steps, np.moveaxis(x, 3, 1), "uint8", "NCHW")
    assert (last.shape, first.shape) == ((1, 3, 2, 3), (1, 3, 3, 2))
    np.testing.assert_array_equal(np.moveaxis(first, 1, 3), last)


def test_without_steps_values_are_only_cast() -> None:
    x = np.array([[1.5, -2.5, 300.0]])
    np.testing.assert_array_equal(apply(Preprocessing(), x, "float32"), x)
    np.testing.assert_array_equal(apply(Preprocessing(), x, "uint8"), [[2, 0, 255]])


def test_the_input_is_not_changed() -> None:
    x = np.ones((1, 2, 2, 3), np.float32)
    apply(Preprocessing(scale=3.0, mean=(1.0,), std=(2.0,)), x, "float32", "NHWC")
    np.testing.assert_array_equal(x, np.ones((1, 2, 2, 3)))
