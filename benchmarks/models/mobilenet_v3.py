"""A MobileNetV3-small for 32 × 32 images that default int8 ruins: trained here, then its channels are scaled apart.

Squeeze-and-excitation, hard-swish and depthwise convolutions as in A. Howard et al., "Searching for MobileNetV3"
(2019), at a quarter of its width. Between layers where f(s x) = s f(x), channels get factors from 1/30 to 30: the model
computes the same in float32, and a tensor with one scale for all channels rounds the small ones to zero.
"""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers
from PIL import Image

SEED, EPOCHS, BATCH = 3, 10, 128
SPREAD_DECADES = 3.0  # between the greatest and the least factor


class Block(NamedTuple):
    """An inverted residual."""

    inside: int  # channels of the depthwise convolution
    channels_out: int
    kernel: int
    stride: int
    squeezes: bool  # has a gate of squeeze and excitation
    activation: str


BLOCKS = (
    Block(16, 16, 3, 1, True, "relu"),
    Block(48, 24, 3, 2, False, "relu"),
    Block(64, 24, 3, 1, False, "relu"),
    Block(72, 24, 3, 1, True, "hard_silu"),
    Block(96, 40, 5, 2, True, "hard_silu"),
    Block(120, 40, 5, 1, True, "hard_silu"),
)


def trained(data: Path, path: Path) -> Path:
    """Return ``path`` with the spread model in it, trained on 20,000 CIFAR-10 images unless it is there already."""
    if not path.exists():
        keras.utils.set_random_seed(SEED)
        model = build()
        _train(model, *_images(data / "cifar10/train_jpeg.npz"))
        spread(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return path


def build() -> keras.Model:
    """Return the untrained model, (1, 32, 32, 3) in 0..255 → probabilities of ten classes."""
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = _normalized(layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="stem")(x), "stem", "hard_silu")
    for number, block in enumerate(BLOCKS):
        x = _inverted_residual(x, f"block{number}", block)
    x = _normalized(layers.Conv2D(160, 1, use_bias=False, name="head")(x), "head", "hard_silu")
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(x))


def spread(model: keras.Model) -> None:
    """Scale channels between layers without changing what the model computes."""
    draw = np.random.default_rng(SEED)
    names = [layer.name for layer in model.layers]
    for number, shape in enumerate(BLOCKS):
        block, after = f"block{number}", f"block{number + 1}"
        if shape.activation == "relu":
            _scale(model, f"{block}_expand", [f"{block}_deep"], draw)
            _scale(model, f"{block}_deep", [f"{block}_project"] + [f"{block}_squeeze"] * shape.squeezes, draw)
        if f"{block}_add" not in names and f"{after}_add" not in names and f"{after}_expand" in names:
            _scale(model, f"{block}_project", [f"{after}_expand"], draw)


def _inverted_residual(entrance: Any, name: str, block: Block) -> Any:
    inside, channels_out = block.inside, block.channels_out
    expand = layers.Conv2D(inside, 1, use_bias=False, name=f"{name}_expand")
    x = _normalized(expand(entrance), f"{name}_expand", block.activation)
    deep = layers.DepthwiseConv2D(block.kernel, block.stride, padding="same", use_bias=False, name=f"{name}_deep")
    x = _normalized(deep(x), f"{name}_deep", block.activation)
    if block.squeezes:
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Conv2D(max(inside // 4, 8), 1, activation="relu", name=f"{name}_squeeze")(gate)
        gate = layers.Conv2D(inside, 1, activation="hard_sigmoid", name=f"{name}_excite")(gate)
        x = layers.Multiply(name=f"{name}_gate")([x, gate])
    x = _normalized(layers.Conv2D(channels_out, 1, use_bias=False, name=f"{name}_project")(x), f"{name}_project", None)
    same = block.stride == 1 and entrance.shape[-1] == channels_out
    return layers.Add(name=f"{name}_add")([entrance, x]) if same else x


def _normalized(x: Any, name: str, activation: str | None) -> Any:
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_norm")(x)
    return layers.Activation(activation)(x) if activation else x


def _scale(model: keras.Model, maker: str, takers: list[str], draw: np.random.Generator) -> None:
    """Scale the outputs of a normalization, and divide the weights that read them, channel by channel."""
    normalization = model.get_layer(f"{maker}_norm")
    gamma, beta, *statistics = normalization.get_weights()
    factors = 10 ** (draw.uniform(-0.5, 0.5, len(gamma)) * SPREAD_DECADES)  # (channels,)
    normalization.set_weights([gamma * factors, beta * factors, *statistics])
    for name in takers:
        kernel, *bias = model.get_layer(name).get_weights()  # both kinds of convolution: (rows, columns, channels, …)
        model.get_layer(name).set_weights([kernel / factors[:, np.newaxis], *bias])


def _train(model: keras.Model, x: np.ndarray, y: np.ndarray) -> None:
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=4e-3, warmup_steps=steps // 10)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(_Flipped(x, y), epochs=EPOCHS, verbose=2)


class _Flipped(keras.utils.PyDataset):
    """Batches in a new order each epoch, half of the images mirrored and all of them moved by up to two pixels."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self._x, self._y, self._draw = x, y, np.random.default_rng(SEED)
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self._x) / BATCH)

    def on_epoch_end(self) -> None:
        self._order = self._draw.permutation(len(self._x))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._order[index * BATCH : (index + 1) * BATCH]
        images = np.pad(self._x[rows], ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        top, left = self._draw.integers(0, 5, 2)
        images = images[:, top : top + 32, left : left + 32]
        images = np.where(self._draw.random((len(rows), 1, 1, 1)) < 0.5, images[:, :, ::-1], images)
        return images.astype(np.float32), self._y[rows]


def _images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 (n, 32, 32, 3), and classes, (n,)."""
    stored = np.load(path)
    content, ends = bytes(stored["jpeg"]), stored["offsets"]
    parts = (content[start:end] for start, end in pairwise(ends))
    return np.stack([np.asarray(Image.open(io.BytesIO(part)).convert("RGB")) for part in parts]), stored["labels"]
