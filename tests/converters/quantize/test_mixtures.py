"""Several schemes in one artifact: the file has the scheme that a recipe's rule gives to each layer."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.formats import FORMATS, format_of
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe, Rule, resolve
from edgekit_converters.records import ProbeRequest, QuantizeRequest
from edgekit_converters.trace import MatchRequest, TraceRequest, match, trace
from edgekit_runtime.errors import ConversionError

pytestmark = pytest.mark.needs_keras

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]
# the worst scheme of the mixture is the bound: int4 weights alone keep 18 dB of this net
LEAST_DB = 13.0


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A convolution, two dense layers, the first with an outlier weight, and a softmax."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv", bias_initializer="random_normal")(image)
    x = layers.Dense(16, activation="relu", name="wide")(layers.Flatten()(x))
    x = layers.Dense(10, name="head", bias_initializer="random_normal")(x)
    model = keras.Model(image, layers.Softmax(name="probability")(x))
    kernel, bias = model.get_layer("wide").get_weights()
    kernel[0] *= 100
    model.get_layer("wide").set_weights([kernel, bias])
    path = tmp_path_factory.mktemp("mixed") / "net.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def net(file, loaded, lowered, prepared, compared, tmp_path_factory):
    """Quantize the net by a recipe, once; return the artifact and its parity."""
    from edgekit_converters.verify.probe import probe

    source = loaded(file)
    data = prepared(source, np.random.default_rng(1).standard_normal((32, 8, 8, 3)).astype(np.float32))
    folder = tmp_path_factory.mktemp("traced")
    samples = probe(ProbeRequest(source, source.inputs, (data,)), folder)
    traced = trace(TraceRequest(source, samples), folder)
    floats, made = {}, {}

    def make(engine, recipe):
        if engine not in floats:
            artifact = lowered(source, engine)
            floats[engine] = artifact, match(MatchRequest(artifact, samples, traced), folder).layers
        artifact, layers = floats[engine]
        if (engine, recipe) not in made:
            request = QuantizeRequest(artifact, recipe, source.inputs, data, resolve(recipe, layers))
            quantized = quantize(request, tmp_path_factory.mktemp("made"))
            made[engine, recipe] = quantized, compared(source, quantized, data).worst.snr_db
        return made[engine, recipe]

    return make


def keeping(*layers, scheme="float32", base="int8-static", **more):
    return Recipe(base, rules=(Rule(scheme, layers=layers),), **more)


def weights_of(made):
    """Return the kernels of an artifact in order: (operator, dtype of weights, dtypes of activations)."""
    return _of_tflite(made.files[0]) if made.engine == "litert" else _of_ir(made.files[0])


def _of_tflite(path):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    names = {value: name for name, value in vars(schema.TensorType).items()}
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    makers = {one.outputs[0]: one for one in graph.operators}

    def stored(index):
        """What is behind a DEQUANTIZE, if there is one."""
        return stored(makers[index].inputs[0]) if index in makers else names[graph.tensors[index].type]

    found = []
    for one in graph.operators:
        kind = flatbuffer_utils.opcode_to_name(model, one.opcodeIndex)
        if kind in ("CONV_2D", "FULLY_CONNECTED"):
            activations = {names[graph.tensors[index].type] for index in (one.inputs[0], one.outputs[0])}
            found.append((kind, stored(one.inputs[1]), activations))
    return found


def _of_ir(path):
    import openvino as ov

    found = []
    for node in ov.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() in ("Convolution", "MatMul"):
            taken, weights = (value.get_source_output().get_node() for value in node.inputs())
            while taken.get_type_name() in ("Reshape", "Transpose"):
                taken = taken.input_value(0).get_node()
            while weights.get_type_name() != "Constant":
                weights = weights.input_value(0).get_node()
            stored = {"f32": "FLOAT32", "i8": "INT8", "i4": "INT4"}[weights.get_element_type().to_string()]
            activations = "INT8" if taken.get_type_name() == "FakeQuantize" else "FLOAT32"
            found.append((node.get_type_name(), stored, {activations}))
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_only_a_kept_layer_computes_in_float(net, engine, kept):
    made, _ = net(engine, keeping(["conv", "wide", "head"][kept]))
    stored = [(weights, activations) for _, weights, activations in weights_of(made)]
    assert stored[kept] == ("FLOAT32", {"FLOAT32"})
    assert [one for place, one in enumerate(stored) if place != kept] == [("INT8", {"INT8"})] * 2


def test_the_name_of_a_node_is_not_read_as_a_pattern(file, loaded, lowered, prepared, tmp_path):
    from ai_edge_litert.tools import flatbuffer_utils

    source = loaded(file)
    data = prepared(source, np.random.default_rng(1).standard_normal((32, 8, 8, 3)).astype(np.float32))
    artifact = lowered(source, "litert")
    model = flatbuffer_utils.read_model(str(artifact.files[0]))
    for operator, name in zip(model.subgraphs[0].operators, (b"conv(1)+[2]$", b"conv(1)", b"wide.*"), strict=False):
        model.subgraphs[0].tensors[operator.outputs[0]].name = name
    flatbuffer_utils.write_model(model, str(artifact.files[0]))
    nodes = (("conv(1)+[2]$", "float32"),)
    made = quantize(QuantizeRequest(artifact, Recipe("int8-static"), source.inputs, data, nodes), tmp_path)
    assert [activations for _, _, activations in weights_of(made)] == [{"FLOAT32"}, {"INT8"}, {"INT8"}]


def test_an_input_that_only_float_nodes_use_stays_float(net):
    assert net("litert", keeping("head"))[0].inputs[0].dtype == "int8"
    assert net("litert", keeping("conv"))[0].inputs[0].dtype == "float32"


@pytest.mark.parametrize("engine", ENGINES)
def test_keeping_the_worst_layer_helps_and_keeping_another_does_not(net, engine):
    plain, worst, other = (net(engine, one)[1] for one in (Recipe("int8-static"), keeping("wide"), keeping("head")))
    assert worst > plain + 3
    assert other < plain + 1


@pytest.mark.parametrize("engine", ENGINES)
def test_keeping_everything_is_the_float_model(net, engine):
    assert net(engine, keeping("*"))[1] > 100


@pytest.mark.parametrize(
    ("engine", "base"),
    [
        pytest.param(engine, base, marks=pytest.mark.needs_openvino if engine == "openvino" else ())
        for engine in FORMATS
        for base in format_of(engine).mixable_schemes
    ],
)
def test_every_mixture_runs(net, engine, base):
    for scheme in format_of(engine).mixable_schemes:
        if scheme != base:
            # the outlier is for int8 and int16 alone: in 4 bits nothing is left beside it
            layer = "head" if scheme == "int4-weights" else "wide"
            recipe = Recipe(base, rules=(Rule(scheme, layers=(layer,)), Rule("float32", layers=("conv",))))
            if base == "int4-weights":
                recipe = Recipe(base, rules=(Rule("float32", layers=("wide",)), Rule(scheme, layers=("conv",))))
            assert net(engine, recipe)[1] > LEAST_DB, scheme


@pytest.mark.parametrize("word", ["bias", "bias-fast"])
def test_biases_are_corrected_beside_weight_only_layers(net, word):
    recipe = keeping("conv", scheme="int8-weights")
    plain, corrected = (net("litert", replace(recipe, corrections=names)) for names in ((), (word,)))
    assert weights_of(corrected[0]) == weights_of(plain[0])
    assert plain[0].files[0].read_bytes() != corrected[0].files[0].read_bytes()
    assert corrected[1] > LEAST_DB


@pytest.mark.parametrize("engine", ENGINES)
def test_which_weights_are_stored_in_four_bits(net, engine):
    made, _ = net(engine, keeping("wide", scheme="int8-weights", base="int4-weights"))
    conv = "INT4" if engine == "litert" else "INT8"  # NNCF stores matrices alone in 4 bits
    assert [weights for _, weights, _ in weights_of(made)] == [conv, "INT8", "INT4"]
    assert all(activations == {"FLOAT32"} for _, _, activations in weights_of(made))
    assert made.engine_version == {"litert": "2.17", "openvino": "2024.0"}[engine]


@pytest.mark.needs_openvino
def test_each_block_of_weights_has_its_own_scale(net):
    rules = (Rule("float32", layers=("conv", "head")),)
    channels, blocks = (net("openvino", Recipe("int4-weights", block_size=size, rules=rules)) for size in (0, 32))
    assert blocks[1] > channels[1] + 6  # the outlier spoils its own block alone
    assert blocks[0].size_bytes > channels[0].size_bytes


def test_a_scheme_that_no_selected_operator_supports_is_refused(net):
    with pytest.raises(ConversionError, match=r"does not support int8-weights for SOFTMAX\n.*another scheme"):
        net("litert", keeping("probability", scheme="int8-weights"))
