"""The rules by which each kind of Keras layer passes channels on: ``RULES``, one function for each kind.

A rule gets one call and returns the channel axis of the output. The inputs of a layer without a rule are not cut, and
the reason is recorded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from edgekit_converters.prune.keras.attention import trace_attention
from edgekit_converters.prune.keras.channels import Ids, ResizedShape, TrackedAxis, UngroupedCost
from edgekit_converters.prune.keras.layer_call import LayerCall

POINTWISE = re.compile(  # activations that are computed value by value
    "linear|relu6?|sigmoid|tanh|silu|swish|[gecs]elu|softplus|softsign|hard(sigmoid|silu|swish|tanh|shrink)|exponential|"
    "mish|leakyrelu|logsigmoid|softshrink|tanhshrink|squareplus|threshold"
)


Rule = Callable[[LayerCall], TrackedAxis]


def propagate(layer_call: LayerCall) -> TrackedAxis:
    """Return the channel axis of a call's output, and record how the call uses the channels of its inputs."""
    rule = RULES.get(layer_call.call.kind)
    first = getattr(layer_call.layer, "data_format", None) == "channels_first"
    if rule is None or first or len(layer_call.call.constants) > 0 or not layer_call.tags:
        return _unsupported(layer_call)
    return rule(layer_call)


def _unsupported(layer_call: LayerCall, what: str = "") -> TrackedAxis:
    if layer_call.tags:
        layer_call.keep("goes through")
    what = what or ("constant arrays" if layer_call.call.constants else f"a layer of kind {layer_call.call.kind}")
    layer_call.tracing.unsupported[layer_call.call.name] = f"edgekit does not know how to cut {what}"
    return layer_call.whole()


def _activation(layer_call: LayerCall, tag: TrackedAxis) -> TrackedAxis:
    """Keep channels that an activation mixes: a softmax sums over all of them."""
    activation = getattr(layer_call.layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__).lower().replace("_", "")
    if activation is not None and not POINTWISE.fullmatch(name):
        layer_call.tracing.partition.keep(
            tag.ids, f"the {name} of {layer_call.call.name!r} is computed over all channels"
        )
    return tag


def _elementwise(layer_call: LayerCall) -> TrackedAxis:
    return _activation(layer_call, layer_call.tags[0])


def _spatial(layer_call: LayerCall) -> TrackedAxis:
    """Handle layers that work on each channel alone, over the dimensions before it."""
    if layer_call.last:
        return TrackedAxis(len(layer_call.shape) - 1, layer_call.tags[0].ids)
    layer_call.keep("has its channels on an axis other than the last in")
    return layer_call.whole()


def _softmax(layer_call: LayerCall) -> TrackedAxis:
    axes = np.atleast_1d(getattr(layer_call.layer, "axis", -1)) % len(layer_call.shape)
    if layer_call.tags[0].axis in axes:
        layer_call.keep("is normalized over all channels by")
    return layer_call.tags[0]


def _rescale(layer_call: LayerCall) -> TrackedAxis:
    """Handle Rescaling and Normalization: constants by channel are stored in the config and not cut."""
    if any(np.ndim(getattr(layer_call.layer, name, 0)) for name in ("scale", "offset", "mean", "variance")):
        layer_call.keep("goes through")
    return layer_call.tags[0]


def _consume(layer_call: LayerCall, weight: str, axis: int) -> Ids:
    ids = layer_call.tags[0].ids
    if not layer_call.last:
        layer_call.keep("has its channels on an axis other than the last in")
        ids = layer_call.tracing.partition.whole(layer_call.shapes[0][-1], "it is computed across channels")
    layer_call.tracing.attach(layer_call.layer, weight, axis, "consumes", ids)
    return ids


def _bias(layer_call: LayerCall, ids: Ids) -> int:
    if getattr(layer_call.layer, "bias", None) is None:
        return 0
    layer_call.tracing.attach(layer_call.layer, "bias", 0, "produces", ids)
    return 1


def _dense(layer_call: LayerCall) -> TrackedAxis:
    ins = _consume(layer_call, "kernel", 0)
    outs = layer_call.tracing.produced(layer_call.layer, "kernel", 1, "neurons")
    channel_parameters = _bias(layer_call, outs)
    cost = UngroupedCost(
        layer_call.call.name,
        "dense",
        ins,
        outs,
        layer_call.positions(layer_call.shape),
        channel_parameters=channel_parameters,
    )
    layer_call.tracing.add_cost(layer_call.layer, cost)
    return _activation(layer_call, TrackedAxis(len(layer_call.shape) - 1, outs))


def _conv(layer_call: LayerCall) -> TrackedAxis:
    divisions = int(getattr(layer_call.layer, "groups", 1))
    if divisions > 1:
        return _grouped_conv(layer_call, divisions)
    ins = _consume(layer_call, "kernel", -2)
    return _convolved(
        layer_call, ins, layer_call.tracing.produced(layer_call.layer, "kernel", -1, "channels"), layer_call.shape
    )


def _transposed_conv(layer_call: LayerCall) -> TrackedAxis:
    ins = _consume(layer_call, "kernel", -1)
    return _convolved(
        layer_call, ins, layer_call.tracing.produced(layer_call.layer, "kernel", -2, "channels"), layer_call.shapes[0]
    )


def _grouped_conv(layer_call: LayerCall, divisions: int) -> TrackedAxis:
    """Keep the number of groups: channels at the same index in each group are joined.

    With one channel a group, the layer is handled as depthwise.
    """
    ids, partition = layer_call.tags[0].ids, layer_call.tracing.partition
    if not layer_call.last or len(ids) == divisions:
        return _unsupported(layer_call, f"a convolution with {divisions} groups of {len(ids)} channels")
    outs = layer_call.tracing.produced(layer_call.layer, "kernel", -1, "channels")
    for side in (ids, outs):
        by_division = side.reshape(divisions, -1)
        for row in by_division[1:]:
            partition.unite(by_division[0], row)
    layer_call.tracing.attach(layer_call.layer, "kernel", -2, "consumes", ids[: len(ids) // divisions])
    return _convolved(layer_call, ids, outs, layer_call.shape, divisions)


def _convolved(layer_call: LayerCall, ins: Ids, outs: Ids, counted: tuple[int, ...], divisions: int = 1) -> TrackedAxis:
    layer = layer_call.layer
    cost = UngroupedCost(
        layer=layer_call.call.name,
        operator="conv",
        ins=ins,
        outs=outs,
        positions=layer_call.positions(counted),
        kernel=tuple(map(int, layer.kernel_size)),
        stride=tuple(map(int, layer.strides)),
        channel_parameters=_bias(layer_call, outs),
        divisions=divisions,
    )
    layer_call.tracing.add_cost(layer, cost)
    return _activation(layer_call, TrackedAxis(len(layer_call.shape) - 1, outs))


def _depthwise(layer_call: LayerCall) -> TrackedAxis:
    outs = _spread_depthwise(layer_call, "kernel" if hasattr(layer_call.layer, "kernel") else "depthwise_kernel")
    _add_depthwise_cost(layer_call, outs, _bias(layer_call, outs))
    return _activation(layer_call, TrackedAxis(len(layer_call.shape) - 1, outs))


def _separable(layer_call: LayerCall) -> TrackedAxis:
    between = _spread_depthwise(layer_call, "depthwise_kernel")
    _add_depthwise_cost(layer_call, between, 0)
    layer_call.tracing.attach(layer_call.layer, "pointwise_kernel", -2, "consumes", between)
    outs = layer_call.tracing.produced(layer_call.layer, "pointwise_kernel", -1, "channels")
    channel_parameters, once = _bias(layer_call, outs), (1,) * len(layer_call.layer.kernel_size)
    cost = UngroupedCost(
        layer_call.call.name,
        "conv",
        between,
        outs,
        layer_call.positions(layer_call.shape),
        once,
        once,
        channel_parameters,
    )
    layer_call.tracing.add_cost(layer_call.layer, cost)
    return _activation(layer_call, TrackedAxis(len(layer_call.shape) - 1, outs))


def _spread_depthwise(layer_call: LayerCall, weight: str) -> Ids:
    """Return the output channels: each input channel produces ``depth_multiplier`` of them."""
    if not layer_call.last:
        layer_call.keep("has its channels on an axis other than the last in")
    ids = layer_call.tags[0].ids if layer_call.last else layer_call.whole().ids
    layer_call.tracing.attach(layer_call.layer, weight, -2, "passes", ids)
    return np.repeat(ids, int(layer_call.layer.depth_multiplier))


def _add_depthwise_cost(layer_call: LayerCall, outs: Ids, channel_parameters: int) -> None:
    kernel, stride = (tuple(map(int, value)) for value in (layer_call.layer.kernel_size, layer_call.layer.strides))
    positions = layer_call.positions(layer_call.shape)
    cost = UngroupedCost(
        layer_call.call.name, "depthwise", layer_call.tags[0].ids, outs, positions, kernel, stride, channel_parameters
    )
    layer_call.tracing.add_cost(layer_call.layer, cost)


def _per_channel(layer_call: LayerCall, names: tuple[str, ...]) -> TrackedAxis:
    """Follow weights that have one entry a channel."""
    tag = layer_call.tags[0]
    own = {id(weight) for weight in layer_call.layer.weights}
    there = [name for name in names if id(getattr(layer_call.layer, name, None)) in own]
    for name in there:
        layer_call.tracing.attach(layer_call.layer, name, 0, "passes", tag.ids)
    cost = UngroupedCost(
        layer_call.call.name,
        "elementwise",
        tag.ids,
        tag.ids,
        layer_call.positions(layer_call.shape),
        channel_parameters=len(there),
    )
    layer_call.tracing.add_cost(layer_call.layer, cost)
    return tag


def _normalized(layer_call: LayerCall) -> TrackedAxis:
    """Handle BatchNorm and LayerNorm over the channel axis."""
    axes = tuple(np.atleast_1d(layer_call.layer.axis) % len(layer_call.shape))
    if axes != (layer_call.tags[0].axis,):
        return _unsupported(layer_call)
    return _per_channel(layer_call, ("gamma", "beta", "scale", "moving_mean", "moving_variance"))


def _group_normalized(layer_call: LayerCall) -> TrackedAxis:
    """Keep the number of groups: channels at the same index in each group are joined, so groups stay equally large."""
    tag, divisions = layer_call.tags[0], int(layer_call.layer.groups)
    if layer_call.layer.axis % len(layer_call.shape) != tag.axis or divisions in (-1, len(tag.ids)):
        return _unsupported(layer_call)
    by_group = tag.ids.reshape(divisions, -1)
    for row in by_group[1:]:
        layer_call.tracing.partition.unite(by_group[0], row)
    return _per_channel(layer_call, ("gamma", "beta"))


def _prelu(layer_call: LayerCall) -> TrackedAxis:
    tag, alpha = layer_call.tags[0], layer_call.layer.alpha
    if alpha.shape[tag.axis - 1] == 1 and layer_call.shape[tag.axis] > 1:
        return tag  # one slope for all channels
    layer_call.tracing.attach(layer_call.layer, "alpha", tag.axis - 1, "passes", tag.ids)
    channel_parameters = math.prod(alpha.shape) // alpha.shape[tag.axis - 1]
    positions = layer_call.positions(layer_call.shape)
    layer_call.tracing.add_cost(
        layer_call.layer,
        UngroupedCost(
            layer_call.call.name, "elementwise", tag.ids, tag.ids, positions, channel_parameters=channel_parameters
        ),
    )
    return tag


def _merge(layer_call: LayerCall) -> TrackedAxis:
    """Join channels that are added or multiplied; a single channel that is broadcast over all of them is kept."""
    rank, partition = len(layer_call.shape), layer_call.tracing.partition
    aligned = [
        (tag, tag.axis - len(shape), shape) for tag, shape in zip(layer_call.tags, layer_call.shapes, strict=True)
    ]
    full = [(tag, axis) for tag, axis, shape in aligned if shape[axis] == layer_call.shape[axis] > 1] or [
        aligned[0][:2]
    ]
    ids, axis = full[0][0].ids, full[0][1]
    if any(other != axis for _, other in full):
        layer_call.keep("is joined across channels in")
        return layer_call.whole()
    for tag, _ in full[1:]:
        partition.unite(ids, tag.ids)
    for tag, other, shape in aligned:
        if shape[other] == 1 and layer_call.shape[other] > 1:
            partition.keep(tag.ids, f"its output is broadcast over all channels in {layer_call.call.name!r}")
    return TrackedAxis(rank + axis, ids)


def _concatenated(layer_call: LayerCall) -> TrackedAxis:
    axis = int(layer_call.layer.axis) % len(layer_call.shape)
    if {tag.axis for tag in layer_call.tags} == {axis}:
        return TrackedAxis(axis, np.concatenate([tag.ids for tag in layer_call.tags]))
    if len({tag.axis for tag in layer_call.tags}) > 1:
        layer_call.keep("is joined across channels in")
        return layer_call.whole()
    return _merge(layer_call)


def _reshaped(layer_call: LayerCall) -> TrackedAxis:
    """Track the values one by one; channels that would spread over several axes are kept."""
    has_shape = any(hasattr(layer_call.layer, name) for name in ("target_shape", "newshape"))
    if not has_shape and layer_call.call.kind != "Flatten":
        return _unsupported(layer_call)
    values = layer_call.tags[0].broadcast(layer_call.shapes[0]).reshape(layer_call.shape[1:])
    varying = [axis for axis in range(values.ndim) if np.any(np.diff(values, axis=axis))]
    if len(varying) > 1:
        layer_call.keep("is mixed with positions by")
        return layer_call.whole()
    alone = [axis for axis in range(values.ndim) if values.shape[axis] == 1]
    axis = varying[0] if varying else (alone[-1] if len(layer_call.tags[0].ids) == 1 and alone else values.ndim - 1)
    ids = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])[0]
    if has_shape:
        layer_call.tracing.resized.append(ResizedShape(layer_call.call.name, axis + 1, ids))
    return TrackedAxis(axis + 1, ids)


def _nested_input(layer_call: LayerCall) -> TrackedAxis:
    """Handle the input layer of a nested model, which stores a shape."""
    layer_call.tracing.resized.append(
        ResizedShape(layer_call.call.name, layer_call.tags[0].axis, layer_call.tags[0].ids)
    )
    return layer_call.tags[0]


def _permuted(layer_call: LayerCall) -> TrackedAxis:
    return TrackedAxis((0, *layer_call.layer.dims).index(layer_call.tags[0].axis), layer_call.tags[0].ids)


DIMENSIONS = ("1D", "2D", "3D")
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Addv2", "Sub", "Mul", "Divide", "TrueDivide")
VALUES = (  # layers that compute each value alone, or do nothing at inference
    *("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Identity", "ActivityRegularization"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", *(f"SpatialDropout{d}" for d in DIMENSIONS)),
    *("Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu", "Elu", "LeakyRelu", "Softplus", "HardSigmoid", "HardSilu"),
    *("Exp", "Sqrt", "Square", "Abs", "Absolute", "Negative"),
)
RULES: dict[str, Rule] = {
    "InputLayer": _nested_input,
    "Dense": _dense,
    **{f"Conv{d}": _conv for d in DIMENSIONS},
    **{f"Conv{d}Transpose": _transposed_conv for d in DIMENSIONS},
    **{f"DepthwiseConv{d}": _depthwise for d in DIMENSIONS[:2]},
    **{f"SeparableConv{d}": _separable for d in DIMENSIONS[:2]},
    "MultiHeadAttention": lambda layer_call: trace_attention(layer_call) or _unsupported(layer_call),
    **dict.fromkeys(("BatchNormalization", "LayerNormalization", "RMSNormalization"), _normalized),
    "GroupNormalization": _group_normalized,
    "PReLU": _prelu,
    **dict.fromkeys(MERGES, _merge),
    "Concatenate": _concatenated,
    **dict.fromkeys(("Reshape", "Flatten"), _reshaped),
    "Permute": _permuted,
    **{f"{name}Pooling{d}": _spatial for name in ("Max", "Average") for d in DIMENSIONS},
    **{f"Adaptive{name}Pooling{d}": _spatial for name in ("Max", "Average") for d in DIMENSIONS},
    **{f"{name}{d}": _spatial for name in ("ZeroPadding", "Cropping", "UpSampling") for d in DIMENSIONS},
    "Resizing": _spatial,
    **{f"Global{name}Pooling{d}": _spatial for name in ("Max", "Average") for d in DIMENSIONS},
    **dict.fromkeys(VALUES, _elementwise),
    **dict.fromkeys(("Rescaling", "Normalization"), _rescale),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
}
