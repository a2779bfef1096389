"""Cross-layer equalization of a float OpenVINO model: finds what can be scaled, and puts the scaled constants in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13

from edgekit_converters.quantize.equalize import CEILING, Constants, Link, Part, equalize

# what gives s f(x) for s x, where the channels stay in their axis
HOMOGENEOUS = ("Relu", "MaxPool", "AvgPool", "Pad", "Multiply")
MOVES = ("Transpose", "ReduceMean", "Reshape", "Squeeze", "Unsqueeze")


def equalize_model(model: ov.Model) -> None:
    """Equalize a model in place; it computes the same but for float32's rounding."""
    links = tuple(_links(model))
    parts = {part.constant for link in links for part in (link.weights, *link.biases, *link.takers)}
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_friendly_name() in parts}
    constants: Constants = {name: node.get_data().astype(np.float64) for name, node in nodes.items()}
    equalize(constants, links)
    for name, node in nodes.items():
        made = opset13.constant(constants[name].astype(np.float32))
        made.set_friendly_name(name)
        node.output(0).replace(made.output(0))


def _links(model: ov.Model) -> Iterator[Link]:
    for maker in model.get_ordered_ops():
        axis = _made_axis(maker)
        if axis is None or not _own(maker, 1):
            continue
        result = maker.output(0)
        reach = _Reach(len(result.get_shape()) - 1 if maker.get_type_name() == "MatMul" else 1)
        if not reach.follow(result) or not reach.takers:
            continue
        if not reach.bounded or _ends_at_six(maker.input_value(0).get_node()):
            yield Link(_part(maker, 1, axis), tuple(reach.biases), tuple(reach.takers), reach.bounded)


@dataclass
class _Reach:
    """Where the channels of a tensor go; ``axis`` is the axis that counts them where they start."""

    axis: int
    biases: list[Part] = field(default_factory=list)
    takers: list[Part] = field(default_factory=list)
    bounded: bool = False  # a ReLU6 was passed

    def follow(self, start: Any) -> bool:
        """Go on to all who take the channels; False where one of them cannot be scaled."""
        self._channels = start.get_shape()[self.axis]
        self._start = start.get_node().get_friendly_name()
        self._axes = {self._start: self.axis}
        pending, products = [start], []
        while pending:
            output = pending.pop()
            for port in output.get_target_inputs():
                node, axis = port.get_node(), self._axes[output.get_node().get_friendly_name()]
                if self._ends_in(node, port.get_index(), axis):
                    continue
                after = self._axis_after(node, port.get_index(), axis)
                if after is None or node.output(0).get_shape()[after] != self._channels:
                    return False
                products += [node] if node.get_type_name() == "Multiply" else []
                if node.get_friendly_name() not in self._axes:
                    pending.append(node.output(0))
                self._axes[node.get_friendly_name()] = after
        if self.bounded and len(self.biases) > 1:
            return False  # the bound is that of one sum of weights
        return all(self._comes_once(product) for product in products)

    def _comes_once(self, product: Any) -> bool:
        """Tell whether only one factor comes with the channels: two would scale them twice."""
        names = [value.get_node().get_friendly_name() for value in product.input_values()]
        return sum(name in self._axes for name in names) == 1

    def _ends_in(self, node: Any, port: int, axis: int) -> bool:
        """Tell whether a layer takes the channels, and note it."""
        taken = _taken_axis(node)
        last = len(node.input(0).get_shape()) - 1 if node.get_type_name() == "MatMul" else 1
        if port != 0 or taken is None or axis != last or not _own(node, 1):
            return False
        if node.input(1).get_shape()[taken] != self._channels:
            return False
        self.takers.append(_part(node, 1, taken))
        return True

    def _axis_after(self, node: Any, port: int, axis: int) -> int | None:
        """Return the axis of the channels behind a node, or None where they are not scaled through it."""
        kind = node.get_type_name()
        if kind == "Add":
            return axis if self._adds_own(node, 1 - port, axis) else None
        if kind == "Clamp":
            self.bounded = True
            return axis if _ends_at_six(node) and self._clips_the_sum(node) else None
        if kind in HOMOGENEOUS:
            widened = len(node.output(0).get_shape()) != len(node.input(port).get_shape())
            return None if widened or (kind == "Pad" and not _pads_with_zeros(node)) else axis
        return _moved_axis(node, axis) if kind in MOVES and port == 0 else None

    def _clips_the_sum(self, clamp: Any) -> bool:
        """Tell whether a node clips what the layer itself adds up, and nothing that became of it."""
        clipped = clamp.input_value(0).get_node()
        before = (
            [clipped] if clipped.get_type_name() != "Add" else [value.get_node() for value in clipped.input_values()]
        )
        return self._start in [node.get_friendly_name() for node in before]

    def _adds_own(self, node: Any, other: int, axis: int) -> bool:
        """Tell whether a node adds a constant to each channel, and note it as a bias; behind ReLU6 it is none."""
        shape = list(node.input(other).get_shape())
        place = axis - (len(node.output(0).get_shape()) - len(shape))
        if self.bounded or not _own(node, other) or place < 0:
            return False
        if shape[place] != self._channels or math.prod(shape) != self._channels:
            return False
        self.biases.append(_part(node, other, place))
        return True


def _made_axis(node: Any) -> int | None:
    """Return the axis of a layer's weights that counts the channels it makes, None where they cannot be scaled."""
    kind = node.get_type_name()
    if _is_dense(node):
        return 0 if node.get_attributes()["transpose_b"] else 1
    return 0 if kind == "Convolution" or _is_depthwise(node) else None


def _taken_axis(node: Any) -> int | None:
    """Return the axis of a layer's weights that counts the channels it takes, None where they cannot be scaled."""
    kind = node.get_type_name()
    if _is_dense(node):
        transposed = node.get_attributes()
        return None if transposed["transpose_a"] else 1 if transposed["transpose_b"] else 0
    if kind == "Convolution":
        return 1
    return 0 if _is_depthwise(node) else None


def _is_dense(node: Any) -> bool:
    """Tell whether a matrix is multiplied by: weights of another rank are several matrices, or none."""
    return node.get_type_name() == "MatMul" and len(node.input(1).get_shape()) == 2


def _is_depthwise(node: Any) -> bool:
    """Tell whether every channel makes one of its own: weights are (channels, 1, 1, rows, columns)."""
    return node.get_type_name() == "GroupConvolution" and list(node.input(1).get_shape())[1:3] == [1, 1]


def _moved_axis(node: Any, axis: int) -> int | None:
    """Return where a node that moves axes puts one; a reshape is followed where all the others have size 1."""
    kind, before, after = node.get_type_name(), list(node.input(0).get_shape()), list(node.output(0).get_shape())
    constant = node.input_value(1).get_node() if node.get_input_size() > 1 else None
    if kind in ("Transpose", "ReduceMean"):
        if constant is None or constant.get_type_name() != "Constant":
            return None
        places = constant.get_data().ravel() % len(before)
        if kind == "Transpose":
            return int(np.flatnonzero(places == axis)[0])
        if axis in places:
            return None
        return axis if len(after) == len(before) else axis - int(np.count_nonzero(places < axis))
    alone = math.prod(before) == before[axis] > 1
    return next(place for place, size in enumerate(after) if size > 1) if alone else None


def _ends_at_six(node: Any) -> bool:
    limits = node.get_attributes()
    return bool(node.get_type_name() == "Clamp" and (limits["min"], limits["max"]) == (0, CEILING))


def _pads_with_zeros(node: Any) -> bool:
    if node.get_attributes()["pad_mode"] != "constant":
        return True
    value = node.input_value(3).get_node() if node.get_input_size() > 3 else None
    return value is None or (value.get_type_name() == "Constant" and not np.any(value.get_data()))


def _own(node: Any, port: int) -> bool:
    """Tell whether an input is a float32 constant that this node alone takes."""
    value = node.input_value(port)
    constant = value.get_node().get_type_name() == "Constant" and value.get_element_type() == ov.Type.f32
    return bool(constant and len(value.get_target_inputs()) == 1)


def _part(node: Any, port: int, axis: int) -> Part:
    return Part(node.input_value(port).get_node().get_friendly_name(), axis)
