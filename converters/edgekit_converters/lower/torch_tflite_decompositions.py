"""Decompose PyTorch operations that litert-torch does not lower, or lowers incorrectly, into supported operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import getitem
from typing import Any

import torch
from torch import fx, nn

aten = torch.ops.aten
BROADCASTING = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)
# the arguments of a transposed convolution after input, weight and bias, with their defaults
DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
PER_SIDE = ("stride", "padding", "output_padding", "dilation")


def decompose(module: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """Return an equivalent module without unsupported operations, or the module itself if it has none.

    Args:
        module: in evaluation mode.
        inputs: sample inputs.
    """
    program = torch.export.export(module, inputs).module()
    replacements = list(_replacements(program))
    if not replacements:
        return module  # with its own names of layers
    for node, replace in replacements:
        replace(node)
    program.recompile()
    return program


def _replacements(module: fx.GraphModule) -> Iterator[tuple[fx.Node, Callable[[fx.Node], None]]]:
    for node in module.graph.nodes:
        if node.target in (aten.conv_transpose1d.default, aten.conv_transpose2d.input) and _is_cropped(node):
            yield node, _crop_afterwards
        if node.target is aten.adaptive_max_pool2d.default and _has_equal_windows(node):
            yield node, _use_max_pool
        if node.target in (aten.expand.default, aten.expand_as.default) and _is_unneeded_expand(node):
            yield node, _remove
        if node.target is aten.pow.Tensor_Scalar and node.args[1] == 2 and node.meta["val"].dim() > 4:
            yield node, _multiply_by_itself


def _is_cropped(node: fx.Node) -> bool:
    """Return whether a transposed convolution's result must be cropped from the one without padding.

    litert-torch lowers those whose padding at each end is half of kernel minus stride, such as 4 by 4 with stride 2
    and padding 1. Its compiler refuses others, such as 3 by 3 with stride 2, padding 1 and
    output_padding 1; and it fills the output padding with zeros, where PyTorch computes it.
    """
    kernel, options = node.args[1].meta["val"].shape[2:], _convolution_options(node)
    return any(
        output_padding <= padding and (output_padding > 0 or dilation * (size - 1) + 1 - stride != 2 * padding)
        for size, stride, padding, output_padding, dilation in zip(
            kernel, *(options[name] for name in PER_SIDE), strict=True
        )
    )


def _convolution_options(node: fx.Node) -> dict[str, Any]:
    """Return the options of a transposed convolution, one number a side."""
    sides = node.meta["val"].dim() - 2
    explicit = dict(zip(DEFAULTS, node.args[3:], strict=False)) | node.kwargs
    options = {name: explicit.get(name, default) for name, default in DEFAULTS.items()}
    for name in PER_SIDE:
        numbers = [options[name]] if isinstance(options[name], int) else list(options[name])
        options[name] = numbers * sides if len(numbers) == 1 else numbers
    return options


def _crop_afterwards(node: fx.Node) -> None:
    """Convolve without padding, and crop the result."""
    options, wanted, consumers = _convolution_options(node), node.meta["val"].shape[2:], list(node.users)
    extra = [
        max(0, output_padding - padding)
        for output_padding, padding in zip(options["output_padding"], options["padding"], strict=True)
    ]
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    last = node
    for side, (first, size) in enumerate(zip(options["padding"], wanted, strict=True)):
        with node.graph.inserting_after(last):
            last = node.graph.call_function(aten.slice.Tensor, (last, side + 2, first, first + size))
    for consumer in consumers:
        consumer.replace_input_with(node, last)
    node.args = (*node.args[:2], bias, *(options | {"padding": [0] * len(wanted), "output_padding": extra}).values())
    node.kwargs = {}


def _has_equal_windows(node: fx.Node) -> bool:
    """Return whether all windows of an adaptive pooling have one size and its indices are not used."""
    size, wanted = node.args[0].meta["val"].shape[-2:], node.args[1]
    values = all(
        consumer.target is getitem and (consumer.args[1] == 0 or not consumer.users) for consumer in node.users
    )
    return values and all(have % want == 0 for have, want in zip(size, wanted, strict=True))


def _use_max_pool(node: fx.Node) -> None:
    windows = [have // want for have, want in zip(node.args[0].meta["val"].shape[-2:], node.args[1], strict=True)]
    with node.graph.inserting_after(node):
        pool = node.graph.call_function(aten.max_pool2d.default, (node.args[0], windows, windows))
    for consumer in list(node.users):
        consumer.replace_all_uses_with(pool)
        node.graph.erase_node(consumer)
    node.graph.erase_node(node)


def _is_unneeded_expand(node: fx.Node) -> bool:
    """Return whether all consumers of an expansion broadcast to its shape without it.

    With channels last, litert-torch keeps the channels of such an expansion first, as in ``x * y.expand_as(x)`` of
    squeeze-and-excitation. It refuses that, or multiplies rows if there are as many channels as rows.
    """
    shape = node.meta["val"].shape

    def broadcasts_alone(consumer: fx.Node) -> bool:
        others = [one for one in consumer.args[:2] if isinstance(one, fx.Node) and one is not node]
        return consumer.target in BROADCASTING and bool(others) and others[0].meta["val"].shape == shape

    return node.args[0].meta["val"].dim() == len(shape) and all(map(broadcasts_alone, node.users))


def _remove(node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])
    node.graph.erase_node(node)


def _multiply_by_itself(node: fx.Node) -> None:
    """Multiply a tensor by itself: TFLite's POW supports at most four axes."""
    with node.graph.inserting_after(node):
        product = node.graph.call_function(aten.mul.Tensor, (node.args[0], node.args[0]))
    node.replace_all_uses_with(product)
    node.graph.erase_node(node)
