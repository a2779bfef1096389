"""Rewritten TFLite files: the same values, without operators that are slow or do nothing."""

import numpy as np
import pytest

pytestmark = pytest.mark.needs_litert


def relu(x):
    import tensorflow as tf

    return tf.nn.relu(x)


def relu6(x):
    import tensorflow as tf

    return tf.nn.relu6(x)


def operators(path):
    from ai_edge_litert.interpreter import Interpreter

    return [one["op_name"] for one in Interpreter(str(path))._get_ops_details() if one["op_name"] != "DELEGATE"]


def computed(path, *arrays):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    for info, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(info["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.needs_keras
@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        (lambda x: x[:, ::2, ::2], ["MAX_POOL_2D"]),
        (lambda x: x[:, ::2][:, :, ::3], ["MAX_POOL_2D"]),
        (lambda x: x[:, ::3], ["MAX_POOL_2D"]),
        (lambda x: x[:, 1::2, ::2], ["STRIDED_SLICE"]),  # not from the first one on
        (lambda x: x[:, :5:2, ::2], ["STRIDED_SLICE"]),  # not to the last one
        (lambda x: x[:, ::2, ::2, ::2], ["STRIDED_SLICE"]),  # of channels, too
        (lambda x: x[:, 0], ["STRIDED_SLICE"]),
        (lambda x: relu(relu6(relu(relu(x) + 1.0))) * 2.0, ["RELU", "ADD", "RELU6", "MUL"]),
        (lambda x: relu6(relu(x) - 1.0), ["RELU", "SUB"]),  # fused, and more than what was fused before
        (lambda x: relu(relu(x)), ["RELU"]),  # the last one is what the model gives
    ],
)
def test_rewrites(tmp_path, taken, wanted):
    import tensorflow as tf

    from edgekit_converters.lower.tflite_rewrites import simplify

    function = tf.function(taken, input_signature=[tf.TensorSpec((1, 7, 9, 4))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    path = tmp_path / "net.tflite"
    path.write_bytes(converter.convert())
    x = np.random.default_rng(0).normal(size=(1, 7, 9, 4)).astype(np.float32)
    expected = computed(path, x)
    simplify(path)
    assert set(operators(path)) - {"RESHAPE"} == set(wanted)
    np.testing.assert_array_equal(computed(path, x), expected)
