"""What operations do with channels that only move them: another shape, another order, side by side, in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

from edgekit_converters.prune.torch.channels import Followed, Rule, State, argument, axes_of, operator, owner
from edgekit_converters.prune.torch.union_find import Ids, nothing, packed, placed, varying


def reshaped(found: Followed, node: fx.Node) -> State:
    """Give the same elements another shape."""
    data: Any = node.args[0]
    shape = found.shape(node)
    return packed(np.broadcast_to(found.ids(data), found.shape(data)).reshape(shape))


def moved(change: Callable[[Ids, fx.Node], Ids]) -> Rule:
    """Return the rule of an operation that numpy does alike on the ids."""
    return lambda found, node: change(found.ids(node.args[0]), node)


def pad(found: Followed, node: fx.Node) -> State:
    """Add zeros: those beside channels can be cut with what they are added to, as many before as after.

    That is the shortcut without parameters of He et al. 2015 (option A).
    """
    ids, shape = found.ids(node.args[0]), found.shape(node)
    amounts: Any = node.args[1]
    for axis in varying(ids):
        place = 2 * (ids.ndim - 1 - axis)
        before, after = amounts[place : place + 2] if place < len(amounts) else (0, 0)
        if (before, after) == (0, 0):
            continue
        others = [one for one in varying(ids) if one != axis]
        if others or min(before, after) < 0 or argument(node, 2, "mode", "constant") != "constant":
            found.units.keep(ids, f"is padded in {owner(node) or 'the model'}")
            return nothing(ids.ndim)
        first, last = found.units.new(before), found.units.new(after)
        if before == after:
            found.units.join(first, last[::-1])
        elif before and after:
            found.keep([first, last], f"is padded unevenly in {owner(node) or 'the model'}")
        ids = placed(np.concatenate([first, ids.ravel(), last]), axis, len(shape))
    return ids


def concatenation(found: Followed, node: fx.Node) -> State:
    """Put channels side by side, or put other axes side by side, where each channel is one with itself."""
    tensors: Any = node.args[0]
    axes = len(found.shape(node))
    axis = int(argument(node, 1, "dim", 0)) % axes
    operands = [found.ids(one) for one in tensors]
    others = [each for ids in operands for each in varying(ids) if each != axis]
    if others:
        shapes = [tuple(1 if each == axis else size for each, size in enumerate(found.shape(one))) for one in tensors]
        why = f"is put beside what stays whole in {owner(node) or 'the model'}"
        mixed = [found.mix(ids, [axis], why) for ids in operands]
        return found.combine(list(zip(mixed, shapes, strict=True)), axes, why)
    sizes = [found.shape(one)[axis] for one in tensors]
    full = [np.broadcast_to(ids.ravel(), (size,)) for ids, size in zip(operands, sizes, strict=True)]
    return placed(np.concatenate(full), axis, axes)


def parts(found: Followed, node: fx.Node) -> State:
    """Give equal parts of an axis: each channel is one with those at its place in the other parts."""
    values: Any = node.meta["val"]
    ids = found.ids(node.args[0])
    gone = operator(node) == "unbind"
    place = argument(node, 1 if gone else 2, "dim", 0)
    axis = place % ids.ndim
    sizes = [1 if gone else value.shape[axis] for value in values]
    if ids.shape[axis] > 1:
        if len(set(sizes)) > 1:
            found.units.keep(ids, f"is split unevenly in {owner(node) or 'the model'}")
            return [nothing(len(value.shape)) for value in values]
        pieces = np.split(ids, len(sizes), axis)
        for piece in pieces[1:]:
            found.units.join(pieces[0], piece)
    else:
        pieces = [ids] * len(sizes)
    return [packed(piece.squeeze(axis) if gone else piece) for piece in pieces]


def selection(found: Followed, node: fx.Node) -> State:
    """Take one entry of an axis: the others' channels are one with its."""
    ids = found.ids(node.args[0])
    axis = int(argument(node, 1, "dim", 0)) % ids.ndim
    others = [one for one in varying(ids) if one != axis]
    if ids.shape[axis] > 1 and not others:
        found.units.keep(ids, f"is taken by its number in {owner(node) or 'the model'}")
    return found.units.join_along(ids, [axis]).squeeze(axis)


def range_of(found: Followed, node: fx.Node) -> State:
    """Take a range of an axis; of channels only all."""
    ids = found.ids(node.args[0])
    axis = int(argument(node, 1, "dim", 0)) % ids.ndim
    if ids.shape[axis] > 1 and found.shape(node) != found.shape(node.args[0]):
        found.units.keep(ids, f"is taken in part in {owner(node) or 'the model'}")
        return nothing(ids.ndim)
    return ids


def item(found: Followed, node: fx.Node) -> State:
    """Take one of several tensors."""
    state = found.states.get(node.args[0])
    place: Any = node.args[1]
    return state[place] if isinstance(state, list) else nothing(len(found.shape(node)))


def expanded(found: Followed, node: fx.Node) -> State:
    """Repeat axes of size 1, and new ones before them."""
    ids = found.ids(node.args[0])
    return ids.reshape((1,) * (len(found.shape(node)) - ids.ndim) + ids.shape)


def unmoved(found: Followed, node: fx.Node) -> State:
    """Change the order along axes that have no channels."""
    ids = found.ids(node.args[0])
    return found.mix(
        ids, axes_of(argument(node, 1 if operator(node) == "flip" else 2, "dims"), ids.ndim), "is reordered"
    )


def _swap(ids: Ids, node: fx.Node) -> Ids:
    one, other = (node.args[1], node.args[2]) if len(node.args) > 2 else (-2, -1)
    return np.swapaxes(ids, one, other)


MOVES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"), reshaped),
    "permute": moved(lambda ids, node: ids.transpose(node.args[1])),
    "transpose": moved(_swap),
    **dict.fromkeys(("numpy_T", "t"), moved(lambda ids, node: ids.T)),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), concatenation),
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), parts),
    "select": selection,
    **dict.fromkeys(("slice", "narrow"), range_of),
    "getitem": item,
    **dict.fromkeys(("expand", "expand_as"), expanded),
    **dict.fromkeys(("roll", "flip"), unmoved),
}
