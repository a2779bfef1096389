"""What each kind of layer does with channels: ``RULES``, a function a kind.

A rule is told of one call and returns the tag of what the layer gives. A kind without a rule leaves what it takes
whole, and says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from edgekit_converters.prune.keras.attention import attended
from edgekit_converters.prune.keras.channels import Ids, Resized, Tag, Work
from edgekit_converters.prune.keras.layer_call import Seen

POINTWISE = re.compile(  # activations that look at one value at a time
    "linear|relu6?|sigmoid|tanh|silu|swish|[gecs]elu|softplus|softsign|hard(sigmoid|silu|swish|tanh|shrink)|exponential|"
    "mish|leakyrelu|logsigmoid|softshrink|tanhshrink|squareplus|threshold"
)


Rule = Callable[[Seen], Tag]


def follow(seen: Seen) -> Tag:
    """Return the tag of what a call gives, and note what it does with the channels it takes."""
    rule = RULES.get(seen.call.kind)
    first = getattr(seen.layer, "data_format", None) == "channels_first"
    if rule is None or first or len(seen.call.constants) > 0 or not seen.tags:
        return _unknown(seen)
    return rule(seen)


def _unknown(seen: Seen, what: str = "") -> Tag:
    if seen.tags:
        seen.hold("goes through")
    what = what or ("constant arrays" if seen.call.constants else f"a layer of kind {seen.call.kind}")
    seen.tracing.unknown[seen.call.name] = f"edgekit does not know how to cut {what}"
    return seen.whole()


def _activation(seen: Seen, tag: Tag) -> Tag:
    """Leave whole what an activation looks at together: a softmax sums over all channels."""
    activation = getattr(seen.layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__).lower().replace("_", "")
    if activation is not None and not POINTWISE.fullmatch(name):
        seen.tracing.partition.hold(tag.ids, f"the {name} of {seen.call.name!r} looks at all of it together")
    return tag


def _values(seen: Seen) -> Tag:
    return _activation(seen, seen.tags[0])


def _spatial(seen: Seen) -> Tag:
    """Follow what works on each channel by itself, over the dimensions before it."""
    if seen.last:
        return Tag(len(seen.shape) - 1, seen.tags[0].ids)
    seen.hold("lies across")
    return seen.whole()


def _softmax(seen: Seen) -> Tag:
    axes = np.atleast_1d(getattr(seen.layer, "axis", -1)) % len(seen.shape)
    if seen.tags[0].axis in axes:
        seen.hold("is all looked at together by")
    return seen.tags[0]


def _scaled(seen: Seen) -> Tag:
    """Follow a Rescaling or Normalization: scalars, or numbers a channel that its config holds and that stay."""
    if any(np.ndim(getattr(seen.layer, name, 0)) for name in ("scale", "offset", "mean", "variance")):
        seen.hold("goes through")
    return seen.tags[0]


def _uses(seen: Seen, weight: str, axis: int) -> Ids:
    ids = seen.tags[0].ids
    if not seen.last:
        seen.hold("lies across")
        ids = seen.tracing.partition.whole(seen.shapes[0][-1], "it goes across channels")
    seen.tracing.lie(seen.layer, weight, axis, "uses", ids)
    return ids


def _bias(seen: Seen, ids: Ids) -> int:
    if getattr(seen.layer, "bias", None) is None:
        return 0
    seen.tracing.lie(seen.layer, "bias", 0, "makes", ids)
    return 1


def _dense(seen: Seen) -> Tag:
    ins = _uses(seen, "kernel", 0)
    outs = seen.tracing.made(seen.layer, "kernel", 1, "neurons")
    extras = _bias(seen, outs)
    work = Work(seen.call.name, "dense", ins, outs, seen.positions(seen.shape), extras=extras)
    seen.tracing.works_at(seen.layer, work)
    return _activation(seen, Tag(len(seen.shape) - 1, outs))


def _conv(seen: Seen) -> Tag:
    divisions = int(getattr(seen.layer, "groups", 1))
    if divisions > 1:
        return _grouped_conv(seen, divisions)
    ins = _uses(seen, "kernel", -2)
    return _convolved(seen, ins, seen.tracing.made(seen.layer, "kernel", -1, "channels"), seen.shape)


def _transposed_conv(seen: Seen) -> Tag:
    ins = _uses(seen, "kernel", -1)
    return _convolved(seen, ins, seen.tracing.made(seen.layer, "kernel", -2, "channels"), seen.shapes[0])


def _grouped_conv(seen: Seen, divisions: int) -> Tag:
    """Keep the number of divisions: the channels in one place of each are one; one a division is as depthwise."""
    ids, partition = seen.tags[0].ids, seen.tracing.partition
    if not seen.last or len(ids) == divisions:
        return _unknown(seen, f"a convolution in {divisions} divisions of {len(ids)} channels")
    outs = seen.tracing.made(seen.layer, "kernel", -1, "channels")
    for side in (ids, outs):
        by_division = side.reshape(divisions, -1)
        for row in by_division[1:]:
            partition.unite(by_division[0], row)
    seen.tracing.lie(seen.layer, "kernel", -2, "uses", ids[: len(ids) // divisions])
    return _convolved(seen, ids, outs, seen.shape, divisions)


def _convolved(seen: Seen, ins: Ids, outs: Ids, counted: tuple[int, ...], divisions: int = 1) -> Tag:
    layer = seen.layer
    work = Work(
        layer=seen.call.name,
        operator="conv",
        ins=ins,
        outs=outs,
        positions=seen.positions(counted),
        kernel=tuple(map(int, layer.kernel_size)),
        stride=tuple(map(int, layer.strides)),
        extras=_bias(seen, outs),
        divisions=divisions,
    )
    seen.tracing.works_at(layer, work)
    return _activation(seen, Tag(len(seen.shape) - 1, outs))


def _depthwise(seen: Seen) -> Tag:
    outs = _spread_depthwise(seen, "kernel" if hasattr(seen.layer, "kernel") else "depthwise_kernel")
    _works_depthwise(seen, outs, _bias(seen, outs))
    return _activation(seen, Tag(len(seen.shape) - 1, outs))


def _separable(seen: Seen) -> Tag:
    between = _spread_depthwise(seen, "depthwise_kernel")
    _works_depthwise(seen, between, 0)
    seen.tracing.lie(seen.layer, "pointwise_kernel", -2, "uses", between)
    outs = seen.tracing.made(seen.layer, "pointwise_kernel", -1, "channels")
    extras, once = _bias(seen, outs), (1,) * len(seen.layer.kernel_size)
    work = Work(seen.call.name, "conv", between, outs, seen.positions(seen.shape), once, once, extras)
    seen.tracing.works_at(seen.layer, work)
    return _activation(seen, Tag(len(seen.shape) - 1, outs))


def _spread_depthwise(seen: Seen, weight: str) -> Ids:
    """Each channel makes ``depth_multiplier`` others, which go with it."""
    if not seen.last:
        seen.hold("lies across")
    ids = seen.tags[0].ids if seen.last else seen.whole().ids
    seen.tracing.lie(seen.layer, weight, -2, "passes", ids)
    return np.repeat(ids, int(seen.layer.depth_multiplier))


def _works_depthwise(seen: Seen, outs: Ids, extras: int) -> None:
    kernel, stride = (tuple(map(int, value)) for value in (seen.layer.kernel_size, seen.layer.strides))
    positions = seen.positions(seen.shape)
    work = Work(seen.call.name, "depthwise", seen.tags[0].ids, outs, positions, kernel, stride, extras)
    seen.tracing.works_at(seen.layer, work)


def _along(seen: Seen, names: tuple[str, ...]) -> Tag:
    """Follow weights that have one entry a channel."""
    tag = seen.tags[0]
    own = {id(weight) for weight in seen.layer.weights}
    there = [name for name in names if id(getattr(seen.layer, name, None)) in own]
    for name in there:
        seen.tracing.lie(seen.layer, name, 0, "passes", tag.ids)
    work = Work(seen.call.name, "elementwise", tag.ids, tag.ids, seen.positions(seen.shape), extras=len(there))
    seen.tracing.works_at(seen.layer, work)
    return tag


def _normalized(seen: Seen) -> Tag:
    """Follow BatchNorm and LayerNorm over the channels; of another axis, only LayerNorm's statistics would change."""
    axes = tuple(np.atleast_1d(seen.layer.axis) % len(seen.shape))
    if axes != (seen.tags[0].axis,):
        return _unknown(seen)
    return _along(seen, ("gamma", "beta", "scale", "moving_mean", "moving_variance"))


def _group_normalized(seen: Seen) -> Tag:
    """Keep the number of groups: the channels in one place of each are one, so that all stay equally large."""
    tag, divisions = seen.tags[0], int(seen.layer.groups)
    if seen.layer.axis % len(seen.shape) != tag.axis or divisions in (-1, len(tag.ids)):
        return _unknown(seen)
    by_group = tag.ids.reshape(divisions, -1)
    for row in by_group[1:]:
        seen.tracing.partition.unite(by_group[0], row)
    return _along(seen, ("gamma", "beta"))


def _prelu(seen: Seen) -> Tag:
    tag, alpha = seen.tags[0], seen.layer.alpha
    if alpha.shape[tag.axis - 1] == 1 and seen.shape[tag.axis] > 1:
        return tag  # one slope for all channels
    seen.tracing.lie(seen.layer, "alpha", tag.axis - 1, "passes", tag.ids)
    extras = math.prod(alpha.shape) // alpha.shape[tag.axis - 1]
    positions = seen.positions(seen.shape)
    seen.tracing.works_at(seen.layer, Work(seen.call.name, "elementwise", tag.ids, tag.ids, positions, extras=extras))
    return tag


def _merged(seen: Seen) -> Tag:
    """Channels that are added or multiplied become one; a single channel spread over all of them stays."""
    rank, partition = len(seen.shape), seen.tracing.partition
    lying = [(tag, tag.axis - len(shape), shape) for tag, shape in zip(seen.tags, seen.shapes, strict=True)]
    full = [(tag, axis) for tag, axis, shape in lying if shape[axis] == seen.shape[axis] > 1] or [lying[0][:2]]
    ids, axis = full[0][0].ids, full[0][1]
    if any(other != axis for _, other in full):
        seen.hold("is joined across channels in")
        return seen.whole()
    for tag, _ in full[1:]:
        partition.unite(ids, tag.ids)
    for tag, other, shape in lying:
        if shape[other] == 1 and seen.shape[other] > 1:
            partition.hold(tag.ids, f"what it gives is spread over all channels in {seen.call.name!r}")
    return Tag(rank + axis, ids)


def _concatenated(seen: Seen) -> Tag:
    axis = int(seen.layer.axis) % len(seen.shape)
    if {tag.axis for tag in seen.tags} == {axis}:
        return Tag(axis, np.concatenate([tag.ids for tag in seen.tags]))
    if len({tag.axis for tag in seen.tags}) > 1:
        seen.hold("is joined across channels in")
        return seen.whole()
    return _merged(seen)


def _reshaped(seen: Seen) -> Tag:
    """Follow the values one by one; channels that would lie on more than one axis afterwards are left whole."""
    told = any(hasattr(seen.layer, name) for name in ("target_shape", "newshape"))
    if not told and seen.call.kind != "Flatten":
        return _unknown(seen)
    values = seen.tags[0].spread(seen.shapes[0]).reshape(seen.shape[1:])
    varying = [axis for axis in range(values.ndim) if np.any(np.diff(values, axis=axis))]
    if len(varying) > 1:
        seen.hold("is mixed with positions by")
        return seen.whole()
    alone = [axis for axis in range(values.ndim) if values.shape[axis] == 1]
    axis = varying[0] if varying else (alone[-1] if len(seen.tags[0].ids) == 1 and alone else values.ndim - 1)
    ids = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])[0]
    if told:
        seen.tracing.resized.append(Resized(seen.call.name, axis + 1, ids))
    return Tag(axis + 1, ids)


def _entered(seen: Seen) -> Tag:
    """Follow what a nested model takes; its input layer tells a shape."""
    seen.tracing.resized.append(Resized(seen.call.name, seen.tags[0].axis, seen.tags[0].ids))
    return seen.tags[0]


def _permuted(seen: Seen) -> Tag:
    return Tag((0, *seen.layer.dims).index(seen.tags[0].axis), seen.tags[0].ids)


DIMENSIONS = ("1D", "2D", "3D")
MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Addv2", "Sub", "Mul", "Divide", "TrueDivide")
VALUES = (  # that change each value by itself, or nothing at inference
    *("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Identity", "ActivityRegularization"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", *(f"SpatialDropout{d}" for d in DIMENSIONS)),
    *("Relu", "Relu6", "Sigmoid", "Tanh", "Silu", "Gelu", "Elu", "LeakyRelu", "Softplus", "HardSigmoid", "HardSilu"),
    *("Exp", "Sqrt", "Square", "Abs", "Absolute", "Negative"),
)
RULES: dict[str, Rule] = {
    "InputLayer": _entered,
    "Dense": _dense,
    **{f"Conv{d}": _conv for d in DIMENSIONS},
    **{f"Conv{d}Transpose": _transposed_conv for d in DIMENSIONS},
    **{f"DepthwiseConv{d}": _depthwise for d in DIMENSIONS[:2]},
    **{f"SeparableConv{d}": _separable for d in DIMENSIONS[:2]},
    "MultiHeadAttention": lambda seen: attended(seen) or _unknown(seen),
    **dict.fromkeys(("BatchNormalization", "LayerNormalization", "RMSNormalization"), _normalized),
    "GroupNormalization": _group_normalized,
    "PReLU": _prelu,
    **dict.fromkeys(MERGES, _merged),
    "Concatenate": _concatenated,
    **dict.fromkeys(("Reshape", "Flatten"), _reshaped),
    "Permute": _permuted,
    **{f"{name}Pooling{d}": _spatial for name in ("Max", "Average") for d in DIMENSIONS},
    **{f"Adaptive{name}Pooling{d}": _spatial for name in ("Max", "Average") for d in DIMENSIONS},
    **{f"{name}{d}": _spatial for name in ("ZeroPadding", "Cropping", "UpSampling") for d in DIMENSIONS},
    "Resizing": _spatial,
    **{f"Global{name}Pooling{d}": _spatial for name in ("Max", "Average") for d in DIMENSIONS},
    **dict.fromkeys(VALUES, _values),
    **dict.fromkeys(("Rescaling", "Normalization"), _scaled),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
}
