"""Layers that were spoiled on purpose are found, in both formats, with correct figures."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Layer, Recipe
from edgekit_converters.records import ProbeRequest, QuantizeRequest
from edgekit_converters.sensitivity import SensitivityRequest, sensitivity, units_of
from edgekit_converters.trace import MatchRequest, TraceRequest, match, trace

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]
NAMES = ["first", "second", "third", "fourth"]


def net(keras, layers):
    """Four convolutions, a shortcut, a branch and two outputs."""
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU(name="first_relu")(layers.BatchNormalization(name="first_bn")(x))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", bias_initializer="random_normal", name="second")(x)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", bias_initializer="random_normal", name="third")(x)
    x = layers.Add(name="shortcut")([x, y])
    x = layers.Conv2D(8, 3, bias_initializer="random_normal", name="fourth")(x)
    pooled = layers.GlobalAveragePooling2D(name="pool")(x)
    scores = layers.Dense(5, bias_initializer="random_normal", name="head")(pooled)
    return keras.Model(image, [scores, layers.MaxPooling2D(name="map")(x)])


def spoil_weights(layer):
    """Weights too unequal for one scale: the large ones multiply a channel that is always zero."""
    kernel, *rest = layer.get_weights()
    kernel[:, :, 0, :] = 300 * np.abs(kernel).max()
    layer.set_weights([kernel, *rest])


def kill_channel(layer):
    """Make the first channel of a layer zero after its activation."""
    kernel, bias = layer.get_weights()
    kernel[..., 0], bias[0] = 0, -1
    layer.set_weights([kernel, bias])


@pytest.fixture
def sensed(loaded, lowered, prepared, tmp_path):
    """Measure the sensitivity of a Keras model; return the result, and functions to quantize and measure again."""

    def run(model, engine, scheme="int8-static", **options):
        from edgekit_converters.verify.probe import probe

        model.save(tmp_path / "net.keras")
        source = loaded(tmp_path / "net.keras")
        rng = np.random.default_rng(1)
        data = prepared(source, rng.standard_normal((24, *source.inputs[0].shape[1:])).astype(np.float32))
        artifact = lowered(source, engine)
        samples = probe(ProbeRequest(source, source.inputs), tmp_path)
        layers = match(MatchRequest(artifact, samples, trace(TraceRequest(source, samples), tmp_path)), tmp_path).layers

        def made(nodes=()):
            folder = tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}"
            folder.mkdir()
            return quantize(QuantizeRequest(artifact, Recipe(scheme), source.inputs, data, tuple(nodes)), folder)

        def again(quantized):
            return sensitivity(
                SensitivityRequest(artifact, quantized, layers, source.inputs, data, **options), tmp_path
            )

        found = again(made())
        return SimpleNamespace(
            found=found,
            by_layer={layer.layer: layer for layer in found.layers},
            layers={layer.name: layer for layer in layers},
            made=made,
            again=again,
            source=source,
            data=data,
        )

    return run


@pytest.fixture
def model():
    import keras

    keras.utils.set_random_seed(0)
    return net(keras, keras.layers)


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_every_layer_of_an_ordinary_net(sensed, model, engine):
    made = sensed(model, engine)
    assert made.found.engine == engine and made.found.samples == 24
    assert made.by_layer.keys() >= {"first", "second", "third", "fourth", "head"}
    merged = "first_relu" in made.by_layer["first"].merged_layers
    assert merged == (engine == "litert")  # it is a part of the convolution there
    assert made.by_layer["first"].operator == "Conv2D" and made.by_layer["first"].macs == 12 * 12 * 9 * 24
    for name in NAMES:
        layer = made.by_layer[name]
        assert 25 < layer.own_db < 60 and layer.layer_db <= layer.own_db + 1 and 20 < layer.alone_db < 60, layer
    # errors add up: deeper layers inherit more than they make, and the whole is worse than any part
    assert made.by_layer["fourth"].layer_db < made.by_layer["fourth"].own_db - 2
    assert made.found.model_db < min(layer.alone_db for layer in made.found.layers)
    ranks = [layer.alone_db for layer in made.found.layers]
    assert ranks == sorted(ranks)


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheme", ["int8-static", "int8-weights"])
def test_a_layer_with_spoiled_weights_is_the_most_sensitive(sensed, model, engine, scheme):
    kill_channel(model.get_layer("second"))
    spoil_weights(model.get_layer("third"))
    made = sensed(model, engine, scheme)
    worst, *others = made.found.layers
    assert worst.layer == "third"
    assert worst.own_db < 10 and all(layer.own_db > 20 for layer in others)
    # what inherits its error is not blamed for it
    assert made.by_layer["fourth"].layer_db < made.by_layer["fourth"].own_db - 6
    kept = made.again(made.made([(node, "float32") for node in made.layers["third"].nodes]))
    assert kept.model_db > made.found.model_db + 6


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_alone_db_agrees_with_an_artifact_of_which_only_this_layer_is_quantized(sensed, model, engine):
    # inputs far from zero, and weights that cancel: rounded, they shift the mean, and IR corrects biases for that
    kernel, bias = model.get_layer("second").get_weights()
    model.get_layer("second").set_weights([kernel - kernel.mean((0, 1, 2)), bias])
    model.get_layer("first_bn").set_weights(np.array([[1.0] * 8, [9.0] * 8, [0.0] * 8, [1.0] * 8]))
    made = sensed(model, engine)
    for name in ("first", "second", "third"):
        others = [node for layer in made.layers.values() for node in layer.nodes]
        kept = [(node, "float32") for node in others if node not in made.layers[name].nodes]
        assert made.by_layer[name].alone_db == pytest.approx(made.again(made.made(kept)).model_db, abs=4), name


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_a_tensor_of_too_wide_a_range_counts_for_its_consumers(sensed, model, engine):
    kernel, bias = model.get_layer("second").get_weights()
    bias[0] = 300  # a channel far above all others, which nobody needs
    model.get_layer("second").set_weights([kernel, bias])
    for name in ("third", "fourth"):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:, :, 0, :] = 0
        model.get_layer(name).set_weights([kernel, bias])
    made = sensed(model, engine)
    # who makes it is harmed in TFLite, which rounds there; IR rounds only where it is taken
    wanted = {"third", "shortcut", "fourth"} | ({"second"} if engine == "litert" else set())
    worst = {layer.layer for layer in made.found.layers[: len(wanted)]}
    assert worst == wanted
    kept = [(node, "float32") for name in worst for node in made.layers[name].nodes]
    assert made.again(made.made(kept)).model_db > made.found.model_db + 6


def layer(name, *nodes, weighted=True):
    return Layer(name, "Dense", (1, 2), 4 if weighted else 0, 4 if weighted else 0, nodes)


def test_layers_that_share_nodes_are_one_unit():
    conv, norm = layer("conv", "a", "b"), layer("norm", "b", weighted=False)
    drop, add, relu = layer("drop"), layer("add", "c"), layer("relu", "d", "c", weighted=False)
    assert units_of([conv, norm, drop, add, relu]) == [(conv, norm), (add, relu)]
    apart = [layer("x", "1"), layer("y", "2"), layer("z", "1", "2")]
    assert units_of(apart) == [tuple(apart)]
