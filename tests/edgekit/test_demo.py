"""The embedded demo: small, complete, and as good as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize(("file", "least"), [("calibration.npz", 200), ("test.npz", 400)])
def test_data_are_images_and_digits(demo: Path, file: str, least: int) -> None:
    with np.load(demo / file, allow_pickle=False) as data:
        x, y = data["x"], data["y"]  # (n, 8, 8, 1) uint8, (n,) int64
    assert len(x) == len(y) >= least
    assert x.shape[1:] == (8, 8, 1)
    assert x.dtype == np.uint8
    assert x.max() == 255
    assert set(y) == set(range(10))


def test_no_calibration_image_is_tested_on(demo: Path) -> None:
    with np.load(demo / "calibration.npz") as calibration, np.load(demo / "test.npz") as test:
        seen = {image.tobytes() for image in calibration["x"]}
        assert not any(image.tobytes() in seen for image in test["x"])


def test_the_model_is_small_and_every_class_has_a_label(demo: Path) -> None:
    assert (demo / "digits.keras").stat().st_size < 200_000
    assert (demo / "labels.txt").read_text(encoding="utf-8").split() == [str(digit) for digit in range(10)]


@pytest.mark.needs_image
def test_sample_images_are_test_images_of_the_digit_they_are_named_after(demo: Path) -> None:
    from PIL import Image

    with np.load(demo / "test.npz") as test:
        digits = {image.tobytes(): digit for image, digit in zip(test["x"], test["y"], strict=True)}
    samples = sorted(demo.glob("digit-*.png"))
    assert len(samples) == 5
    for path in samples:
        assert digits[np.asarray(Image.open(path)).tobytes()] == int(path.stem.removeprefix("digit-"))


@pytest.mark.needs_keras
def test_the_model_keeps_its_accuracy(demo: Path) -> None:
    import keras

    model = keras.saving.load_model(demo / "digits.keras")
    with np.load(demo / "test.npz") as test:
        found = model.predict(test["x"] * np.float32(1 / 256), verbose=0).argmax(1)
        assert np.mean(found == test["y"]) >= 0.97
