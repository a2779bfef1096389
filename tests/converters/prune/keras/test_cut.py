"""Cutting Keras models: what is zero can be cut without a change, in every pattern, and all is as was predicted."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.records import ChannelCut, SourceRequest
from edgekit_runtime.errors import ConversionError, SourceError

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


def some_cuts(graph, part=0.4, seed=0):
    generator = np.random.default_rng(seed)
    cuts = []
    for group in graph.groups:
        left = generator.permutation(group.width)[max(1, round(group.width * part)) :]
        cuts.append(ChannelCut(group.name, tuple(sorted(left.tolist()))))
    return tuple(cut for cut in cuts if cut.kept)


def silence(live, cuts):
    """Make all weights zero that go with the channels to be cut."""
    from edgekit_converters.prune.keras import analyze
    from edgekit_converters.prune.keras.channels import weight_of
    from edgekit_converters.prune.keras.cut import removed_channels

    found = analyze.analyze_model(live)
    gone = removed_channels(found, cuts)
    for axis in found.tracing.weight_axes.values():
        weight = weight_of(axis.layer, axis.weight)
        mask = ~np.isin(found.tracing.partition.roots(axis.ids), list(gone))
        shape = np.ones(len(weight.shape), int)
        shape[axis.axis] = -1
        weight.assign(weight.numpy() * mask.reshape(shape))


def checked(model, tmp_path, part=0.4, seed=0):
    """Silence some channels of every group, cut them, and hold that nothing but sizes changed; gives what is left."""
    from edgekit_converters.load.keras_model import load_file
    from edgekit_converters.prune import CutChannelsRequest
    from edgekit_converters.prune.keras import stages

    live, source = opened(model, tmp_path)
    graph = stages.analyze(live)
    cuts = some_cuts(graph, part, seed)
    silence(live, cuts)
    arrays = samples(live)
    expected = live.run(arrays)
    request = stages.cut_channels(live, CutChannelsRequest(source, cuts), tmp_path)
    smaller = load_file(request)
    for ours, theirs in zip(smaller.run(arrays), expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * max(1.0, np.abs(theirs).max())
    widths = graph.widths | {one.group: len(one.kept) for one in cuts}
    after = stages.analyze(smaller)
    assert after.parameters == smaller.handle.model.count_params() == graph.parameters_at(widths) < graph.parameters
    assert after.macs_at(after.widths) == graph.macs_at(widths) < graph.macs_at(graph.widths)
    return graph, smaller, request, (arrays, expected)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_zero_is_cut_without_a_change(tmp_path, generation, pattern):
    graph, *_ = checked(built(generation, PATTERNS[pattern]), tmp_path)
    assert len(graph.groups) >= 1


def _drawn(seed):
    """A net drawn at random: every step takes one or two of the tensors there are."""

    def make(layers, x):
        draw = np.random.default_rng(seed)
        shared = layers.Conv2D(6, 3, padding="same", name="shared")
        known = [layers.Conv2D(6, 3, padding="same")(x)]
        for _ in range(8):
            a, b = known[draw.integers(len(known))], known[draw.integers(len(known))]
            kind = draw.choice(["conv", "add", "concat", "depthwise", "gate", "norm", "shared"])
            if kind == "conv":
                new = layers.Conv2D(int(draw.integers(4, 9)), int(draw.choice([1, 3])), padding="same")(a)
            elif kind == "add":
                new = layers.Add()([a, layers.Conv2D(a.shape[-1], 1)(b)])
            elif kind == "concat":
                new = layers.Concatenate()([a, b])
            elif kind == "depthwise":
                new = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=int(draw.integers(1, 3)))(a)
            elif kind == "gate":
                gate = layers.Dense(a.shape[-1], activation="sigmoid")(layers.GlobalAveragePooling2D()(b))
                new = layers.Multiply()([a, layers.Reshape((1, 1, a.shape[-1]))(gate)])
            elif kind == "norm":
                new = layers.ReLU()(layers.BatchNormalization()(a))
            else:
                new = shared(layers.Conv2D(5, 1)(a))
            known.append(new)
        end = layers.Flatten()(layers.MaxPooling2D(4)(known[-1])) if seed % 2 else layers.Flatten()(known[-1])
        return layers.Dense(3)(layers.Dense(5, activation="relu")(end))

    return make


@pytest.mark.parametrize("seed", range(6))
def test_nets_drawn_at_random_are_cut_without_a_change(tmp_path, seed):
    checked(built(GENERATIONS[seed % 2], _drawn(seed), seed), tmp_path, part=0.3 + 0.1 * seed % 0.5, seed=seed)


def test_a_whole_architecture_is_cut_without_a_change(tmp_path):
    import tf_keras

    net = tf_keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=4)
    graph, smaller, *_ = checked(net, tmp_path)
    assert [layer for layer, _ in graph.unprunable] == [graph.layer_costs[-1].layer]  # the classes
    assert smaller.handle.model.count_params() < 0.5 * graph.parameters


@pytest.mark.needs_data
def test_a_real_net_is_cut_without_a_change(tmp_path, shared_data):
    from edgekit_converters.load.keras_model import load_file

    path = shared_data / "mlperf_tiny" / "image_classification" / "pretrainedResnet.h5"
    live = load_file(SourceRequest("keras", path))
    graph, *_ = checked(live.handle.model, tmp_path)
    assert [group.width for group in graph.groups] == [16, 16, 32, 32, 64, 64]


ALONE = """
import importlib, sys, numpy as np
for generation, path in (("keras", sys.argv[1]), ("tf_keras", sys.argv[2])):
    model = importlib.import_module(generation).models.load_model(path, compile=False)
    np.save(path + ".npy", model(np.load(sys.argv[3]), training=False))
assert not any(name.startswith("edgekit") for name in sys.modules)
"""


def test_the_file_loads_without_edgekit(tmp_path):
    files, expected = [], []
    for generation, suffix in (("keras", ".keras"), ("tf_keras", ".h5")):
        folder = tmp_path / generation
        folder.mkdir()
        *_, request, (arrays, outputs) = checked(built(generation, _shared), folder)
        assert request.path.suffix == suffix
        files.append(str(request.path))
        expected.append(outputs[0])
    np.save(tmp_path / "inputs.npy", arrays[0])
    command = [sys.executable, "-c", ALONE, *files, str(tmp_path / "inputs.npy")]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=300)
    for path, outputs in zip(files, expected, strict=True):
        assert np.allclose(np.load(path + ".npy"), outputs, rtol=1e-4, atol=1e-5)


def test_a_normalization_over_channels_takes_its_statistics_over_those_left(tmp_path):
    """Where every channel is there twice, cutting the copies changes neither mean nor variance."""
    from edgekit_converters.load.keras_model import load_file
    from edgekit_converters.prune import CutChannelsRequest
    from edgekit_converters.prune.keras import stages

    def make(layers, x):
        x = layers.LayerNormalization()(layers.Conv2D(8, 3, name="first")(x))
        x = layers.GroupNormalization(2)(layers.Conv2D(8, 3, name="second")(x))
        return layers.Dense(2)(layers.GlobalAveragePooling2D()(x))

    model = built("keras", make)
    live, source = opened(model, tmp_path)
    norms = [layer for layer in model.layers if "normalization" in layer.name]
    convolutions = [model.get_layer("first"), model.get_layer("second")]
    for layer in (*convolutions, *norms):
        for weight in layer.weights:
            weight.assign(np.repeat(weight.numpy()[..., ::2], 2, axis=-1))
    for user in (convolutions[1], model.layers[-1]):
        kernel = user.kernel.numpy()
        kernel[..., 1::2, :] = 0
        user.kernel.assign(kernel)
    expected = live.run(samples(live))[0]
    graph = stages.analyze(live)
    assert [(group.name, group.width) for group in graph.groups] == [("first", 8), ("second", 4)]  # alike in both
    request = stages.cut_channels(
        live, CutChannelsRequest(source, (ChannelCut("first", (0, 2, 4, 6)), ChannelCut("second", (0, 2)))), tmp_path
    )
    assert np.allclose(load_file(request).run(samples(live))[0], expected, atol=1e-5)


@pytest.mark.parametrize("pattern", ["residual", "transposed", "in_divisions", "shared", "attentive"])
def test_macs_and_parameters_are_those_of_edgekit_layers(tmp_path, pattern):
    from edgekit_converters.prune.keras import stages
    from edgekit_converters.trace import keras_tensors

    live, _ = opened(built("keras", PATTERNS[pattern]), tmp_path)
    graph = stages.analyze(live)
    steps = keras_tensors.steps(live, [array[:1] for array in samples(live)]).steps
    told = {layer.name: layer.parameters for layer in steps if layer.parameters}
    for name, parameters in told.items():
        ours = [one.parameters(graph.widths) for one in graph.layer_costs if one.layer == name]
        assert sum(ours) == parameters, name
    weighted = [one for one in graph.layer_costs if one.operator != "attention"]
    assert sum(one.macs(graph.widths) for one in weighted) == sum(step.macs for step in steps)


def test_a_layer_nobody_knows_leaves_its_neighbours_whole_and_says_so(tmp_path):
    def make(layers, x):
        x = layers.Conv2D(6, 3, name="free")(x)
        x = layers.Conv2D(4, 3, name="before")(x)
        x = layers.LSTM(5, name="memory")(layers.Reshape((16, 4))(x))
        return layers.Dense(2, name="head")(layers.Dense(7, name="after")(x))

    graph, *_ = checked(built("keras", make), tmp_path)
    assert {group.name for group in graph.groups} == {"free", "after"}
    whole = dict(graph.unprunable)
    assert "LSTM" in whole["memory"]
    assert "'memory'" in whole["before"]
    assert "is an output of the model" in whole["head"]


def _open_net(tmp_path):
    return opened(built("keras", _residual), tmp_path)


def test_what_cannot_be_cut_is_refused(tmp_path):
    from edgekit_converters.prune import CutChannelsRequest
    from edgekit_converters.prune.keras import stages

    live, source = _open_net(tmp_path)
    name = stages.analyze(live).groups[0].name
    for cuts, says in (
        ((ChannelCut(name, ()),), "none of its 8 channels would be kept"),
        ((ChannelCut("nowhere", (0,)),), "no such group of channels; there are stem"),
        ((ChannelCut(name, tuple(range(8))),), "no channel would be removed"),
        ((ChannelCut(name, (0, 8)),), "8 is none of them"),
    ):
        with pytest.raises(ConversionError, match=says):
            stages.cut_channels(live, CutChannelsRequest(source, cuts), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_second_cut_counts_what_the_first_left(tmp_path):
    from edgekit_converters.prune.keras import analyze
    from edgekit_converters.prune.keras.cut import removed_channels

    found = analyze.analyze_model(_open_net(tmp_path)[0])
    roots = found.channels["stem"]
    gone = removed_channels(found, (ChannelCut("stem", (1, 3, 5, 7)), ChannelCut("stem", (1, 2))))
    assert gone == set(roots.tolist()) - {int(roots[3]), int(roots[5])}


def test_models_whose_channels_cannot_be_followed_are_refused(tmp_path):
    import keras

    from edgekit_converters.load.keras_model import from_model
    from edgekit_converters.prune.keras import stages
    from edgekit_converters.records import InputShape

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    said = SourceRequest("keras", tmp_path / "x.keras", input_shapes=(InputShape((1, 4)),))
    with pytest.raises(SourceError, match=r"Subclassed is a subclassed model.*keras.Model\(inputs, outputs\)"):
        stages.analyze(from_model(Subclassed(), said))
    alone, _ = opened(built("keras", lambda layers, x: layers.Dense(3, name="scores")(layers.Flatten()(x))), tmp_path)
    with pytest.raises(SourceError, match=r"no layer of the model can be pruned:\n  scores: its output is an output"):
        stages.analyze(alone)
    signature = replace(alone, handle=replace(alone.handle, model=None))
    with pytest.raises(SourceError, match=r"SavedModel.*give the .keras or .h5 file"):
        stages.analyze(signature)


OWN_LAYER = """
import keras

class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def build():
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(6, 3, name="inner")(x)
    y = Doubled(name="own")(keras.layers.Conv2D(4, 3, name="outer")(y))
    return keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
"""


def test_a_model_with_layers_of_its_own_is_opened_by_the_file_that_defines_them(tmp_path):
    from edgekit_converters.load import load, open_source
    from edgekit_converters.prune import AnalyzeRequest, CutChannelsRequest, analyze, cut_channels

    (tmp_path / "own_layers.py").write_text(OWN_LAYER)
    source = load(SourceRequest("python", tmp_path / "own_layers.py", "build"), tmp_path)
    graph = analyze(AnalyzeRequest(source), tmp_path)
    assert [group.name for group in graph.groups] == ["inner"]
    assert "'own'" in dict(graph.unprunable)["outer"]
    request = cut_channels(CutChannelsRequest(source, (ChannelCut("inner", (0, 2, 5)),)), tmp_path)
    assert request.custom_objects == Path(tmp_path / "own_layers.py")
    assert open_source(request).handle.model.get_layer("inner").filters == 3
