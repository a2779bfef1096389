"""``.onnx`` and ``.xml`` as sources."""

import numpy as np
import pytest

from edgekit_converters.load import open_source
from edgekit_converters.records import InputShape
from edgekit_runtime.errors import SourceError

pytestmark = pytest.mark.needs_openvino

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2)


@pytest.fixture
def onnx_file(tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    node = helper.make_node("MatMul", ["features", "w"], ["scores"])
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.needs_onnx
def test_an_onnx_file_with_an_open_batch(onnx_file, loaded):
    source = loaded(onnx_file)
    assert (source.framework, source.scheme) == ("openvino", "float32")
    assert [(spec.name, spec.shape) for spec in (*source.inputs, *source.outputs)] == [
        ("features", (1, 4)),
        ("scores", (1, 2)),
    ]
    assert np.allclose(open_source(source.request).run([X])[0], X @ WEIGHTS, atol=1e-5)


def write_ir(path, *, quantized=False, shape=(1, 4), **options):
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter(shape, np.float32, name="features")
    value = ops.fake_quantize(x, *map(np.float32, (-1, 1, -1, 1)), 256) if quantized else x
    product = ops.matmul(value, ops.constant(WEIGHTS), False, False)
    product.output(0).set_names({"scores"})
    ov.save_model(ov.Model([product], [x], "net"), path, **options)


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ({"compress_to_fp16": False}, "float32"),
        ({"compress_to_fp16": True}, "float16"),
        ({"quantized": True, "compress_to_fp16": False}, "int8-static"),
    ],
)
def test_the_scheme_an_ir_came_in(tmp_path, loaded, options, scheme):
    write_ir(tmp_path / "net.xml", **options)
    assert loaded(tmp_path / "net.xml").scheme == scheme


def test_an_open_size_is_asked_for_and_taken(tmp_path, loaded):
    import openvino as ov
    from openvino import opset13 as ops

    x = ops.parameter([-1, -1, 3], np.float32)
    x.output(0).set_names({"seen"})
    ov.save_model(ov.Model([ops.relu(x)], [x]), tmp_path / "net.xml")
    with pytest.raises(SourceError, match="--input-shape seen=1,N,3"):
        loaded(tmp_path / "net.xml")
    assert loaded(tmp_path / "net.xml", input_shapes=(InputShape((1, 5, 3), "seen"),)).outputs[0].shape == (1, 5, 3)
    with pytest.raises(SourceError, match="no input 'foo'; there are seen"):
        loaded(tmp_path / "net.xml", input_shapes=(InputShape((1, 5, 3), "foo"),))


@pytest.mark.parametrize("name", ["garbage.onnx", "garbage.xml"])
def test_garbage_is_not_a_model(tmp_path, loaded, name):
    (tmp_path / name).write_bytes(b"garbage" * 100)
    with pytest.raises(SourceError, match=rf"{name}: OpenVINO cannot read it \(RuntimeError: Unable to read the model"):
        loaded(tmp_path / name)
