"""A model that suffers from integers suffers less when it was trained with their arithmetic, for as long."""

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.load import open_source
from edgekit_converters.lower import lower
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import InputShape, LowerRequest, QuantizeRequest
from edgekit_converters.train import Settings, TrainRequest
from edgekit_converters.train.loop import train

from .conftest import images, scaled

SCHEME = "int4-weights"
# one channel is many times as large as the others, and what it is multiplied by as much smaller: the same function, but
# of the weights that share a scale
KERAS = """
import keras
import numpy as np

def build():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    spread = np.array([30, 1, 1, 1, 1, 1], np.float32)
    image = keras.Input((8, 8, 3))
    norm, conv, last = layers.BatchNormalization(), layers.Conv2D(6, 3, strides=2), layers.Dense(3)
    other = layers.BatchNormalization()
    x = layers.ReLU()(norm(layers.Conv2D(6, 3, padding="same", use_bias=False)(image)))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(other(conv(x))))
    model = keras.Model(image, last(x))
    for before, after in ((norm, conv), (other, last)):
        before.gamma.assign(spread)
        after.kernel.assign(after.kernel.numpy() / spread[:, None])
    return model
"""
TORCH = """
import torch
from torch import nn

def build():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2),
        nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )
    spread = torch.tensor([100.0, 1, 1, 1, 1, 1])
    for norm, layer in ((net[1], net[3]), (net[4], net[8])):
        norm.weight.data *= spread
        layer.weight.data /= spread.reshape(-1, *[1] * (layer.weight.ndim - 2))
    return net
"""
CODE = {"keras": KERAS, "torch": TORCH}
LENGTHS = {"keras": {"epochs": 6, "batch_size": 32}, "torch": {"epochs": 8, "batch_size": 24}}


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]))


@pytest.mark.needs_litert
@pytest.mark.parametrize("framework", [pytest.param(one, marks=getattr(pytest.mark, f"needs_{one}")) for one in CODE])
def test_what_was_trained_with_their_arithmetic_loses_less_to_integers(loaded, data_of, tmp_path, framework):
    path = tmp_path / "suffers.py"
    path.write_text(CODE[framework])
    shapes = (InputShape((1, 3, 8, 8)),) if framework == "torch" else ()
    source = loaded(path, function="build", input_shapes=shapes)
    inputs = scaled(source)
    data = data_of(inputs, *images(480))
    pixels, labels = images(300, seed=9)
    held = (pixels / 255).astype(np.float32)
    losses = {}
    for aware in (None, SCHEME):
        folder = tmp_path / str(aware)
        folder.mkdir()
        settings = Settings(**LENGTHS[framework], learning_rate=0.01, quantize_aware=aware)
        made = train(TrainRequest(source, inputs, source.outputs, data, settings), folder).request
        artifact = lower(
            LowerRequest(loaded(made.path, function="build", weights=made.weights, input_shapes=shapes), "litert"),
            folder,
        )
        opened = OpenArtifact(quantize(QuantizeRequest(artifact, Recipe(SCHEME), inputs), folder))
        computed = np.concatenate([opened.run([held[place : place + 1]])[0] for place in range(len(held))])
        opened.close()
        losses[aware] = cross_entropy(open_source(made).run([held])[0], labels), cross_entropy(computed, labels)
    drops = {aware: quantized - whole for aware, (whole, quantized) in losses.items()}
    assert drops[None] > 0.05
    assert drops[SCHEME] == pytest.approx(0, abs=1e-4)  # the weights that are left are in these integers already
    assert losses[SCHEME][1] < losses[None][1]
