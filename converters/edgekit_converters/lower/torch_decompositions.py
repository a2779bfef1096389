"""Operations of PyTorch that litert-torch does not lower, or lowers to something else, spelled with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import getitem
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
BROADCASTING = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)
# what follows input, weight and bias of a transposed convolution, where it is left out
DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
BY_SIDE = ("stride", "padding", "output_padding", "dilation")


def spelled(module: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """Return the module, or where it needs it one that computes the same.

    Args:
        module: in evaluation mode.
        inputs: that it takes.
    """
    made = torch.export.export(module, inputs).module()
    found = list(_to_be_spelled(made))
    if not found:
        return module  # whose own names of layers stay
    for node, spell in found:
        spell(node)
    made.recompile()
    return made


def _to_be_spelled(module: fx.GraphModule) -> Iterator[tuple[fx.Node, Callable[[fx.Node], None]]]:
    for node in module.graph.nodes:
        if node.target in (aten.conv_transpose1d.default, aten.conv_transpose2d.input) and _is_cut(node):
            yield node, _cut_afterwards
        if node.target is aten.adaptive_max_pool2d.default and _is_even(node):
            yield node, _pooled
        if node.target in (aten.expand.default, aten.expand_as.default) and _is_needless(node):
            yield node, _left_out
        if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2 and node.meta["val"].dim() > 4:
            yield node, _squared


def _is_cut(node: fx.Node) -> bool:
    """Tell a transposed convolution whose result is a part of what it would be without padding.

    litert-torch lowers those that lose at both ends what the kernel is wider than the stride, such as 4 by 4 with
    stride 2 and padding 1. Others, such as 3 by 3 with stride 2, padding 1 and output_padding 1, its compiler refuses;
    and what output_padding adds it fills with zeros, where PyTorch computes it.
    """
    kernel, told = node.args[1].meta["val"].shape[2:], _told(node)
    return any(
        more <= padding and (more > 0 or dilation * (size - 1) + 1 - stride != 2 * padding)
        for size, stride, padding, more, dilation in zip(kernel, *(told[name] for name in BY_SIDE), strict=True)
    )


def _told(node: fx.Node) -> dict[str, Any]:
    """What a node says of its convolution; a number a side where it may."""
    sides = node.meta["val"].dim() - 2
    given = dict(zip(DEFAULTS, node.args[3:], strict=False)) | node.kwargs
    told = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    for name in BY_SIDE:
        numbers = [told[name]] if isinstance(told[name], int) else list(told[name])
        told[name] = numbers * sides if len(numbers) == 1 else numbers
    return told


def _cut_afterwards(node: fx.Node) -> None:
    """Convolve without padding, and take the part of the result that it would have been."""
    told, wanted, takers = _told(node), node.meta["val"].shape[2:], list(node.users)
    beyond = [max(0, more - lost) for more, lost in zip(told["output_padding"], told["padding"], strict=True)]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    last = node
    for side, (first, size) in enumerate(zip(told["padding"], wanted, strict=True)):
        with node.graph.inserting_after(last):
            last = node.graph.call_function(aten.slice.Tensor, (last, side + 2, first, first + size))
    for taker in takers:
        taker.replace_input_with(node, last)
    node.args = (*node.args[:2], bias, *(told | {"padding": [0] * len(wanted), "output_padding": beyond}).values())
    node.kwargs = {}


def _is_even(node: fx.Node) -> bool:
    """Tell an adaptive pooling whose windows are all of one size, and whose indices nobody takes."""
    size, wanted = node.args[0].meta["val"].shape[-2:], node.args[1]
    values = all(taker.target is getitem and (taker.args[1] == 0 or not taker.users) for taker in node.users)
    return values and all(have % want == 0 for have, want in zip(size, wanted, strict=True))


def _pooled(node: fx.Node) -> None:
    windows = [have // want for have, want in zip(node.args[0].meta["val"].shape[-2:], node.args[1], strict=True)]
    with node.graph.inserting_after(node):
        pool = node.graph.call_function(aten.max_pool2d.default, (node.args[0], windows, windows))
    for taker in list(node.users):
        taker.replace_all_uses_with(pool)
        node.graph.erase_node(taker)
    node.graph.erase_node(node)


def _is_needless(node: fx.Node) -> bool:
    """Tell an expansion to the shape of what it meets, which meets it so without.

    With channels last litert-torch leaves them first in such an expansion, as of ``x * y.expand_as(x)`` in
    squeeze-and-excitation: it refuses that, or where there are as many channels as rows multiplies rows.
    """
    shape = node.meta["val"].shape

    def meets(taker: fx.Node) -> bool:
        others = [one for one in taker.args[:2] if isinstance(one, fx.Node) and one is not node]
        return taker.target in BROADCASTING and bool(others) and others[0].meta["val"].shape == shape

    return node.args[0].meta["val"].dim() == len(shape) and all(map(meets, node.users))


def _left_out(node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)


def _squared(node: fx.Node) -> None:
    """Multiply a tensor by itself: TFLite's POW takes four axes at the most."""
    with node.graph.inserting_after(node):
        product = node.graph.call_function(aten.mul.Tensor, (node.args[0], node.args[0]))
    node.replace_all_uses_with(product)
    node.graph.erase_node(node)
