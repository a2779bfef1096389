"""What operations do with channels that only move them: another shape, another order, side by side, in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from edgekit_converters.prune.torch.channels import ChannelMap, Rule, TensorIds, argument, axes_of, operator, owner
from edgekit_converters.prune.torch.union_find import Ids, along_axis, compact, untracked, varying_axes


def reshaped(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Give the same elements another shape."""
    data: Any = node.args[0]
    shape = channels.shape(node)
    return compact(np.broadcast_to(channels.ids(data), channels.shape(data)).reshape(shape))


def like_numpy(change: Callable[[Ids, fx.Node], Ids]) -> Rule:
    """Return the rule of an operation that numpy does alike on the ids."""
    return lambda channels, node: change(channels.ids(node.args[0]), node)


def pad(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Handle padding: zeros beside channels can be cut with them, as many before as after.

    That is the shortcut without parameters of He et al. 2015 (option A).
    """
    ids, shape = channels.ids(node.args[0]), channels.shape(node)
    amounts: Any = node.args[1]
    for axis in varying_axes(ids):
        place = 2 * (ids.ndim - 1 - axis)
        before, after = amounts[place : place + 2] if place < len(amounts) else (0, 0)
        if (before, after) == (0, 0):
            continue
        others = [one for one in varying_axes(ids) if one != axis]
        if others or min(before, after) < 0 or argument(node, 2, "mode", "constant") != "constant":
            channels.union_find.keep(ids, f"is padded in {owner(node) or 'the model'}")
            return untracked(ids.ndim)
        first, last = channels.union_find.new(before), channels.union_find.new(after)
        if before == after:
            channels.union_find.join(first, last[::-1])
        elif before and after:
            channels.keep([first, last], f"is padded unevenly in {owner(node) or 'the model'}")
        ids = along_axis(np.concatenate([first, ids.ravel(), last]), axis, len(shape))
    return ids


def concatenation(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Put channels side by side, or put other axes side by side, where each channel is one with itself."""
    tensors: Any = node.args[0]
    axes = len(channels.shape(node))
    axis = int(argument(node, 1, "dim", 0)) % axes
    operands = [channels.ids(one) for one in tensors]
    others = [each for ids in operands for each in varying_axes(ids) if each != axis]
    if others:
        shapes = [
            tuple(1 if each == axis else size for each, size in enumerate(channels.shape(one))) for one in tensors
        ]
        why = f"is concatenated with untracked elements in {owner(node) or 'the model'}"
        mixed = [channels.mix(ids, [axis], why) for ids in operands]
        return channels.combine(list(zip(mixed, shapes, strict=True)), axes, why)
    sizes = [channels.shape(one)[axis] for one in tensors]
    full = [np.broadcast_to(ids.ravel(), (size,)) for ids, size in zip(operands, sizes, strict=True)]
    return along_axis(np.concatenate(full), axis, axes)


def equal_parts(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Give equal parts of an axis: each channel is one with those at its place in the other parts."""
    values: Any = node.meta["val"]
    ids = channels.ids(node.args[0])
    removed = operator(node) == "unbind"
    place = argument(node, 1 if removed else 2, "dim", 0)
    axis = place % ids.ndim
    sizes = [1 if removed else value.shape[axis] for value in values]
    if ids.shape[axis] > 1:
        if len(set(sizes)) > 1:
            channels.union_find.keep(ids, f"is split unevenly in {owner(node) or 'the model'}")
            return [untracked(len(value.shape)) for value in values]
        pieces = np.split(ids, len(sizes), axis)
        for piece in pieces[1:]:
            channels.union_find.join(pieces[0], piece)
    else:
        pieces = [ids] * len(sizes)
    return [compact(piece.squeeze(axis) if removed else piece) for piece in pieces]


def selection(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Take one entry of an axis: the others' channels are one with its."""
    ids = channels.ids(node.args[0])
    axis = int(argument(node, 1, "dim", 0)) % ids.ndim
    others = [one for one in varying_axes(ids) if one != axis]
    if ids.shape[axis] > 1 and not others:
        channels.union_find.keep(ids, f"is indexed in {owner(node) or 'the model'}")
    return channels.union_find.join_along(ids, [axis]).squeeze(axis)


def range_of(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Take a range of an axis; of channels only all."""
    ids = channels.ids(node.args[0])
    axis = int(argument(node, 1, "dim", 0)) % ids.ndim
    if ids.shape[axis] > 1 and channels.shape(node) != channels.shape(node.args[0]):
        channels.union_find.keep(ids, f"is sliced in {owner(node) or 'the model'}")
        return untracked(ids.ndim)
    return ids


def item(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Take one of several tensors."""
    state = channels.tensor_ids.get(node.args[0])
    place: Any = node.args[1]
    return state[place] if isinstance(state, list) else untracked(len(channels.shape(node)))


def expanded(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Repeat axes of size 1, and new ones before them."""
    ids = channels.ids(node.args[0])
    return ids.reshape((1,) * (len(channels.shape(node)) - ids.ndim) + ids.shape)


def reordered(channels: ChannelMap, node: fx.Node) -> TensorIds:
    """Change the order along axes that have no channels."""
    ids = channels.ids(node.args[0])
    return channels.mix(
        ids, axes_of(argument(node, 1 if operator(node) == "flip" else 2, "dims"), ids.ndim), "is reordered"
    )


def _swap(ids: Ids, node: fx.Node) -> Ids:
    one, other = (node.args[1], node.args[2]) if len(node.args) > 2 else (-2, -1)
    return np.swapaxes(ids, one, other)


SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), reshaped),
    "permute": like_numpy(lambda ids, node: ids.transpose(node.args[1])),
    "transpose": like_numpy(_swap),
    **dict.fromkeys(("numpy_T", "t"), like_numpy(lambda ids, node: ids.T)),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), equal_parts),
    "select": selection,
    **dict.fromkeys(("slice", "narrow"), range_of),
    "getitem": item,
    **dict.fromkeys(("expand", "expand_as"), expanded),
    **dict.fromkeys(("roll", "flip"), reordered),
}
