"""The roles of Keras layers, of both generations, in integer arithmetic, and those that are several operators there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from edgekit_converters.frameworks.keras_graph import Call
from edgekit_converters.train.fake_quantize import SMALLEST, Arithmetic, Role, RoundBetween

# class of layers: ((a weight's name, its axes of outputs), ...)
WEIGHTS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D"), (("kernel", (-1,)),)),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), (("kernel", (-2,)),)),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), (("depthwise_kernel", (-2, -1)), ("kernel", (-2, -1)))),
    **dict.fromkeys(
        ("SeparableConv1D", "SeparableConv2D"), (("depthwise_kernel", (-2, -1)), ("pointwise_kernel", (-1,)))
    ),
}
ACTIVATIONS = {
    **dict.fromkeys(("relu", "relu6"), Role.RELU),
    **dict.fromkeys(("softmax", "log_softmax"), Role.FLOAT),
    "hard_sigmoid": Role.HARD_SIGMOID,
    "sigmoid": Role.SIGMOID,
    "tanh": Role.TANH,
}
SILU = ("silu", "swish")  # x sigmoid(x)
ROLES = {
    **dict.fromkeys((*WEIGHTS, "EinsumDense"), Role.LAYER),
    "BatchNormalization": Role.NORM,
    **dict.fromkeys(("Relu", "Relu6"), Role.RELU),
    **dict.fromkeys(("Softmax", "LogSoftmax"), Role.FLOAT),
    **{"Sigmoid": Role.SIGMOID, "Tanh": Role.TANH, "HardSigmoid": Role.HARD_SIGMOID},
    **dict.fromkeys(("AveragePooling1D", "AveragePooling2D"), Role.POOLS),
    **dict.fromkeys(("Concatenate", "Concat", "Maximum", "Stack"), Role.CONCATENATES),
    **dict.fromkeys(("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "ZeroPadding1D", "ZeroPadding2D"), Role.MOVES),
    **dict.fromkeys(("GlobalMaxPooling1D", "GlobalMaxPooling2D", "Cropping1D", "Cropping2D", "Pad"), Role.MOVES),
    **dict.fromkeys(("Flatten", "Reshape", "Permute", "Transpose", "RepeatVector", "Squeeze"), Role.MOVES),
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "Identity"), Role.MOVES),
    **dict.fromkeys(("ExpandDims", "StridedSlice", "SlicingOpLambda", "GetItem", "Split"), Role.MOVES),
}


def role_of(call: Call) -> Role:
    """Return the role of a call; a layer that is an activation has the role of that."""
    layer, kind = call.layer, call.kind
    if kind == "Activation":
        return ACTIVATIONS.get(getattr(layer.activation, "__name__", ""), Role.OTHER)
    if kind == "ReLU":
        plain = not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6)
        return Role.RELU if plain else Role.OTHER
    if kind == "UpSampling2D":
        return Role.MOVES if layer.interpolation == "nearest" else Role.POOLS
    return ROLES.get(kind, Role.OTHER)


def output_role(call: Call, role: Role) -> Role:
    """Return the role of a call for the operations that read its result: that of its activation, if it has one."""
    function = getattr(call.layer, "activation", None)
    name = getattr(function, "__name__", "linear")
    return role if role is not Role.LAYER or name == "linear" else ACTIVATIONS.get(name, Role.OTHER)


def weights_of(layer: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return a layer's weights by name, with their output axes; for an einsum, the axes that its result keeps."""
    if type(layer).__name__ == "EinsumDense":
        _, _, rest = layer.equation.partition(",")
        kernel, _, result = rest.partition("->")
        return (("kernel", tuple(axis for axis, letter in enumerate(kernel) if letter in result)),)
    return next((WEIGHTS[kind.__name__] for kind in type(layer).__mro__ if kind.__name__ in WEIGHTS), ())


def activation_as_operators(function: Callable[..., Any], of_layer: bool, rounds: RoundBetween) -> Callable[..., Any]:
    """Return an activation as operators compute it: after a layer, of rounded sums, unless it is fused."""
    name = getattr(function, "__name__", "")
    apart = of_layer and name != "linear" and ACTIVATIONS.get(name) not in (Role.RELU, Role.HARD_SIGMOID)

    def computed(sums: Any) -> Any:
        taken = rounds(sums, "sum", Role.LAYER) if apart else sums
        return silu(taken, rounds) if name in SILU else function(taken)

    return computed


def silu(values: Any, rounds: RoundBetween) -> Any:
    """Compute SiLU as two operators, LOGISTIC and MUL."""
    return values * rounds(tf.sigmoid(values), "gate", Role.SIGMOID)


def factors(layer: Any) -> Any:
    """Return the factors of a BatchNormalization in inference, (channels,)."""
    factor = tf.math.rsqrt(tf.convert_to_tensor(layer.moving_variance) + layer.epsilon)
    return factor if layer.gamma is None else factor * layer.gamma


def weight_steps(layer: Any, arithmetic: Arithmetic, times: Any) -> Any:
    """The steps of the weights that a layer's channels are sums of, (channels,), or None where those are not last.

    Args:
        layer: its weights are rounded.
        arithmetic: of the scheme.
        times: what to multiply them by.
    """
    named = [one for one in weights_of(layer) if getattr(layer, one[0], None) is not None]
    if not named or type(layer).__name__ == "EinsumDense" or getattr(layer, "data_format", None) == "channels_first":
        return None
    weights, channels = tf.convert_to_tensor(getattr(layer, named[-1][0])), named[-1][1]
    rank = len(weights.shape)
    summed = [axis for axis in range(rank) if axis not in {one % rank for one in channels}]
    maximum = tf.maximum(tf.reduce_max(tf.abs(weights), summed), SMALLEST)
    return tf.reshape(maximum, [-1]) / arithmetic.weight_levels * times


def normalized(layer: Any, values: Any, training: bool, rounds: RoundBetween) -> Any:
    """Compute a BatchNormalization that is not fused as two operators, MUL and ADD, with rounded constants."""
    axis = layer.axis[0] if isinstance(layer.axis, list | tuple) else layer.axis
    others = [one for one in range(len(values.shape)) if one != axis % len(values.shape)]
    mean, factor = tf.convert_to_tensor(layer.moving_mean), factors(layer)
    if training and layer.trainable:
        mean, variance = tf.nn.moments(values, others)
        factor = tf.math.rsqrt(variance + layer.epsilon) * (1.0 if layer.gamma is None else layer.gamma)
    shift = (0.0 if layer.beta is None else layer.beta) - mean * factor
    shape = [1 if one in others else -1 for one in range(len(values.shape))]
    factor, shift = (rounds(tf.reshape(one, shape), "", Role.CONSTANT) for one in (factor, shift))
    return rounds(values * factor, "product") + shift


def separable(layer: Any, values: Any, rounds: RoundBetween) -> Any:
    """Compute a separable convolution of images as two operators, with rounding between."""
    strides = (1, *layer.strides, 1)
    deep = tf.nn.depthwise_conv2d(
        values, tf.convert_to_tensor(layer.depthwise_kernel), strides, layer.padding.upper(), None, layer.dilation_rate
    )
    sums = tf.nn.conv2d(rounds(deep, "deep"), tf.convert_to_tensor(layer.pointwise_kernel), 1, "VALID")
    sums = sums + layer.bias if layer.use_bias else sums
    return sums if layer.activation is None else layer.activation(sums)
