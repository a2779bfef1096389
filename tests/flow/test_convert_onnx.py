"""ONNX becomes IR, without being told which devices run it."""

import numpy as np
import pytest

import edgekit
import edgekit_runtime

pytestmark = [pytest.mark.needs_openvino, pytest.mark.needs_onnx]


def test_an_onnx_file_with_an_open_batch(tmp_path):
    import onnx
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["sums"]), helper.make_node("Tanh", ["sums"], ["scores"])],
        "net",
        [value("features", onnx.TensorProto.FLOAT, ["n", 8])],
        [value("scores", onnx.TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    samples = np.random.default_rng(1).standard_normal((32, 8)).astype(np.float32)
    np.save(tmp_path / "samples.npy", samples)
    report = edgekit.convert(
        tmp_path / "net.onnx",
        tmp_path / "net.edgekit",
        quantize=["float32", "int8-static"],
        calibrate=tmp_path / "samples.npy",
    )
    assert {variant.name for variant in report.variants} == {"openvino-float32", "openvino-int8-static"}
    with edgekit_runtime.load(tmp_path / "net.edgekit", require="openvino-int8-static") as loaded:
        assert np.abs(loaded(samples[:1]) - np.tanh(samples[:1] @ weights)).max() < 0.1
    np.save(tmp_path / "more.npy", np.random.default_rng(2).standard_normal((60, 8)).astype(np.float32))
    searched = edgekit.convert(
        tmp_path / "net.onnx", tmp_path / "searched.edgekit", quantize="auto", calibrate=tmp_path / "more.npy"
    )
    assert searched.source.metric == "relative_error"  # nothing says that its three numbers are classes
    assert {trial.state for trial in searched.trials} == {"measured"}
    (best,) = searched.variants
    assert best.drop < 0.01
