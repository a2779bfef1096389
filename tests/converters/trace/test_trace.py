"""Every layer of real kinds of nets finds its nodes, in both formats."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest

from edgekit_converters.records import InputShape, ProbeRequest
from edgekit_converters.trace import MatchRequest, TraceRequest, match, trace

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]


@pytest.fixture(scope="module")
def mapped(lowered, tmp_path_factory):
    """Trace a source and match it in an engine's artifact, each once; return the layers by name, and the artifact."""

    @functools.cache
    def traced(source):
        from edgekit_converters.verify.probe import probe

        folder = tmp_path_factory.mktemp("traced")
        samples = probe(ProbeRequest(source, source.inputs), folder)
        return samples, trace(TraceRequest(source, samples), folder)

    @functools.cache
    def run(source, engine):
        artifact = lowered(source, engine)
        found = match(MatchRequest(artifact, *traced(source)), tmp_path_factory.mktemp("matched"))
        return SimpleNamespace(layers={layer.name: layer for layer in found.layers}, found=found, artifact=artifact)

    return run


def kinds(artifact):
    """Node name → operator, of an artifact."""
    if artifact.engine == "litert":
        from ai_edge_litert.tools import flatbuffer_utils

        from edgekit_converters.formats.tflite_graph import node_name

        model = flatbuffer_utils.read_model(str(artifact.files[0]))
        graph = model.subgraphs[0]
        name_of = flatbuffer_utils.opcode_to_name
        return {node_name(graph, one): name_of(model, one.opcodeIndex) for one in graph.operators}
    import openvino as ov

    model = ov.Core().read_model(artifact.files[0])
    return {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}


def mobile(keras, layers):
    """A stem, a block with squeeze and excite, a nested model that is called twice, and a head."""
    image = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="stem_bn")(layers.Conv2D(8, 3, name="stem", use_bias=False)(image))
    x = layers.Activation("hard_silu", name="stem_swish")(x)
    y = layers.BatchNormalization(name="depthwise_bn")(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x))
    y = layers.ReLU(max_value=6.0, name="relu6")(y)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(y)
    gate = layers.Conv2D(4, 1, activation="relu", name="reduce")(gate)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid", name="expand")(gate)
    y = layers.Multiply(name="excite")([y, gate])
    y = layers.Conv2D(8, 1, name="project", bias_initializer="random_normal")(y)
    x = layers.Add(name="residual")([x, y])
    inner = keras.Input((14, 14, 8))
    twice = keras.Model(inner, layers.Conv2D(8, 3, padding="same", activation="relu", name="shared")(inner), name="net")
    x = layers.Dropout(0.5, name="drop")(twice(twice(x)))
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(name="pool")(x))
    return keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))


@pytest.fixture(scope="module")
def keras_source(tmp_path_factory, loaded):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = mobile(keras, layers)
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):  # fresh ones compute nothing
            layer.set_weights([0.5 + generator.random(weight.shape) for weight in layer.get_weights()])
    path = tmp_path_factory.mktemp("traced") / "mobile.keras"
    model.save(path)
    return loaded(path)


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_a_keras_net(keras_source, mapped, engine):
    made = mapped(keras_source, engine)
    layers, kind = made.layers, kinds(made.artifact)
    assert made.found.unmatched == ()
    assert {name for name, layer in layers.items() if not layer.nodes} <= {"drop", "flat"}

    def operators(name):
        return {kind[node].replace("_", "").replace("2D", "").upper() for node in layers[name].nodes}

    for name, wanted in {
        "stem": {"CONV", "CONVOLUTION"},
        "depthwise": {"DEPTHWISECONV", "GROUPCONVOLUTION"},
        "reduce": {"CONV", "CONVOLUTION"},
        "expand": {"CONV", "CONVOLUTION"},
        "project": {"CONV", "CONVOLUTION"},
        "net/shared": {"CONV", "CONVOLUTION"},
        "head": {"FULLYCONNECTED", "MATMUL"},
        "pool": {"MAXPOOL"},
        "residual": {"ADD"},
        "excite": {"MUL", "MULTIPLY"},
    }.items():
        assert operators(name) & wanted, name
    assert operators("head") & {"SOFTMAX"}
    assert set(layers["stem_bn"].nodes) <= set(layers["stem"].nodes)
    weighted = [layer.nodes for layer in made.found.layers if layer.weighted]
    assert sum(map(len, weighted)) == len({node for nodes in weighted for node in nodes})  # none is of two
    assert sum(kind[node] in ("CONV_2D", "Convolution") for node in layers["net/shared"].nodes) == 2


@pytest.mark.needs_keras
def test_parameters_macs_and_shapes(keras_source, mapped):
    layers = mapped(keras_source, "litert").layers
    found = {name: (one.operator, one.shape, one.parameters, one.macs) for name, one in layers.items()}
    assert found["stem"] == ("Conv2D", (1, 14, 14, 8), 216, 14 * 14 * 216)
    assert found["depthwise"] == ("DepthwiseConv2D", (1, 14, 14, 8), 80, 14 * 14 * 72)
    assert found["stem_bn"] == ("BatchNormalization", (1, 14, 14, 8), 32, 0)
    assert found["net/shared"] == ("Conv2D", (1, 14, 14, 8), 584, 2 * 14 * 14 * 576)
    assert found["head"] == ("Dense", (1, 5), 5 * 393, 5 * 392)


@pytest.fixture(scope="module")
def loop_source(tmp_path_factory, loaded):
    """Attention, followed by an LSTM."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    series = keras.Input((5, 3))
    x = layers.LSTM(4, name="lstm")(layers.MultiHeadAttention(2, 6, name="attention")(series, series))
    path = tmp_path_factory.mktemp("loop") / "loop.keras"
    keras.Model(series, layers.Dense(2, name="head", bias_initializer="random_normal")(x)).save(path)
    return loaded(path)


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_loops_and_attention(loop_source, mapped, engine):
    made = mapped(loop_source, engine)
    assert made.found.unmatched == ()
    assert made.layers.keys() == {*(f"attention/{one}" for one in ("query", "key", "value", "attention_output"))} | {
        "lstm",
        "head",
    }
    assert (made.layers["attention/query"].parameters, made.layers["attention/query"].macs) == (48, 5 * 36)
    assert (made.layers["lstm"].parameters, made.layers["lstm"].macs) == (128, 5 * 112)
    loops = [node for node, kind in kinds(made.artifact).items() if kind in ("WHILE", "TensorIterator", "Loop")]
    assert set(loops) <= set(made.layers["lstm"].nodes)


@pytest.mark.needs_keras
def test_inner_calls_of_a_layer_with_weights_belong_to_the_layer(loaded, mapped, tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    causal = layers.Conv1D(8, 3, padding="causal", name="causal")  # calls an operation that pads
    active = layers.Conv1D(6, 3, activation=layers.ReLU(name="relu"), name="active")
    head = layers.Dense(2, name="head")
    keras.Sequential([keras.Input((16, 4)), causal, active, layers.Flatten(name="flat"), head]).save(
        tmp_path / "series.keras"
    )
    made = mapped(loaded(tmp_path / "series.keras"), "litert")
    found = {name: (one.parameters, one.macs) for name, one in made.layers.items()}
    assert found == {"causal": (104, 16 * 96), "active": (150, 14 * 144), "flat": (0, 0), "head": (170, 168)}
    assert made.found.unmatched == ()


@pytest.fixture(scope="module")
def saved_source(tmp_path_factory, keras_source, loaded):
    """The same net as a SavedModel."""
    import keras

    folder = tmp_path_factory.mktemp("saved") / "model"
    keras.saving.load_model(keras_source.request.path).export(folder, verbose=False)
    return loaded(folder)


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_a_saved_model_by_its_operations(saved_source, mapped, engine):
    made = mapped(saved_source, engine)
    assert made.found.unmatched == ()
    assert sum(layer.weighted for layer in made.found.layers) == 8
    assert sum(layer.macs for layer in made.found.layers if layer.operator == "MatMul") == 5 * 392


def torch_net():
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
            self.bn = nn.BatchNorm2d(8)

        def forward(self, x):
            return nn.functional.hardswish(self.bn(self.conv(x))) + x

    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU6()]
    net = nn.Sequential(*stem, Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh ones compute nothing
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module", params=["module", "program"])
def torch_source(request, loaded, tmp_path_factory):
    import torch

    folder, net = tmp_path_factory.mktemp("torch"), torch_net()
    if request.param == "program":
        torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 17, 17),)), folder / "net.pt2")
        return loaded(folder / "net.pt2")
    (folder / "net.py").write_text(f"from {__name__} import torch_net as build")
    return loaded(folder / "net.py", function="build", input_shapes=(InputShape((1, 3, 17, 17)),))


@pytest.mark.needs_torch
@pytest.mark.parametrize("engine", ENGINES)
def test_a_torch_net(torch_source, mapped, engine):
    made = mapped(torch_source, engine)
    layers = made.layers
    assert made.found.unmatched == ()
    assert {"0", "1", "2", "3.conv", "3.bn", "3.hardswish", "3.add", "4.conv", "4.add", "5", "7"} <= layers.keys()
    assert [layers[name].operator for name in ("0", "1", "3.conv", "7")] == [
        "Conv2d",
        "BatchNorm2d",
        "Conv2d",
        "Linear",
    ]
    assert (layers["0"].parameters, layers["0"].macs) == (224, 8 * 8 * 216)
    assert (layers["3.conv"].parameters, layers["3.conv"].macs) == (72, 8 * 8 * 72)
    assert (layers["7"].parameters, layers["7"].macs) == (45, 40)
    assert set(layers["3.conv"].nodes) & set(layers["3.bn"].nodes)
    assert not set(layers["3.conv"].nodes) & set(layers["4.conv"].nodes)
    kind = kinds(made.artifact)
    convolutions = [node for node in kind if kind[node] in ("DEPTHWISE_CONV_2D", "GroupConvolution")]
    assert {name for name in ("3.conv", "4.conv") for node in convolutions if node in layers[name].nodes} == {
        "3.conv",
        "4.conv",
    }


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_a_tflite_is_its_own_layers(keras_source, loaded, mapped, engine):
    made = mapped(loaded(mapped(keras_source, "litert").artifact.files[0]), engine)
    assert made.found.unmatched == ()
    assert sum(layer.weighted for layer in made.found.layers) == 8
    if engine == "litert":
        assert all(layer.nodes == (layer.name,) for layer in made.found.layers)


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
def test_an_ir_is_its_own_layers(keras_source, loaded, mapped):
    made = mapped(loaded(mapped(keras_source, "openvino").artifact.files[0]), "openvino")
    assert all(layer.nodes == (layer.name,) for layer in made.found.layers)
    assert sum(layer.weighted for layer in made.found.layers) == 8


@pytest.mark.needs_openvino
def test_a_deep_ir(tmp_path):
    import openvino as ov
    from openvino import opset13

    from edgekit_converters.formats.ir_graph import constants

    x = parameter = opset13.parameter([1, 2], np.float32, "x")
    half = opset13.convert(opset13.constant(np.float16(0.5)), "f32")
    half.set_friendly_name("half")
    for _ in range(2000):  # deeper than Python may call itself
        x = opset13.add(x, half)
    found = constants(ov.Model([x], [parameter]))
    assert "half" in found
    assert len(found) == 2
