"""Leaving out branches of Keras models: what is left computes what the whole does when they add nothing."""

import importlib

import numpy as np
import pytest

from edgekit_converters.records import ChannelCut, Source, SourceRequest
from edgekit_runtime.errors import ConversionError

pytestmark = pytest.mark.needs_keras


def opened(model, tmp_path):
    """What the stages are given: the open model, and its Source."""
    from edgekit_converters.load.keras_model import from_model

    request = SourceRequest("keras", tmp_path / "model.keras")
    live = from_model(model, request)
    return live, Source(request, "keras", live.inputs, live.outputs, (False,) * len(live.inputs))


def blocks(generation):
    """Two blocks of one stage, the first with an operator for its addition, and one with a shortcut of its own."""
    keras = importlib.import_module(generation)
    layers = keras.layers
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    for name in ("one", "two"):
        y = layers.Conv2D(12, 3, padding="same", activation="relu", name=f"{name}_in")(x)
        y = layers.BatchNormalization(name=f"{name}_norm")(layers.Conv2D(8, 3, padding="same", name=f"{name}_out")(y))
        x = layers.Activation("relu")(layers.Add(name=name)([x, y]))
    y = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="three_in")(x)
    y = layers.BatchNormalization(name="three_norm")(layers.Conv2D(10, 3, padding="same", name="three_out")(y))
    x = layers.Add(name="three")([layers.Conv2D(10, 1, strides=2, name="short")(x), y])
    x = layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(generator.uniform(0.1, 0.4, weight.shape))
    return model


@pytest.mark.parametrize("generation", ["keras", "tf_keras"])
def test_a_model_is_wired_past_its_branches(generation, tmp_path):
    from edgekit_converters.load.keras_model import load_file
    from edgekit_converters.prune import CutChannelsRequest, DropBranchesRequest
    from edgekit_converters.prune.keras import stages

    live, source = opened(blocks(generation), tmp_path)
    graph = stages.analyze(live)
    assert {one.name: one.groups for one in graph.branches} == {
        "one": ("one_in",),
        "two": ("two_in",),
        "three:1": ("three_in",),
    }
    short = load_file(stages.drop_branches(live, DropBranchesRequest(source, ("one", "three:1")), tmp_path))
    for name in ("one_norm", "three_norm"):  # from here on they add nothing
        for weight in live.handle.model.get_layer(name).trainable_weights:
            weight.assign(np.zeros(weight.shape))
    images = np.random.default_rng(1).random((3, 8, 8, 3), np.float32)
    np.testing.assert_allclose(short.run([images])[0], live.run([images])[0], rtol=1e-5)
    after = stages.analyze(short)
    names = [one.layer for one in after.layer_costs]
    assert not any(name.startswith(("one_", "three_")) for name in names) and {"two_in", "short"} <= set(names)
    assert after.parameters == short.handle.model.count_params() < graph.parameters
    left, source = opened(short.handle.model, tmp_path)
    request = stages.cut_channels(left, CutChannelsRequest(source, (ChannelCut("two_in", (0, 3, 4)),)), tmp_path)
    assert load_file(request).handle.model.get_layer("two_in").filters == 3  # it can be cut as any other
    with pytest.raises(ConversionError, match="there is no branch 'four'"):
        stages.drop_branches(live, DropBranchesRequest(source, ("four",)), tmp_path)


def test_what_is_nested_stays(tmp_path):
    import keras

    from edgekit_converters.prune.keras import stages

    image = keras.Input((8, 8, 3))
    inner = blocks("keras")
    live, _ = opened(keras.Model(image, keras.layers.Dense(2)(inner(image))), tmp_path)
    assert stages.analyze(live).branches == ()
