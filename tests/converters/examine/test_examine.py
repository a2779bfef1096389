"""Models lowered by the toolchains: both formats have the same findings, for every framework."""

import numpy as np
import pytest

from edgekit_converters.artifact.open import bind
from edgekit_converters.examine import examine
from edgekit_converters.records import ExamineRequest
from edgekit_runtime.format.manifest import InputSpec

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]
KERAS, TORCH = pytest.mark.needs_keras, pytest.mark.needs_torch

HEAD = """
import torch
from torch import nn


class Head(nn.Module):
    '''Anchor-free, with a distribution over 8 bins for each side of a box, as YOLO has had it since its version 8.'''

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 1, 1))
        self.box, self.score = nn.Conv2d(8, 32, 1), nn.Conv2d(8, 3, 1)
        self.count = nn.Conv2d(8, 1, 1, bias=False)
        self.count.weight.data = torch.arange(8.0).view(1, 8, 1, 1)
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        self.register_buffer("centres", torch.stack((x, y)).view(1, 2, 64) * 2 + 1)

    def forward(self, image):
        features = self.stem(image)
        sides = self.box(features).view(1, 4, 8, 64).transpose(1, 2).softmax(1)
        near, far = (self.count(sides).view(1, 4, 64) * 20).chunk(2, 1)
        boxes = torch.cat((self.centres - near, self.centres + far), 1)
        return torch.cat((boxes, self.score(features).view(1, 3, 64).sigmoid()), 1)


def head():
    torch.manual_seed(0)
    return Head().eval()
"""


@pytest.fixture
def examined(lowered, prepared, tmp_path):
    """Examine a Source's artifact on noise."""

    def run(source, engine, scale=1.0):
        noise = np.random.default_rng(0).standard_normal((40, *source.inputs[0].shape[1:])) * scale
        data = prepared(source, noise.astype(np.float32))
        return examine(ExamineRequest(lowered(source, engine), source.inputs, data), tmp_path)

    return run


def kinds(examined):
    return [finding.kind for finding in examined.findings]


@TORCH
@pytest.mark.parametrize("engine", ENGINES)
def test_a_detector_of_pytorch(loaded, examined, tmp_path, engine):
    from edgekit_converters.records import InputShape

    (tmp_path / "head.py").write_text(HEAD)
    source = loaded(tmp_path / "head.py", kind="python", function="head", input_shapes=(InputShape((1, 3, 16, 16)),))
    found = examined(source, engine)
    assert kinds(found) == ["wide-concat", "softmax-expectation"]
    assert [(split.output, split.axis) for split in found.splits] == [(0, 1)]
    assert len(found.nodes) >= 6  # softmax, count, product, both sums, and what moves them


@KERAS
@pytest.mark.parametrize("engine", ENGINES)
def test_an_expectation_by_a_product_and_a_sum_of_keras(loaded, examined, tmp_path, engine):
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    chances = layers.Softmax()(layers.Reshape((64, 4, 8))(layers.Conv2D(32, 1)(image)))
    sides = ops.sum(chances * np.arange(8, dtype=np.float32), axis=-1)
    keras.Model(image, sides).save(tmp_path / "sides.keras")
    found = examined(loaded(tmp_path / "sides.keras"), engine)
    assert kinds(found) == ["softmax-expectation"]
    assert len(found.nodes) == 3


@KERAS
@pytest.mark.parametrize("engine", ENGINES)
def test_padding_depthwise_spread_and_rare_values_of_keras(loaded, examined, tmp_path, engine):
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, name="uneven")(image)
    x = layers.MaxPooling2D(2)(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1e9))
    x = layers.Conv2D(4, 1)(x)
    x = layers.ReLU()(layers.Conv2D(4, 1, kernel_initializer="ones")(x * x * x * x * x * x))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    kernel, bias = model.get_layer("uneven").get_weights()
    model.get_layer("uneven").set_weights([kernel * np.array([1.0, 1e-3, 1.0]).reshape(1, 1, 3, 1), bias])
    model.save(tmp_path / "odd.keras")
    found = examined(loaded(tmp_path / "odd.keras"), engine)
    assert {"far-pad", "depthwise-spread", "rare-values"} == set(kinds(found))
    assert kinds(found).count("far-pad") == kinds(found).count("depthwise-spread") == 1
    assert len(found.nodes) == 2  # the padding and the pooling
    assert found.splits == ()


@KERAS
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", ["Conv2D", "LSTM"])
def test_an_ordinary_model_and_a_model_with_a_loop_have_no_findings(loaded, examined, tmp_path, engine, layer):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    given = keras.Input((8, 8, 3) if layer == "Conv2D" else (5, 3))
    x = layers.Conv2D(8, 3, activation="relu")(given) if layer == "Conv2D" else layers.LSTM(4)(given)
    keras.Model(given, layers.Dense(10, activation="softmax")(layers.Flatten()(x))).save(tmp_path / "net.keras")
    assert examined(loaded(tmp_path / "net.keras"), engine).findings == ()


@pytest.mark.needs_openvino
def test_an_ir_with_quantizing_nodes_and_a_dynamic_batch(tmp_path):
    import openvino as ov
    from openvino import opset13 as op

    from edgekit_converters.data import DataRequest, prepare

    x = op.parameter([-1, 8], dtype=np.float32, name="x")
    low, high = op.constant(np.float32(-1)), op.constant(np.float32(1))
    steps = op.fake_quantize(x, low, high, low, high, 256)
    model = ov.Model([op.softmax(op.matmul(steps, op.constant(np.eye(8, dtype=np.float32)), False, False), 1)], [x])
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    inputs = (InputSpec("x", (1, 8), "float32"),)
    (tmp_path / "data").mkdir()
    data = prepare(DataRequest(str(tmp_path / "x.npy"), inputs), tmp_path / "data")
    artifact = bind("openvino", "float32", (tmp_path / "model.xml", tmp_path / "model.bin"))
    found = examine(ExamineRequest(artifact, inputs, data), tmp_path)
    assert [(finding.kind, finding.node) for finding in found.findings] == [
        ("quantized-already", steps.get_friendly_name())
    ]


@KERAS
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["LayerNormalization", "RMSNormalization", "UnitNormalization"])
def test_a_normalization_of_keras_is_found_when_it_is_lowered_to_several_operators(
    loaded, examined, tmp_path, engine, kind
):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4))
    x = getattr(layers, kind)()(layers.Conv2D(4, 3)(image))
    keras.Model(image, layers.Conv2D(2, 3)(x)).save(tmp_path / "net.keras")
    found = examined(loaded(tmp_path / "net.keras"), engine)
    assert kinds(found) == ["normalization"] * (engine == "litert")
    assert bool(found.nodes) == (engine == "litert")


@TORCH
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["LayerNorm(8)", "RMSNorm(8)", "InstanceNorm1d(4)", "GroupNorm(2, 4)", "Unit()"])
def test_a_normalization_of_pytorch_is_found(loaded, examined, tmp_path, engine, kind):
    from edgekit_converters.records import InputShape

    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch.nn import *\n"
        "class Unit(Module):\n"
        "    def forward(self, x):\n"
        "        return functional.normalize(x, dim=-1)\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        f"    return Sequential(Linear(3, 8), {kind}, Linear(8, 2))\n"
    )
    source = loaded(tmp_path / "net.py", kind="python", function="net", input_shapes=(InputShape((1, 4, 3)),))
    found = examined(source, engine)
    assert kinds(found) == ["normalization"] * (engine == "litert")
