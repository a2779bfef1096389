"""Every framework to every format: the artifact computes what the source does, in its order and layout."""

import numpy as np
import pytest

from edgekit_converters.formats import FORMATS, engines_for_framework, format_of
from edgekit_converters.records import InputShape
from edgekit_converters.verify.acceptance import check_parity
from edgekit_runtime.errors import UnsupportedOperator

keras_to = [
    pytest.param(engine, marks=[pytest.mark.needs_keras, *marks])
    for engine, marks in (("litert", []), ("openvino", [pytest.mark.needs_openvino]))
]
torch_to = [
    pytest.param(engine, marks=[pytest.mark.needs_torch, *marks])
    for engine, marks in (("litert", []), ("openvino", [pytest.mark.needs_openvino]))
]


@pytest.fixture
def agrees(loaded, lowered, compared):
    """Lower a model for an engine and compare it with the source; return both."""

    def check(path, engine, **fields):
        source = loaded(path, **fields)
        artifact = lowered(source, engine)
        comparison = compared(source, artifact)
        check_parity(artifact, comparison, stage="lower")
        assert [parity.output for parity in comparison.parity] == [spec.name for spec in source.outputs]
        return source, artifact

    return check


def test_every_framework_has_an_engine():
    assert {one: engines_for_framework(one) for engine in FORMATS for one in format_of(engine).lowerings} == {
        "keras": ("litert", "openvino"),
        "torch": ("litert", "openvino"),
        "tflite": ("litert", "openvino"),
        "openvino": ("openvino",),
    }


@pytest.mark.parametrize("engine", keras_to)
def test_keras_inputs_and_outputs_in_no_alphabetical_order(agrees, tmp_path, engine):
    import keras
    from keras import layers

    inputs = [keras.Input((6, 6, 3), name="zeta"), keras.Input((4,), name="alpha"), keras.Input((6, 6, 1), name="mid")]
    pooled = [layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs[index])) for index in (0, 2)]
    x = layers.Concatenate()([*pooled, layers.Dense(3)(inputs[1])])
    outputs = [layers.Dense(3, name=f"out_{index}")(x) for index in range(11)]  # output_10 sorts before output_2
    keras.Model(inputs, outputs).save(tmp_path / "net.keras")
    source, _ = agrees(tmp_path / "net.keras", engine)
    assert [spec.name for spec in source.inputs] == ["zeta", "alpha", "mid"]


@pytest.mark.parametrize("engine", keras_to)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_keras_integer_inputs(agrees, tmp_path, engine, dtype):
    import keras
    from keras import layers

    ids = keras.Input((6,), dtype=dtype)
    keras.Model(ids, layers.Dense(3)(layers.Flatten()(layers.Embedding(10, 4)(ids)))).save(tmp_path / "ids.keras")
    _, artifact = agrees(tmp_path / "ids.keras", engine)
    assert artifact.inputs[0].dtype == dtype


@pytest.mark.parametrize("engine", keras_to)
def test_keras_recurrence(agrees, tmp_path, engine):
    import keras
    from keras import layers

    series = keras.Input((5, 3))
    keras.Model(series, layers.Dense(2)(layers.LSTM(4)(series))).save(tmp_path / "lstm.keras")
    agrees(tmp_path / "lstm.keras", engine)


TORCH = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 2, 3), nn.Conv2d(1, 2, 3), nn.Linear(2, 3)
    def forward(self, left, right):
        x = self.left(left)
        return {"zed": self.head(x.mean((2, 3)) * self.right(right).mean((2, 3))), "map": x}

class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 3), nn.Linear(72, 3)
    def forward(self, image):
        return self.head(self.conv(image).view(1, -1))

class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1)
        self.more = nn.ConvTranspose2d(4, 4, 4, 2, 1, output_padding=1, groups=2, bias=False)
        self.line = nn.ConvTranspose1d(4, 2, 3, stride=2, padding=1, output_padding=1)
        self.gate = nn.AdaptiveMaxPool2d(1)
    def forward(self, image):
        x = torch.relu(self.twice(image))
        return self.line(torch.relu(self.more(x * torch.sigmoid(self.gate(x)))).mean(2))

class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)
    def forward(self, ids):
        return self.head(self.table(ids).mean(1))

class Rare(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
    def forward(self, x):
        return torch.special.i1e(self.head(x))
"""
MODULES = {
    "Pair": (InputShape((1, 3, 9, 9), "left"), InputShape((1, 1, 5, 5), "right")),
    "FixedBatch": (InputShape((1, 3, 8, 8)),),
    "Decoder": (InputShape((1, 3, 4, 5)),),
    "Ids": (InputShape((1, 6), "ids", "int64"),),
}


@pytest.fixture
def torch_file(tmp_path):
    path = tmp_path / f"modules_{tmp_path.name}.py"
    path.write_text(TORCH)
    return path


@pytest.mark.parametrize("engine", torch_to)
@pytest.mark.parametrize("keep_layout", [False, True])
@pytest.mark.parametrize("module", MODULES)
def test_torch(agrees, torch_file, engine, module, keep_layout):
    shapes = MODULES[module]
    source, artifact = agrees(torch_file, engine, function=module, input_shapes=shapes, keep_layout=keep_layout)
    wanted = [shape if keep_layout or len(shape) != 4 else (1, *shape[2:], shape[1]) for shape in _shapes(shapes)]
    assert [spec.shape for spec in source.inputs] == wanted
    assert len(artifact.inputs) == len(wanted)


def _shapes(said):
    return [one.shape for one in said]


@pytest.mark.parametrize(
    ("engine", "named"),
    [
        pytest.param(
            "litert",
            r"litert-torch has no lowering for aten.special_i1e.default, at modules_\w+.py:43",
            marks=pytest.mark.needs_torch,
        ),
        pytest.param(
            "openvino",
            r"OpenVINO has no conversion for aten::special_i1e, at modules_\w+.py:43",
            marks=[pytest.mark.needs_torch, pytest.mark.needs_openvino],
        ),
    ],
)
def test_an_unsupported_operator_of_torch(loaded, lowered, torch_file, engine, named):
    source = loaded(torch_file, function="Rare", input_shapes=(InputShape((1, 4)),))
    with pytest.raises(UnsupportedOperator, match=named) as refused:
        lowered(source, engine)
    assert (refused.value.stage, refused.value.subject, refused.value.exit_code) == ("lower", engine, 4)
    assert "--device" in refused.value.advice


@pytest.mark.parametrize("engine", keras_to)
def test_an_unsupported_operator_of_keras(loaded, lowered, tmp_path, engine):
    import keras
    import tensorflow as tf

    class Beta(keras.layers.Layer):
        def call(self, x):
            half = tf.nn.sigmoid(x)
            return tf.math.betainc(half, half, half)

    x = keras.Input((4,))
    keras.Model(x, Beta(name="beta_head")(keras.layers.Dense(4)(x))).export(tmp_path / "rare", verbose=False)
    with pytest.raises(UnsupportedOperator, match="for Betainc in layer 'beta_head"):
        lowered(loaded(tmp_path / "rare"), engine)


@pytest.mark.needs_keras
def test_an_artifact_of_a_saved_model_stores_weights_once(loaded, lowered, tmp_path):
    import keras

    x = keras.Input((64,))
    keras.Model(x, keras.layers.Dense(64)(x)).export(tmp_path / "dense", verbose=False)
    artifact = lowered(loaded(tmp_path / "dense"), "litert")
    assert 64 * 65 * 4 < artifact.size_bytes < 1.2 * 64 * 65 * 4


@pytest.mark.needs_openvino
def test_ir_to_ir_keeps_the_layout_and_fixes_the_batch(agrees, tmp_path):
    import openvino as ov
    from openvino import opset13 as ops

    image = ops.parameter([-1, 3, 8, 8], np.float32, name="image")
    image.output(0).set_names({"image"})
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    conv = ops.convolution(image, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
    ov.save_model(ov.Model([conv], [image]), tmp_path / "net.xml", compress_to_fp16=False)
    source, _ = agrees(tmp_path / "net.xml", "openvino")
    assert [(spec.shape, spec.layout) for spec in source.inputs] == [((1, 3, 8, 8), "NCHW")]
