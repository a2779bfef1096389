"""Artifacts have the order and scales of their tensors, whichever toolchain wrote the file."""

import shutil

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact, bind, bind_built, with_scales_of
from edgekit_converters.formats.tflite_metadata import signature
from edgekit_converters.records import Artifact
from edgekit_runtime.errors import ToolchainError
from edgekit_runtime.format.manifest import TensorBinding

X, Y = np.float32([[1, 2]]), np.float32([[10, 20, 30]])


def test_scales_come_from_the_file_that_has_them():
    original = Artifact("litert", "int8-static", (), (TensorBinding(0, "x", "int8", 0.5, 3),), ())
    made = Artifact("openvino", "int8-static", (), (TensorBinding(1, "x_", "int8"),), ())
    assert with_scales_of(original, made).inputs == (TensorBinding(1, "x_", "int8", 0.5, 3),)
    float_made = Artifact("openvino", "int8-static", (), (TensorBinding(1, "x_", "float32"),), ())
    assert with_scales_of(original, float_made) == float_made


@pytest.fixture
def converted(tmp_path):
    """Write a ``.tflite`` of z = 2x, w = 3y with the given names for inputs and outputs."""
    import tensorflow as tf

    def write(names, results):
        @tf.function(input_signature=[tf.TensorSpec((1, 2), name=names[0]), tf.TensorSpec((1, 3), name=names[1])])
        def serve(x, y):
            return {results[0]: 2 * x, results[1]: 3 * y}

        module = tf.Module()
        module.serve = serve
        converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], module)
        path = tmp_path / "model.tflite"
        path.write_bytes(converter.convert())
        return path

    return write


@pytest.mark.needs_keras
@pytest.mark.parametrize("results", [("output_0", "output_1"), ("output_10", "output_2")])
def test_numbered_names_give_the_order(converted, results):
    artifact = bind("litert", "float32", (converted(("input_1", "input_0"), results),))
    opened = OpenArtifact(artifact)
    small, large = opened.run([Y, X])
    if results == ("output_0", "output_1"):
        small, large = large, small
    opened.close()
    assert np.array_equal(small, 3 * Y)
    assert np.array_equal(large, 2 * X)


@pytest.mark.needs_keras
def test_without_numbers_the_file_gives_the_order(converted):
    path = converted(("zeta", "alpha"), ("w", "z"))
    ports = signature(path)
    artifact = bind("litert", "float32", (path,))
    by_name = {port.name: binding for port, binding in zip(ports.inputs, artifact.inputs, strict=True)}
    opened = OpenArtifact(artifact)
    assert opened.engine.inputs[by_name["zeta"].index].shape == (1, 2)
    assert opened.engine.inputs[by_name["alpha"].index].shape == (1, 3)
    results = opened.run([X if port.name == "zeta" else Y for port in ports.inputs])
    opened.close()
    named = {port.name: result for port, result in zip(ports.outputs, results, strict=True)}
    assert np.array_equal(named["w"], 2 * X)
    assert np.array_equal(named["z"], 3 * Y)


@pytest.mark.needs_keras
def test_a_file_without_a_signature_gets_one_and_computes_the_same(converted, tmp_path):
    from ai_edge_litert.tools import flatbuffer_utils

    from edgekit_converters.lower.tflite_to_tflite import lower

    path = converted(("input_0", "input_1"), ("output_0", "output_1"))
    model = flatbuffer_utils.read_model(str(path))
    model.signatureDefs = None
    flatbuffer_utils.write_model(model, str(tmp_path / "bare.tflite"))
    assert signature(tmp_path / "bare.tflite").key is None

    live = type("Live", (), {"scheme": "float32", "handle": tmp_path / "bare.tflite"})
    folder = tmp_path / "lowered"
    folder.mkdir()
    (given,) = lower(live, folder)
    assert signature(given).key == "serving_default"
    results = []
    for file in (tmp_path / "bare.tflite", given):
        opened = OpenArtifact(bind("litert", "float32", (file,)))
        results.append(opened.run([X, Y] if opened.engine.inputs[0].shape == (1, 2) else [Y, X]))
        opened.close()
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.needs_litert
def test_a_file_that_its_engine_refuses_is_a_toolchain_error(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"garbage" * 99)
    with pytest.raises(ToolchainError, match=r"^quantize \(litert\): the toolchain wrote a int8-static model that"):
        bind_built("quantize", "litert", "int8-static", (tmp_path / "model.tflite",))


@pytest.mark.needs_keras
def test_a_quantized_file_is_copied_to_the_byte(converted, tmp_path):
    from edgekit_converters.lower.tflite_to_tflite import lower

    path = converted(("input_0", "input_1"), ("output_0", "output_1"))
    source = shutil.copy(path, tmp_path / "source.tflite")
    live = type("Live", (), {"scheme": "int8-static", "handle": source})
    folder = tmp_path / "lowered"
    folder.mkdir()
    assert lower(live, folder)[0].read_bytes() == path.read_bytes()


@pytest.mark.needs_openvino
def test_loose_files_have_no_digest(tmp_path):
    import openvino as ov
    from openvino import opset13

    def times(factor):
        x = opset13.parameter([1, 2], np.float32, "x")
        ov.save_model(ov.Model([opset13.multiply(x, opset13.constant(np.float32(factor)))], [x]), tmp_path / "m.xml")
        opened = OpenArtifact(bind("openvino", "float32", (tmp_path / "m.xml", tmp_path / "m.bin")))
        (computed,) = opened.run([X])
        opened.close()
        return computed

    assert np.array_equal(times(2), 2 * X)
    assert np.array_equal(times(3), 3 * X)
