"""The weights of a Keras model, of either generation, that can be made sparse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from edgekit_converters.train.student import Kernel

# layer: (its weights, the axis along which the inputs of an output lie)
LAYERS = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), (("kernel", -2),)),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), (("kernel", -1),)),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), (("pointwise_kernel", -2),)),
    "Dense": (("kernel", 0),),
}
DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
EINSUM = "EinsumDense"  # of which attention is made


def kernels(layers: Iterable[Any]) -> list[tuple[Kernel, Any]]:
    """Return the weights of convolutions and dense layers that are trained, each once, and their variables."""
    seen: set[int] = set()
    found = []
    for layer in layers:
        for variable, axis, dense_reason in _weights(layer):
            if layer.trainable and id(variable) not in seen:
                seen.add(id(variable))
                found.append((Kernel(layer.name, variable.numpy(), axis, dense_reason), variable))
    return found


def _weights(layer: Any) -> Iterator[tuple[Any, int, str | None]]:
    kind = type(layer).__name__
    if kind in DEPTHWISE:  # few weights, and each counts (Zhu & Gupta, 2017, leave them dense, too)
        yield getattr(layer, "kernel", None) or layer.depthwise_kernel, -2, "is depthwise"
    for name, axis in LAYERS.get(kind, ()):
        yield getattr(layer, name), axis, None
    if kind == EINSUM:
        yield layer.kernel, _summed(layer.equation), None


def _summed(equation: str) -> int:
    """Return the last axis of the kernel that an einsum equation sums over; ``abcd,cde->abe`` gives 1."""
    taken, _, given = equation.partition("->")
    kernel = taken.partition(",")[2]
    return max(axis for axis, letter in enumerate(kernel) if letter not in given)
