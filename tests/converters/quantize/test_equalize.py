"""Cross-layer equalization: two layers compute the same, and their channels become even."""

import numpy as np
import pytest

from edgekit_converters.quantize.equalize import RELU6_MAX, ChannelAxis, ChannelLink, equalize

CHANNELS = 12
LINK = ChannelLink(ChannelAxis("w1", 0), (ChannelAxis("b1", 0),), (ChannelAxis("w2", 1),))


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, RELU6_MAX)


@pytest.fixture
def layers():
    """Two dense layers, (out, in), whose channels in between differ by a factor of a million."""
    draw = np.random.default_rng(0).standard_normal
    spread = np.geomspace(1e-3, 1e3, CHANNELS)
    return {
        "w1": draw((CHANNELS, 8)) * spread[:, np.newaxis],
        "b1": draw(CHANNELS) * spread,
        "w2": draw((5, CHANNELS)) / spread,
    }


def compute(constants, x, f=relu):
    return f(x @ constants["w1"].T + constants["b1"]) @ constants["w2"].T


def copied(constants):
    return {key: array.copy() for key, array in constants.items()}


def test_the_function_stays_and_both_layers_become_even(layers):
    even, x = copied(layers), np.random.default_rng(1).standard_normal((100, 8))
    equalize(even, [LINK])
    np.testing.assert_allclose(compute(even, x), compute(layers, x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.abs(even["w1"]).max(axis=1), np.abs(even["w2"]).max(axis=0), rtol=1e-9)
    assert not np.allclose(even["b1"], layers["b1"])


def test_the_result_does_not_depend_on_the_initial_spread(layers):
    even, other = copied(layers), copied(layers)
    spread = np.random.default_rng(2).uniform(0.01, 100, CHANNELS)
    other["w1"] *= spread[:, np.newaxis]
    other["b1"] *= spread
    other["w2"] /= spread
    for constants in (even, other):
        equalize(constants, [LINK])
    for key, array in even.items():
        np.testing.assert_allclose(other[key], array, rtol=1e-9)


def test_channels_without_producing_or_consuming_weights_stay(layers):
    layers["w1"][3] = 0
    layers["w2"][:, 5] = 0
    even = copied(layers)
    equalize(even, [LINK])
    for channel in (3, 5):
        np.testing.assert_array_equal(even["w1"][channel], layers["w1"][channel])
        assert even["b1"][channel] == layers["b1"][channel]
        np.testing.assert_array_equal(even["w2"][:, channel], layers["w2"][:, channel])


def test_a_bias_without_weights_does_not_take_the_range(layers):
    layers["w1"][3] *= 1e-10  # what folding a normalization that switched the channel off leaves
    layers["b1"][3] = 0.7
    x, even = np.random.default_rng(1).standard_normal((100, 8)), copied(layers)
    equalize(even, [LINK])
    np.testing.assert_allclose(compute(even, x), compute(layers, x), rtol=1e-9, atol=1e-9)
    assert np.abs(even["b1"][3]) < 10 * np.abs(np.delete(even["b1"], 3)).max()


def test_of_several_consumers_the_largest_weights_count(layers):
    layers["w3"] = 50 * layers["w2"][:2]
    x, even = np.random.default_rng(1).standard_normal((100, 8)), copied(layers)
    equalize(even, [ChannelLink(LINK.weights, LINK.biases, (*LINK.consumers, ChannelAxis("w3", 1)))])
    np.testing.assert_allclose(compute(even, x), compute(layers, x), rtol=1e-9, atol=1e-9)
    other, wide = copied(layers) | {"w2": layers["w3"]}, copied(even) | {"w2": even["w3"]}
    np.testing.assert_allclose(compute(wide, x), compute(other, x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.abs(even["w1"]).max(axis=1), np.abs(even["w3"]).max(axis=0), rtol=1e-9)


def test_relu6_is_scaled_through_only_when_six_is_never_reached(layers):
    scale = np.where(np.arange(CHANNELS) < 6, 1e-2, 10)
    layers["w1"] = np.abs(layers["w1"]) / np.abs(layers["w1"]).sum(axis=1, keepdims=True) * scale[:, np.newaxis]
    layers["b1"] *= 0
    even, x = copied(layers), np.random.default_rng(1).uniform(0, RELU6_MAX, (500, 8))
    x[:8] = RELU6_MAX * np.eye(8)
    x[8] = RELU6_MAX
    equalize(even, [ChannelLink(LINK.weights, LINK.biases, LINK.consumers, relu6=True)])
    np.testing.assert_allclose(compute(even, x, relu6), compute(layers, x, relu6), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(even["w1"][6:], layers["w1"][6:])
    assert np.all(even["w1"][:6] > 1.5 * layers["w1"][:6])


def test_a_layer_between_two_others_converges_in_both_links(layers):
    layers["w3"] = np.random.default_rng(3).standard_normal((4, 5)) * np.geomspace(1, 1e4, 5)
    even = copied(layers)
    equalize(even, [LINK, ChannelLink(ChannelAxis("w2", 0), (), (ChannelAxis("w3", 1),))])
    for makes, takes in (("w1", "w2"), ("w2", "w3")):
        np.testing.assert_allclose(np.abs(even[makes]).max(axis=1), np.abs(even[takes]).max(axis=0), rtol=1e-2)
