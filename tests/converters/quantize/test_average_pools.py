"""OpenVINO's int8 average pool rounds means to its input's steps unless a quantization for means follows."""

import numpy as np
import pytest

pytestmark = pytest.mark.needs_openvino

INT8 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE"}
X = np.random.default_rng(0).gamma(0.3, 1.0, (1, 16, 8, 8)).astype(np.float32)  # few are great: means are small


def quantized(op, value, high):
    ends = [op.constant(np.array([end], np.float32)) for end in (0.0, high)]
    return op.fake_quantize(value, *ends, *ends, 256)


def net(*, behind):
    """A pool in int8 and a dense layer, which is in float without a quantization of the means."""
    import openvino as ov
    from openvino import opset13 as op

    x = op.parameter(X.shape, np.float32)
    pooled = op.avg_pool(quantized(op, x, X.max()), [8, 8], [0, 0], [0, 0], [8, 8], True)
    flat = op.reshape(quantized(op, pooled, 1.0) if behind else pooled, op.constant(np.array([1, 16])), False)
    weights = np.random.default_rng(1).standard_normal((16, 4)).astype(np.float32)
    return ov.Model([op.matmul(flat, op.constant(weights), False, False)], [x], "net"), X.mean((2, 3)) @ weights


def snr_db(model, wanted):
    import openvino as ov

    error = ov.Core().compile_model(model, "CPU", INT8)([X])[0] - wanted
    return 10 * np.log10(np.square(wanted).sum() / np.square(error).sum())


def test_a_pool_without_quantized_consumers_is_float_and_exact():
    from edgekit_converters.quantize.average_pools import keep_average_pools_in_float

    model, wanted = net(behind=False)
    rounded = snr_db(model, wanted)
    assert rounded < 35
    assert snr_db(keep_average_pools_in_float(model), wanted) > rounded + 40


def test_a_pool_with_a_quantized_consumer_stays_int8():
    from edgekit_converters.quantize.average_pools import keep_average_pools_in_float

    model, _ = net(behind=True)
    keep_average_pools_in_float(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()].count("FakeQuantize") == 2
