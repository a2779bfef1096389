"""What each operation of an exported PyTorch module does with channels: a row a kind of operation in ``RULES``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgekit_converters.prune.torch.channels import Followed, Rule, State, argument, axes_of, operator, owner
from edgekit_converters.prune.torch.reshape_rules import MOVES
from edgekit_converters.prune.torch.union_find import Ids, nothing, placed, varying

Conv = nn.modules.conv._ConvNd
Norm = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def makes(rule: Rule) -> Rule:
    """Mark a rule of layers whose outputs are channels of their own, whatever they take."""
    rule.makes = True  # type: ignore[attr-defined]
    return rule


def along(found: Followed, ids: Ids, axis: int, why: str) -> Ids:
    """Return the ids along one axis, (n,), or (1,) of NONE; what varies along others must stay."""
    if varying(ids) not in ([], [axis]):
        found.units.keep(ids, why)
        return nothing(1)
    return ids.ravel()


def taken(found: Followed, layer: str, node: Any, axis: int) -> None:
    """Note what a layer takes along an axis."""
    ids = along(found, found.ids(node), axis, f"goes into {layer} along another axis than channels")
    found.member(layer, "in", np.broadcast_to(ids, (found.shape(node)[axis],)))


@makes
def convolution(found: Followed, node: fx.Node) -> State:
    """Take channels of axis 1 and give others; in a grouped one, a group's are one with those it takes."""
    data, weight = node.args[:2]
    layer = found.layer(weight, Conv)
    if layer is None:
        return strange(found, node)
    module: Any = found.modules[layer]
    taken(found, layer, data, 1)
    given = found.member(layer, "out", found.units.new(module.out_channels))
    if module.groups > 1:
        inner = found.members[layer, "in"].reshape(module.groups, -1)
        outer = given.reshape(module.groups, -1)
        found.units.join_along(outer, [1])
        found.units.join(inner, outer[:, :1])
        if module.transposed or (inner < 0).any():
            found.units.keep(given, f"{layer} is a grouped convolution of what is not followed")
    return placed(given, 1, len(found.shape(node)))


@makes
def linear(found: Followed, node: fx.Node) -> State:
    """Take and give along the last axis."""
    data, weight = node.args[:2]
    layer = found.layer(weight, nn.Linear)
    if layer is None:
        return strange(found, node)
    axes = len(found.shape(node))
    taken(found, layer, data, axes - 1)
    given = found.member(layer, "out", found.units.new(found.shape(node)[-1]))
    return placed(given, axes - 1, axes)


@makes
def embedding(found: Followed, node: fx.Node) -> State:
    """Give a row of the table."""
    layer = found.layer(node.args[0], nn.Embedding)
    if layer is None:
        return nothing(len(found.shape(node)))
    axes = len(found.shape(node))
    return placed(found.member(layer, "out", found.units.new(found.shape(node)[-1])), axes - 1, axes)


def strange(found: Followed, node: fx.Node) -> State:
    """Let a layer stay whose weights are computed, as by ``weight_norm``, or are a module's own parameters."""
    found.strange.setdefault(owner(node), f"the weights of its {operator(node)} are no plain layer's")
    return elsewhere(found, node)


def elsewhere(found: Followed, node: fx.Node) -> State:
    """Let what goes into an operation stay when its weights are no layer's of its kind."""
    found.opaque(
        node, f"goes into {operator(node)} in {owner(node) or 'the model'}, whose weights are no plain layer's"
    )
    return nothing(len(found.shape(node)))


def normalization(found: Followed, node: fx.Node) -> State:
    """Normalize each channel by itself: BatchNorm, InstanceNorm."""
    ids = found.ids(node.args[0])
    weights = [one for one in node.args[1:5] if isinstance(one, fx.Node)]
    layer = next((path for one in weights if (path := found.layer(one, Norm)) is not None), None)
    if layer is None and weights:
        return elsewhere(found, node)
    if layer is not None:
        line = along(found, ids, 1, f"goes into {layer} along another axis than channels")
        found.member(layer, "through", np.broadcast_to(line, (found.shape(node)[1],)))
    return ids


def group_normalization(found: Followed, node: fx.Node) -> State:
    """Normalize groups of channels: whole groups are cut, so that the others' statistics stay."""
    layer = found.layer(argument(node, 2, "weight"), nn.GroupNorm)
    if layer is None:
        return elsewhere(found, node)
    ids = along(found, found.ids(node.args[0]), 1, f"goes into {layer} along another axis than channels")
    groups: Any = node.args[1]
    if groups == 1:
        found.units.keep(ids, f"{layer} normalizes over all of them")
    found.units.join_along(found.member(layer, "through", ids).reshape(groups, -1), [1])
    return placed(ids, 1, len(found.shape(node)))


def layer_normalization(found: Followed, node: fx.Node) -> State:
    """Normalize over the last axes: what is left would have other statistics."""
    ids = found.ids(node.args[0])
    size = len(node.args[1])
    path = owner(node) or "layer_norm"
    return found.mix(ids, list(range(ids.ndim - size, ids.ndim)), f"{path} normalizes over all of them")


def prelu(found: Followed, node: fx.Node) -> State:
    """Multiply what is negative, each channel by its own slope or all by the same."""
    ids = found.ids(node.args[0])
    layer = found.layer(node.args[1], nn.PReLU)
    if layer is None:
        return elsewhere(found, node)
    if found.modules[layer].num_parameters > 1:
        found.member(layer, "through", along(found, ids, 1, f"goes into {layer} along another axis than channels"))
    return ids


def elementwise(found: Followed, node: fx.Node) -> State:
    """Join what is combined."""
    axes = len(found.shape(node))
    why = f"is combined by {operator(node)} in {owner(node) or 'the model'} with what stays whole"
    tensors = [one for one in node.all_input_nodes if isinstance(one.meta.get("val"), torch.Tensor)]
    labelled = [one for one in tensors if varying(found.ids(one))]
    for one in tensors:
        if one.op == "get_attr" and labelled:
            _own(found, one, np.broadcast_shapes(*(found.ids(other).shape for other in labelled)))
    return found.combine([(found.ids(one), found.shape(one)) for one in tensors], axes, why)


def _own(found: Followed, node: fx.Node, common: tuple[int, ...]) -> None:
    """Let a parameter of a module itself, such as a scale, be cut with what it is combined with."""
    shape, name = found.shape(node), str(node.target).removeprefix("module.")
    parameter = getattr(found.modules.get(name.rpartition(".")[0]), name.rpartition(".")[2], None)
    cut = [axis for axis, size in enumerate(shape) if size > 1 and common[axis - len(shape) + len(common)] > 1]
    if len(cut) == 1 and len(shape) <= len(common) and isinstance(parameter, nn.Parameter):
        ids = found.member(name, f"axis {cut[0]}", found.units.new(shape[cut[0]]))
        found.states[node] = placed(ids, cut[0], len(shape))


def spatial(found: Followed, node: fx.Node) -> State:
    """Pool or resize all axes after the channels."""
    ids = found.ids(node.args[0])
    mixed = found.mix(ids, list(range(2, ids.ndim)), f"is spread over the image where {operator(node)} mixes it")
    return [mixed, mixed] if isinstance(node.meta["val"], (tuple, list)) else mixed


def reduction(found: Followed, node: fx.Node) -> State:
    """Reduce some axes, or all."""
    ids = found.ids(node.args[0])
    axes = axes_of(argument(node, 1, "dim"), ids.ndim)
    mixed = found.mix(ids, axes, f"is reduced by {operator(node)} in {owner(node) or 'the model'}")
    kept = len(found.shape(node)) == ids.ndim
    return mixed if kept else mixed.reshape([size for axis, size in enumerate(mixed.shape) if axis not in axes])


def softmax(found: Followed, node: fx.Node) -> State:
    """Divide by a sum over one axis."""
    ids = found.ids(node.args[0])
    axes = axes_of(argument(node, 1, "dim"), ids.ndim)
    return found.mix(ids, axes, f"is normalized by {operator(node)} in {owner(node) or 'the model'}")


def product(found: Followed, node: fx.Node) -> State:
    """Multiply matrices: what is summed over is mixed, and what is left of both is joined."""
    one, other = node.args[:2]
    if min(len(found.shape(one)), len(found.shape(other))) < 2:
        return elsewhere(found, node)
    why = f"is summed over by {operator(node)} in {owner(node) or 'the model'}"
    left = found.mix(found.ids(one), [len(found.shape(one)) - 1], why)
    right = found.mix(found.ids(other), [len(found.shape(other)) - 2], why)
    shapes = (*found.shape(one)[:-1], 1), (*found.shape(other)[:-2], 1, found.shape(other)[-1])
    ids = found.combine([(left, shapes[0]), (right, shapes[1])], len(found.shape(node)), why)
    found.heads.append(ids)
    return ids


def attention(found: Followed, node: fx.Node) -> State:
    """Softmax(q·kᵀ)·v: a head is one, of queries, keys and values."""
    query, key, value = node.args[:3]
    why = f"is summed over by attention in {owner(node) or 'the model'}"
    if node.kwargs.get("enable_gqa"):
        return elsewhere(found, node)
    axes = len(found.shape(node))
    mixed = [
        (found.mix(found.ids(one), [axes - 1, axes - 2], why), (*found.shape(one)[:-2], 1, 1)) for one in (query, key)
    ]
    mask = argument(node, 3, "attn_mask")
    if isinstance(mask, fx.Node):
        mixed.append((found.mix(found.ids(mask), [len(found.shape(mask)) - 1], why), (*found.shape(mask)[:-2], 1, 1)))
    values = found.mix(found.ids(value), [axes - 2], why)
    shape = found.shape(value)
    ids = found.combine([*mixed, (values, (*shape[:-2], 1, shape[-1]))], axes, why)
    found.heads.append(ids)
    return ids


def summed(found: Followed, node: fx.Node) -> State:
    """Einstein's summation, without repeated letters in an operand."""
    equation: Any = node.args[0]
    tensors: Any = node.args[1]
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    letters = inputs.split(",")
    if not arrow or "." in equation or any(len(set(one)) < len(one) for one in letters):
        return elsewhere(found, node)
    why = f"is summed over by einsum in {owner(node) or 'the model'}"
    operands = []
    for one, names in zip(tensors, letters, strict=True):
        ids = found.mix(found.ids(one), [axis for axis, name in enumerate(names) if name not in output], why)
        operands.append(
            (_spread(ids, names, output), _spread(np.empty(found.shape(one)), names, output, size=True).shape)
        )
    ids = found.combine(operands, len(output), why)
    found.heads.append(ids)
    return ids


def _spread(ids: Ids, names: str, output: str, *, size: bool = False) -> Ids:
    """Return an operand with its axes in the order of the output's."""
    gone = [axis for axis, name in enumerate(names) if name not in output]
    left = ids.reshape([1 if axis in gone else n for axis, n in enumerate(ids.shape)]) if not size else ids
    if size:
        left = left[tuple(slice(0, 1) if axis in gone else slice(None) for axis in range(left.ndim))]
    left = left.squeeze(tuple(gone)) if gone else left
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
    "einsum": summed,
    **MOVES,
}
