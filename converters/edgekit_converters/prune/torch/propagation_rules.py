"""What each operation of an exported PyTorch module does with channels: a row a kind of operation in ``RULES``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgekit_converters.prune.torch.channels import ChannelMap, Rule, TensorIds, argument, axes_of, operator, owner
from edgekit_converters.prune.torch.reshape_rules import SHAPE_RULES
from edgekit_converters.prune.torch.union_find import Ids, along_axis, untracked, varying_axes

Conv = nn.modules.conv._ConvNd
Norm = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def produces_channels(rule: Rule) -> Rule:
    """Mark a rule of layers that produce new channels for any input."""
    rule.produces_channels = True  # type: ignore[attr-defined]
    return rule


def along(channels: ChannelMap, ids: Ids, axis: int, why: str) -> Ids:
    """Return the ids along one axis, (n,), or (1,) of NONE; channels that vary along other axes are kept."""
    if varying_axes(ids) not in ([], [axis]):
        channels.union_find.keep(ids, why)
        return untracked(1)
    return ids.ravel()


def join_inputs(channels: ChannelMap, layer: str, node: Any, axis: int) -> None:
    """Record the channels that a layer reads along an axis."""
    ids = along(channels, channels.ids(node), axis, f"goes into {layer} along another axis than channels")
    channels.join_layer(layer, "in", np.broadcast_to(ids, (channels.shape(node)[axis],)))


@produces_channels
def convolution(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Take channels of axis 1 and give others; in a grouped one, a group's are one with those it takes."""
    data, weight = node.args[:2]
    layer = channels.layer(weight, Conv)
    if layer is None:
        return unsupported_weights(channels, node)
    module: Any = channels.modules[layer]
    join_inputs(channels, layer, data, 1)
    given = channels.join_layer(layer, "out", channels.union_find.new(module.out_channels))
    if module.groups > 1:
        inner = channels.layer_ids[layer, "in"].reshape(module.groups, -1)
        outer = given.reshape(module.groups, -1)
        channels.union_find.join_along(outer, [1])
        channels.union_find.join(inner, outer[:, :1])
        if module.transposed or (inner < 0).any():
            channels.union_find.keep(given, f"{layer} is a grouped convolution with untracked inputs")
    return along_axis(given, 1, len(channels.shape(node)))


@produces_channels
def linear(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Take and give along the last axis."""
    data, weight = node.args[:2]
    layer = channels.layer(weight, nn.Linear)
    if layer is None:
        return unsupported_weights(channels, node)
    axes = len(channels.shape(node))
    join_inputs(channels, layer, data, axes - 1)
    given = channels.join_layer(layer, "out", channels.union_find.new(channels.shape(node)[-1]))
    return along_axis(given, axes - 1, axes)


@produces_channels
def embedding(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Give a row of the table."""
    layer = channels.layer(node.args[0], nn.Embedding)
    if layer is None:
        return untracked(len(channels.shape(node)))
    axes = len(channels.shape(node))
    return along_axis(
        channels.join_layer(layer, "out", channels.union_find.new(channels.shape(node)[-1])), axes - 1, axes
    )


def unsupported_weights(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Let a layer stay whose weights are computed, as by ``weight_norm``, or are a module's own parameters."""
    channels.unsupported.setdefault(
        owner(node), f"the weights of its {operator(node)} are not those of a supported layer"
    )
    return keep_operands(channels, node)


def keep_operands(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Keep the inputs of an operation whose weights do not belong to a layer of its kind."""
    channels.keep_inputs(
        node,
        f"goes into {operator(node)} in {owner(node) or 'the model'}, whose weights are not those of a supported layer",
    )
    return untracked(len(channels.shape(node)))


def normalization(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Normalize each channel by itself: BatchNorm, InstanceNorm."""
    ids = channels.ids(node.args[0])
    weights = [one for one in node.args[1:5] if isinstance(one, fx.Node)]
    layer = next((path for one in weights if (path := channels.layer(one, Norm)) is not None), None)
    if layer is None and weights:
        return keep_operands(channels, node)
    if layer is not None:
        axis_ids = along(channels, ids, 1, f"goes into {layer} along another axis than channels")
        channels.join_layer(layer, "through", np.broadcast_to(axis_ids, (channels.shape(node)[1],)))
    return ids


def group_normalization(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Normalize groups of channels: whole groups are cut, so that the others' statistics stay."""
    layer = channels.layer(argument(node, 2, "weight"), nn.GroupNorm)
    if layer is None:
        return keep_operands(channels, node)
    ids = along(channels, channels.ids(node.args[0]), 1, f"goes into {layer} along another axis than channels")
    groups: Any = node.args[1]
    if groups == 1:
        channels.union_find.keep(ids, f"{layer} normalizes over all of them")
    channels.union_find.join_along(channels.join_layer(layer, "through", ids).reshape(groups, -1), [1])
    return along_axis(ids, 1, len(channels.shape(node)))


def layer_normalization(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Keep the channels that are normalized over: a cut would change their statistics."""
    ids = channels.ids(node.args[0])
    size = len(node.args[1])
    path = owner(node) or "layer_norm"
    return channels.mix(ids, list(range(ids.ndim - size, ids.ndim)), f"{path} normalizes over all of them")


def prelu(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Handle PReLU: one slope for each channel, or one for all."""
    ids = channels.ids(node.args[0])
    layer = channels.layer(node.args[1], nn.PReLU)
    if layer is None:
        return keep_operands(channels, node)
    if channels.modules[layer].num_parameters > 1:
        channels.join_layer(
            layer, "through", along(channels, ids, 1, f"goes into {layer} along another axis than channels")
        )
    return ids


def elementwise(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Join the channels of combined tensors."""
    axes = len(channels.shape(node))
    why = f"is combined by {operator(node)} in {owner(node) or 'the model'} with untracked elements"
    tensors = [one for one in node.all_input_nodes if isinstance(one.meta.get("val"), torch.Tensor)]
    labelled = [one for one in tensors if varying_axes(channels.ids(one))]
    for one in tensors:
        if one.op == "get_attr" and labelled:
            _join_parameter(channels, one, np.broadcast_shapes(*(channels.ids(other).shape for other in labelled)))
    return channels.combine([(channels.ids(one), channels.shape(one)) for one in tensors], axes, why)


def _join_parameter(channels: ChannelMap, node: fx.Node, common: tuple[int, ...]) -> None:
    """Cut a parameter of the module itself, such as a scale, with the channels it is combined with."""
    shape, name = channels.shape(node), str(node.target).removeprefix("module.")
    parameter = getattr(channels.modules.get(name.rpartition(".")[0]), name.rpartition(".")[2], None)
    cut = [axis for axis, size in enumerate(shape) if size > 1 and common[axis - len(shape) + len(common)] > 1]
    if len(cut) == 1 and len(shape) <= len(common) and isinstance(parameter, nn.Parameter):
        ids = channels.join_layer(name, f"axis {cut[0]}", channels.union_find.new(shape[cut[0]]))
        channels.tensor_ids[node] = along_axis(ids, cut[0], len(shape))


def spatial(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Pool or resize all axes after the channels."""
    ids = channels.ids(node.args[0])
    mixed = channels.mix(ids, list(range(2, ids.ndim)), f"is spread over the image where {operator(node)} mixes it")
    return [mixed, mixed] if isinstance(node.meta["val"], (tuple, list)) else mixed


def reduction(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Reduce some axes, or all."""
    ids = channels.ids(node.args[0])
    axes = axes_of(argument(node, 1, "dim"), ids.ndim)
    mixed = channels.mix(ids, axes, f"is reduced by {operator(node)} in {owner(node) or 'the model'}")
    kept = len(channels.shape(node)) == ids.ndim
    return mixed if kept else mixed.reshape([size for axis, size in enumerate(mixed.shape) if axis not in axes])


def softmax(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Divide by a sum over one axis."""
    ids = channels.ids(node.args[0])
    axes = axes_of(argument(node, 1, "dim"), ids.ndim)
    return channels.mix(ids, axes, f"is normalized by {operator(node)} in {owner(node) or 'the model'}")


def product(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Handle matrix products: channels that are summed over are mixed, the remaining axes of both are joined."""
    one, other = node.args[:2]
    if min(len(channels.shape(one)), len(channels.shape(other))) < 2:
        return keep_operands(channels, node)
    why = f"is summed over by {operator(node)} in {owner(node) or 'the model'}"
    left = channels.mix(channels.ids(one), [len(channels.shape(one)) - 1], why)
    right = channels.mix(channels.ids(other), [len(channels.shape(other)) - 2], why)
    shapes = (*channels.shape(one)[:-1], 1), (*channels.shape(other)[:-2], 1, channels.shape(other)[-1])
    ids = channels.combine([(left, shapes[0]), (right, shapes[1])], len(channels.shape(node)), why)
    channels.attention_ids.append(ids)
    return ids


def attention(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Softmax(q·kᵀ)·v: a head is one, of queries, keys and values."""
    query, key, value = node.args[:3]
    why = f"is summed over by attention in {owner(node) or 'the model'}"
    if node.kwargs.get("enable_gqa"):
        return keep_operands(channels, node)
    axes = len(channels.shape(node))
    mixed = [
        (channels.mix(channels.ids(one), [axes - 1, axes - 2], why), (*channels.shape(one)[:-2], 1, 1))
        for one in (query, key)
    ]
    mask = argument(node, 3, "attn_mask")
    if isinstance(mask, fx.Node):
        mixed.append(
            (channels.mix(channels.ids(mask), [len(channels.shape(mask)) - 1], why), (*channels.shape(mask)[:-2], 1, 1))
        )
    values = channels.mix(channels.ids(value), [axes - 2], why)
    shape = channels.shape(value)
    ids = channels.combine([*mixed, (values, (*shape[:-2], 1, shape[-1]))], axes, why)
    channels.attention_ids.append(ids)
    return ids


def einsum(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Einstein's summation, without repeated letters in an operand."""
    equation: Any = node.args[0]
    tensors: Any = node.args[1]
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    letters = inputs.split(",")
    if not arrow or "." in equation or any(len(set(one)) < len(one) for one in letters):
        return keep_operands(channels, node)
    why = f"is summed over by einsum in {owner(node) or 'the model'}"
    operands = []
    for one, names in zip(tensors, letters, strict=True):
        ids = channels.mix(channels.ids(one), [axis for axis, name in enumerate(names) if name not in output], why)
        operands.append(
            (
                _to_output_axes(ids, names, output),
                _to_output_axes(np.empty(channels.shape(one)), names, output, size=True).shape,
            )
        )
    ids = channels.combine(operands, len(output), why)
    channels.attention_ids.append(ids)
    return ids


def _to_output_axes(ids: Ids, names: str, output: str, *, size: bool = False) -> Ids:
    """Return an operand with its axes in the order of the output's."""
    removed = [axis for axis, name in enumerate(names) if name not in output]
    left = ids.reshape([1 if axis in removed else n for axis, n in enumerate(ids.shape)]) if not size else ids
    if size:
        left = left[tuple(slice(0, 1) if axis in removed else slice(None) for axis in range(left.ndim))]
    left = left.squeeze(tuple(removed)) if removed else left
    kept = [name for name in names if name in output]
    order = [kept.index(name) for name in output if name in kept]
    left = left.transpose(order)
    return left.reshape(
        [left.shape[[n for n in output if n in kept].index(name)] if name in kept else 1 for name in output]
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convolution),
    "linear": linear,
    "embedding": embedding,
    **dict.fromkeys(("batch_norm", "instance_norm"), normalization),
    "group_norm": group_normalization,
    "layer_norm": layer_normalization,
    "rms_norm": layer_normalization,
    "prelu": prelu,
    **dict.fromkeys(
        (
            *("relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid"),
            *("hardsigmoid_", "silu", "silu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "gelu", "elu", "elu_", "selu"),
            *("leaky_relu", "leaky_relu_", "mish", "mish_", "softplus", "celu", "threshold", "abs", "neg", "sqrt"),
            *("rsqrt", "exp", "log", "square", "erf", "sin", "cos", "reciprocal", "sign", "clamp", "clamp_"),
            *("clamp_min", "clamp_max", "clone", "contiguous", "detach", "detach_", "alias", "to", "_to_copy"),
            *("type_as", "dropout", "dropout_", "feature_dropout", "alpha_dropout", "lift_fresh_copy"),
            *("add", "add_", "sub", "sub_", "rsub", "mul", "mul_", "div", "div_", "true_divide", "maximum", "minimum"),
            *("pow", "where", "masked_fill", "masked_fill_", "eq", "ne", "lt", "le", "gt", "ge", "lerp"),
        ),
        elementwise,
    ),
    **dict.fromkeys(
        (
            *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
            *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d"),
            *("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_linear1d"),
            *("upsample_bicubic2d", "upsample_nearest3d", "_upsample_nearest_exact2d"),
        ),
        spatial,
    ),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "argmax", "argmin", "logsumexp", "prod"), reduction),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), softmax),
    **dict.fromkeys(("matmul", "bmm"), product),
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
    **SHAPE_RULES,
}
