"""Faults that toolchains really have made, put into real artifacts: parity refuses each and names the stage.

Scales are off by half or more: an error below a third of the signal is what int8 itself may cost, and is for accuracy
on evaluation data to tell.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgekit_converters.artifact.open import bind
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import QuantizeRequest
from edgekit_converters.verify.acceptance import check_parity
from edgekit_runtime.errors import VerificationError

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_openvino]

ENGINES = ("litert", "openvino")
KERNEL, SQUARE = 16 * 3 * 3 * 8, 16 * 16  # how many weights the second convolution and the dense layer have


def permuted(weights):
    """Output channels in another order (litert-torch#1238)."""
    return weights[np.random.default_rng(5).permutation(len(weights))]


def swapped(weights):
    """Height taken for width, and the other way round: (O, H, W, I) and (O, I, H, W) alike."""
    return weights.swapaxes(1, 2) if weights.shape[1] == weights.shape[2] else weights.swapaxes(2, 3)


def transposed(weights):
    """Inputs taken for outputs."""
    return weights.T


FAULTS = [(permuted, KERNEL), (permuted, SQUARE), (swapped, KERNEL), (transposed, SQUARE)]


@pytest.fixture(scope="module")
def source(tmp_path_factory, loaded):
    """Two convolutions, a square dense layer, and two outputs of one shape."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, activation="relu", bias_initializer="random_normal")(image)
    x = layers.Conv2D(16, 3, activation="relu", bias_initializer="random_normal")(x)
    x = layers.Dense(16, activation="tanh", bias_initializer="random_normal")(layers.GlobalMaxPooling2D()(x))
    path = tmp_path_factory.mktemp("sound") / "net.keras"
    keras.Model(image, [layers.Dense(4)(x), layers.Dense(4)(x)]).save(path)
    return loaded(path)


@pytest.fixture(scope="module")
def sound(source, lowered, prepared, tmp_path_factory):
    """The artifacts of the source: by engine, lowered, and quantized too."""
    samples = np.random.default_rng(1).standard_normal((32, 12, 12, 3)).astype(np.float32)
    data, found = prepared(source, samples), {}
    for engine in ENGINES:
        found[engine, "lower"] = artifact = lowered(source, engine)
        request = QuantizeRequest(artifact, Recipe("int8-static"), source.inputs, data)
        found[engine, "quantize"] = quantize(request, tmp_path_factory.mktemp("quantized"))
    return found


@pytest.fixture
def made(sound, tmp_path):
    """An artifact whose files may be spoiled."""

    def make(engine, stage):
        artifact = sound[engine, stage]
        return replace(artifact, files=tuple(Path(shutil.copy(path, tmp_path)) for path in artifact.files))

    return make


def edit_tflite(path, size, fault):
    """Put a fault into the constant of ``size`` weights."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and np.prod(tensor.shape) == size:
            dtype = np.float32 if len(data) == 4 * size else np.int8
            weights = np.frombuffer(bytes(data), dtype).reshape(tensor.shape)
            model.buffers[tensor.buffer].data = np.frombuffer(fault(weights).tobytes(), np.uint8)
            flatbuffer_utils.write_model(model, str(path))
            return
    raise AssertionError(f"no constant of {size} weights in {path}")


def edit_ir(path, size, fault):
    """Put a fault into the constant of ``size`` weights, in the ``.bin`` file."""
    weights_file = path.with_suffix(".bin")
    content = bytearray(weights_file.read_bytes())
    for data in ElementTree.parse(path).iterfind(".//layer[@type='Const']/data"):
        shape = [int(one) for one in re.findall(r"\d+", data.get("shape"))]
        if np.prod(shape) == size:
            start, dtype = int(data.get("offset")), np.dtype({"f32": "f4", "i8": "i1"}[data.get("element_type")])
            weights = np.frombuffer(content, dtype, size, start).reshape(shape)
            content[start : start + size * dtype.itemsize] = fault(weights).tobytes()
            weights_file.write_bytes(content)
            return
    raise AssertionError(f"no constant of {size} weights in {path}")


EDIT = {"litert": edit_tflite, "openvino": edit_ir}


def refuse(source, artifact, compared, stage):
    with pytest.raises(VerificationError, match=f"broken at stage '{stage}': output") as refused:
        check_parity(artifact, compared(source, artifact), stage=stage)
    assert f"{artifact.engine} {artifact.scheme}" in str(refused.value)


@pytest.mark.parametrize("stage", ["lower", "quantize"])
@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_fault_the_artifact_passes(source, made, compared, engine, stage):
    artifact = made(engine, stage)
    check_parity(artifact, compared(source, artifact), stage=stage)


@pytest.mark.parametrize("stage", ["lower", "quantize"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0].__name__}-{fault[1]}")
@pytest.mark.parametrize("engine", ENGINES)
def test_constants_out_of_order(source, made, compared, engine, fault, stage):
    artifact = made(engine, stage)
    change, size = fault
    EDIT[engine](artifact.files[0], size, change)
    refuse(source, artifact, compared, stage)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_scale_in_tflite(source, made, compared, factor):
    from ai_edge_litert.tools import flatbuffer_utils

    artifact = made("litert", "quantize")
    model = flatbuffer_utils.read_model(str(artifact.files[0]))
    for tensor in model.subgraphs[0].tensors:
        if np.prod(tensor.shape) == SQUARE and tensor.quantization is not None:
            tensor.quantization.scale = np.float32(tensor.quantization.scale) * np.float32(factor)
    flatbuffer_utils.write_model(model, str(artifact.files[0]))
    refuse(source, artifact, compared, "quantize")


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_scale_in_ir(source, made, compared, factor):
    import openvino as ov

    artifact = made("openvino", "quantize")
    model = ov.Core().read_model(artifact.files[0])
    widest = max(
        (node for node in model.get_ops() if node.get_type_name() == "FakeQuantize"),
        key=lambda node: float(node.input(4).get_source_output().get_node().data.max()),
    )
    for port in (3, 4):  # output low and high
        constant = widest.input(port).get_source_output().get_node()
        widest.input(port).replace_source_output(ov.opset13.constant(constant.data * np.float32(factor)).output(0))
    folder = artifact.files[0].parent / "faulty"
    folder.mkdir()
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    files = (folder / "model.xml", folder / "model.bin")
    refuse(source, replace(artifact, files=files), compared, "quantize")


@pytest.mark.parametrize("scale", [0.6, 1.5])
def test_a_wrong_scale_at_the_output(source, made, compared, scale):
    artifact = made("litert", "quantize")
    outputs = tuple(replace(binding, scale=binding.scale * scale) for binding in artifact.outputs)
    refuse(source, replace(artifact, outputs=outputs), compared, "quantize")


@pytest.mark.parametrize("engine", ENGINES)
def test_outputs_in_another_order(source, made, compared, engine, tmp_path):
    artifact = made(engine, "lower")
    (tmp_path / "faulty").mkdir()
    files = tuple(tmp_path / "faulty" / path.name for path in artifact.files)
    if engine == "litert":
        from ai_edge_litert.tools import flatbuffer_utils

        model = flatbuffer_utils.read_model(str(artifact.files[0]))
        first, second = model.signatureDefs[0].outputs
        first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex
        flatbuffer_utils.write_model(model, str(files[0]))
    else:
        import openvino as ov

        model = ov.Core().read_model(artifact.files[0])
        outputs = [port.get_node() for port in reversed(model.outputs)]
        ov.save_model(ov.Model(outputs, model.get_parameters()), files[0], compress_to_fp16=False)
    refuse(source, bind(engine, "float32", files), compared, "lower")


def test_a_truncated_file_of_weights_is_no_artifact(source, made, compared):
    from edgekit_runtime.errors import EngineError

    artifact = made("openvino", "lower")
    weights = artifact.files[1]
    shutil.copy(weights, weights.with_suffix(".whole"))
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(EngineError):
        compared(source, artifact)
