"""A task that a few dozen steps learn: which colour an image has, some of them turned or moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.data import DataRequest, DataSet, prepare
from edgekit_converters.records import InputShape, Source
from edgekit_runtime.format.manifest import InputSpec

SIDE, CLASSES = 8, 3
KERAS = """
import {package} as keras

def build():
    layers = keras.layers
    image = keras.Input(({side}, {side}, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.1)(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, strides=2, activation="relu")(x))
    return keras.Model(image, layers.Dense({classes}, activation="softmax")(x))

def plain():
    image = keras.Input(({side}, {side}, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, strides=2)(image))
    return keras.Model(image, keras.layers.Dense({classes}, activation="softmax")(x))

def nested():
    layers = keras.layers
    inner = keras.Input(({side}, {side}, 3))
    block = keras.Model(inner, layers.Conv2D(3, 3, padding="same", activation="relu")(inner))
    image = keras.Input(({side}, {side}, 3))
    x = layers.Conv2D(5, 3, strides=2, padding="same")(block(block(image)))
    return keras.Model(image, layers.Dense({classes}, activation="softmax")(layers.Flatten()(x)))

def single():
    image = keras.Input(({side}, {side}, 3))
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(image)))

def frozen():
    model = build()
    model.trainable = False
    return model
"""
TORCH = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, {classes}),
    )

def plain():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, {classes}), nn.Softmax(1))

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Sigmoid())

def frozen():
    return build().requires_grad_(False)

class Helped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.help = plain(), nn.Linear(192, {classes})

    def forward(self, image):
        return (self.body(image), self.help(image.flatten(1))) if self.training else self.body(image)

def helped():
    return Helped()

def alone():
    return nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 192)), nn.Linear(192, {classes}))
"""
CODE = {
    "keras": KERAS.format(package="keras", side=SIDE, classes=CLASSES),
    "tf_keras": KERAS.format(package="tf_keras", side=SIDE, classes=CLASSES),
    "torch": TORCH.format(classes=CLASSES),
}


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (count, SIDE, SIDE, 3), and which of their channels is the brightest (count,)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    pixels = generator.normal(100, 30, (count, SIDE, SIDE, 3))
    pixels[np.arange(count), :, :, labels] += 20
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


@pytest.fixture
def data_of(tmp_path: Path) -> Callable[..., DataSet]:
    """Prepare arrays as training data."""
    made = []

    def make(inputs: tuple[InputSpec, ...], x: np.ndarray, y: np.ndarray | None = None) -> DataSet:
        made.append(None)
        folder = tmp_path / f"data-{len(made)}"
        folder.mkdir()
        np.savez(folder / "data.npz", **({"x": x} if y is None else {"x": x, "y": y}))
        return prepare(DataRequest(str(folder / "data.npz"), inputs, purpose="training"), folder)

    return make


@pytest.fixture
def student_of(tmp_path: Path, loaded: Callable[..., Any]) -> Callable[..., Source]:
    """The tiny student in a framework: a function that builds it."""

    def make(framework: str, function: str = "build") -> Source:
        path = tmp_path / f"{framework}_student.py"
        path.write_text(CODE[framework])
        shapes = (InputShape((1, 3, SIDE, SIDE)),) if framework == "torch" else ()
        return loaded(path, function=function, input_shapes=shapes)

    return make


def scaled(source: Source) -> tuple[InputSpec, ...]:
    """The inputs of a source that takes bytes as 0..1."""
    from dataclasses import replace

    from edgekit_runtime.format.manifest import Preprocessing

    return tuple(
        replace(spec, preprocessing=Preprocessing(resize=None, scale=1 / 255, mean=(), std=()))
        for spec in source.inputs
    )
