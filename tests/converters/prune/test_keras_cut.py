"""Cutting Keras models: what is zero can be cut without a change, in every pattern, and all is as was predicted."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from edgekit_converters.records import Cut, SourceRequest

pytestmark = pytest.mark.needs_keras

GENERATIONS = ("keras", "tf_keras")


def _residual(layers, x):
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(x))
    x = layers.Activation("relu")(layers.Add()([x, y]))
    y = layers.Conv2D(6, 1)(layers.AveragePooling2D(2)(x))
    z = layers.Conv2D(6, 3, strides=2, padding="same")(x)
    return layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(layers.Subtract()([y, z])))


def _concatenated(layers, x):
    a = layers.Conv2D(4, 3, padding="same")(x)
    b = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    both = layers.BatchNormalization()(layers.Concatenate()([a, b]))
    c = layers.Conv2D(5, 1)(both)
    d = layers.Conv2D(10, 1)(layers.Concatenate()([c, both]))
    d = layers.Add()([d, both])  # whose first channels are those of a, and the others those of b
    return layers.Dense(3)(layers.GlobalMaxPooling2D()(layers.Concatenate()([d, x])))


def _depthwise(layers, x):
    x = layers.Conv2D(6, 1)(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu")(x)
    x = layers.ZeroPadding2D()(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(7, 3, depth_multiplier=2)(x)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(x)
    x = layers.PReLU(alpha_initializer="random_normal")(layers.Dropout(0.3)(x))
    return layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def _flattened(layers, x):
    x = layers.MaxPooling2D()(layers.Conv2D(5, 3, activation="relu")(x))
    x = layers.Dense(9, activation="tanh")(layers.Flatten()(x))
    x = layers.Reshape((3, 3))(layers.Dense(9)(x))  # mixes neurons with positions: they stay
    x = layers.Dense(7)(layers.Permute((2, 1))(x))
    return layers.Dense(2)(layers.Flatten()(x))


def _squeezed(layers, x):
    x = layers.Conv2D(8, 3, padding="same")(x)
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
    x = layers.Multiply()([x, gate])
    x = layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid")(x)])  # one channel for all
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def _transposed(layers, x):
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(x)
    y = layers.UpSampling2D()(layers.Conv2D(4, 1)(x))
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    return layers.Conv2D(2, 1)(layers.Maximum()([layers.Cropping2D(1)(x), layers.Cropping2D(1)(y)]))


def _in_divisions(layers, x):
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Conv2D(12, 3, groups=2, activation="relu", padding="same")(x)
    return layers.Dense(3)(layers.Flatten()(layers.Conv2D(4, 1)(x)))


def _one_dimension(layers, x):
    x = layers.Reshape((64, 3))(x)
    x = layers.MaxPooling1D()(layers.Conv1D(6, 5, padding="causal", dilation_rate=2)(x))
    x = layers.SeparableConv1D(5, 3)(layers.DepthwiseConv1D(3)(layers.LeakyReLU()(x)))
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(x))


def _shared(layers, x):
    keras = importlib.import_module(layers.__name__.split(".")[0])
    conv, norm = layers.Conv2D(6, 3, padding="same", activation="relu"), layers.BatchNormalization()
    a = norm(conv(layers.Conv2D(5, 1)(x)))
    b = norm(conv(layers.Conv2D(5, 1)(x)))
    inner = keras.Input((8, 8, 6), name="inner")
    y = layers.Conv2D(6, 3, padding="same")(layers.Conv2D(4, 1, activation="relu")(inner))
    block = keras.Model(inner, layers.Add()([y, inner]), name="block")
    tail = keras.Sequential([layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(6), layers.ReLU()], name="tail")
    return layers.Dense(2)(layers.Concatenate()([tail(block(a)), tail(block(block(b)))]))


def _attentive(layers, x):
    x = layers.Dense(8)(layers.Reshape((16, 12))(x))
    y = layers.MultiHeadAttention(4, 3, name="attention")(x, x)
    x = layers.Add()([x, y])
    y = layers.MultiHeadAttention(2, 4, value_dim=5, output_shape=6, name="cross")(x, layers.Dense(5)(x))
    return layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.Dense(7, activation="gelu")(y)))


def _operators(layers, x):
    x = layers.Conv2D(8, 3)(x)
    x = layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0) * x  # as MobileNetV3 is written
    return layers.Dense(2)(layers.Flatten()(x))


PATTERNS = {
    function.__name__.strip("_"): function
    for function in (
        *(_residual, _concatenated, _depthwise, _flattened, _squeezed, _transposed, _in_divisions, _one_dimension),
        *(_shared, _attentive, _operators),
    )
}


def built(generation, make, seed=0):
    """A model whose weights are all random, statistics and biases too, from images of 8x8."""
    keras = importlib.import_module(generation)
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    return randomized(keras.Model(image, make(keras.layers, image)), seed)


def randomized(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        values = generator.uniform(0.5, 1.5, weight.shape) * np.where(generator.random(weight.shape) < 0.5, -1, 1)
        kernel = len(weight.shape) > 1
        fan_in = np.prod(weight.shape[:-1]) if kernel else 1
        weight.assign(values / np.sqrt(fan_in) if kernel else np.abs(values))
    return model


def opened(model, tmp_path):
    """What the stages are given: the open model, and its Source."""
    from edgekit_converters.load.keras_model import from_model
    from edgekit_converters.records import Source

    request = SourceRequest("keras", tmp_path / "model.keras")
    live = from_model(model, request)
    return live, Source(request, "keras", live.inputs, live.outputs, (False,) * len(live.inputs))


def samples(live, count=3):
    generator = np.random.default_rng(1)
    return [generator.uniform(0, 1, (count, *spec.shape[1:])).astype(spec.dtype) for spec in live.inputs]


def some_cuts(anatomy, part=0.4, seed=0):
    generator = np.random.default_rng(seed)
    cuts = []
    for group in anatomy.groups:
        left = generator.permutation(group.width)[max(1, round(group.width * part)) :]
        cuts.append(Cut(group.name, tuple(sorted(left.tolist()))))
    return tuple(cut for cut in cuts if cut.kept)


def silence(live, cuts):
    """Make all weights zero that go with the channels to be cut."""
    from edgekit_converters.prune import keras_anatomy
    from edgekit_converters.prune.keras_channels import weight_of
    from edgekit_converters.prune.keras_cut import removed

    found = keras_anatomy.dissect(live)
    gone = removed(found, cuts)
    for slot in found.tracing.slots.values():
        weight = weight_of(slot.layer, slot.weight)
        mask = ~np.isin(found.tracing.partition.roots(slot.ids), list(gone))
        lying = np.ones(len(weight.shape), int)
        lying[slot.axis] = -1
        weight.assign(weight.numpy() * mask.reshape(lying))


def checked(model, tmp_path, part=0.4, seed=0):
    """Silence some channels of every group, cut them, and hold that nothing but sizes changed; gives what is left."""
    from edgekit_converters.load.keras_model import load_file
    from edgekit_converters.prune import CutRequest, keras_models

    live, source = opened(model, tmp_path)
    anatomy = keras_models.dissect(live)
    cuts = some_cuts(anatomy, part, seed)
    silence(live, cuts)
    arrays = samples(live)
    expected = live.run(arrays)
    request = keras_models.cut(live, CutRequest(source, cuts), tmp_path)
    smaller = load_file(request)
    for ours, theirs in zip(smaller.run(arrays), expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * max(1.0, np.abs(theirs).max())
    widths = anatomy.widths | {one.group: len(one.kept) for one in cuts}
    after = keras_models.dissect(smaller)
    assert after.parameters == smaller.handle.model.count_params() == anatomy.parameters_at(widths) < anatomy.parameters
    assert after.macs_at(after.widths) == anatomy.macs_at(widths) < anatomy.macs_at(anatomy.widths)
    return anatomy, smaller, request, (arrays, expected)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_zero_is_cut_without_a_change(tmp_path, generation, pattern):
    anatomy, *_ = checked(built(generation, PATTERNS[pattern]), tmp_path)
    assert len(anatomy.groups) >= 1
