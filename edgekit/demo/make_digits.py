"""Train the demo's digits model and write it, with its data, beside this file.

Run as `python edgekit/demo/make_digits.py` with `edgekit[keras]` and scikit-learn. The images are 1,797
digits of 8x8 pixels in 17 levels of grey: "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), in the copy scikit-learn brings. They are kept as
uint8, sixteen times brighter (0, 16, ... 240, 255), so that an image viewer shows them; the model takes
`pixel * SCALE`.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

FOLDER = Path(__file__).parent
SCALE = 1 / 256  # exact in float32
SEED = 1
TESTS = 400
CALIBRATIONS = 256
EPOCHS = 60


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, (1797, 8, 8, 1) uint8, and their digits, (1797,) int64, shuffled."""
    digits = load_digits()
    x = np.minimum(digits.images[..., None] * 16, 255).astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(x))
    return x[order], digits.target[order].astype(np.int64)


def build() -> keras.Model:
    """Return the untrained model: (1, 8, 8, 1) float32 in 0..1 -> ten probabilities."""
    layers = keras.layers
    image = layers.Input((8, 8, 1), name="image")
    x = image
    for n, (filters, strides) in enumerate(((16, 1), (32, 2), (48, 2))):
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=f"conv{n}")(x)
        x = layers.ReLU(name=f"relu{n}")(layers.BatchNormalization(name=f"norm{n}")(x))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x), name="digits")


def train(x: np.ndarray, y: np.ndarray) -> keras.Model:
    """Return the model trained on images `x` (uint8) and digits `y`."""
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(4e-3, EPOCHS * len(x) // 32)
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    model.fit(x * np.float32(SCALE), y, batch_size=32, epochs=EPOCHS, verbose=0)
    return model


def write_samples(x: np.ndarray, y: np.ndarray) -> None:
    """Write the first image of five digits as PNG files named after the digit."""
    for digit in (0, 2, 3, 5, 8):
        Image.fromarray(x[np.flatnonzero(y == digit)[0], :, :, 0]).save(FOLDER / f"digit-{digit}.png")


def main() -> None:
    """Train, print the accuracy on the held-out images, and write all files."""
    keras.utils.set_random_seed(SEED)
    x, y = load()
    test, rest = slice(0, TESTS), slice(TESTS, None)
    model = train(x[rest], y[rest])
    predicted = model.predict(x[test] * np.float32(SCALE), verbose=0).argmax(1)
    print(f"accuracy on {TESTS} held-out images: {np.mean(predicted == y[test]):.4f}")
    bare = build()  # never compiled, so that no optimizer state is saved with it
    bare.set_weights(model.get_weights())
    bare.save(FOLDER / "digits.keras")
    calibration = slice(TESTS, TESTS + CALIBRATIONS)
    np.savez_compressed(FOLDER / "calibration.npz", x=x[calibration], y=y[calibration])
    np.savez_compressed(FOLDER / "test.npz", x=x[test], y=y[test])
    (FOLDER / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)), encoding="utf-8")
    write_samples(x[test], y[test])


if __name__ == "__main__":
    main()
