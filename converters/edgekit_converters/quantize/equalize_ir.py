"""Cross-layer equalization of a float OpenVINO model: find scalable channels and replace the constants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13

from edgekit_converters.quantize.equalize import RELU6_MAX, ChannelAxis, ChannelLink, Constants, equalize

# f(s x) = s f(x), and the channels stay in their axis
HOMOGENEOUS = ("Relu", "MaxPool", "AvgPool", "Pad", "Multiply")
LAYOUT_OPERATIONS = ("Transpose", "ReduceMean", "Reshape", "Squeeze", "Unsqueeze")


def equalize_model(model: ov.Model) -> None:
    """Equalize a model in place; it computes the same up to float32 rounding."""
    links = tuple(_links(model))
    parts = {part.constant for link in links for part in (link.weights, *link.biases, *link.consumers)}
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_friendly_name() in parts}
    constants: Constants = {name: node.get_data().astype(np.float64) for name, node in nodes.items()}
    equalize(constants, links)
    for name, node in nodes.items():
        scaled = opset13.constant(constants[name].astype(np.float32))
        scaled.set_friendly_name(name)
        node.output(0).replace(scaled.output(0))


def _links(model: ov.Model) -> Iterator[ChannelLink]:
    for layer in model.get_ordered_ops():
        axis = _output_axis(layer)
        if axis is None or not _is_own_constant(layer, 1):
            continue
        result = layer.output(0)
        path = _ChannelPath(len(result.get_shape()) - 1 if layer.get_type_name() == "MatMul" else 1)
        if not path.follow(result) or not path.consumers:
            continue
        if not path.relu6 or _is_relu6(layer.input_value(0).get_node()):
            yield ChannelLink(_part(layer, 1, axis), tuple(path.biases), tuple(path.consumers), path.relu6)


@dataclass
class _ChannelPath:
    """The path of a tensor's channels to their consumers; ``axis`` is their axis at its start."""

    axis: int
    biases: list[ChannelAxis] = field(default_factory=list)
    consumers: list[ChannelAxis] = field(default_factory=list)
    relu6: bool = False  # a ReLU6 is on the path

    def follow(self, start: Any) -> bool:
        """Follow the channels to all consumers; return False if one of them cannot be scaled."""
        self._channels = start.get_shape()[self.axis]
        self._start = start.get_node().get_friendly_name()
        self._axes = {self._start: self.axis}
        pending, products = [start], []
        while pending:
            output = pending.pop()
            for port in output.get_target_inputs():
                node, axis = port.get_node(), self._axes[output.get_node().get_friendly_name()]
                if self._add_consumer(node, port.get_index(), axis):
                    continue
                after = self._axis_after(node, port.get_index(), axis)
                if after is None or node.output(0).get_shape()[after] != self._channels:
                    return False
                products += [node] if node.get_type_name() == "Multiply" else []
                if node.get_friendly_name() not in self._axes:
                    pending.append(node.output(0))
                self._axes[node.get_friendly_name()] = after
        if self.relu6 and len(self.biases) > 1:
            return False  # the upper bound holds for one sum of weights only
        return all(self._has_one_scaled_factor(product) for product in products)

    def _has_one_scaled_factor(self, product: Any) -> bool:
        """Return whether only one factor carries the channels: two would scale them twice."""
        names = [value.get_node().get_friendly_name() for value in product.input_values()]
        return sum(name in self._axes for name in names) == 1

    def _add_consumer(self, node: Any, port: int, axis: int) -> bool:
        """Return whether a layer consumes the channels, and add it to the consumers."""
        channels_axis = _input_axis(node)
        last = len(node.input(0).get_shape()) - 1 if node.get_type_name() == "MatMul" else 1
        if port != 0 or channels_axis is None or axis != last or not _is_own_constant(node, 1):
            return False
        if node.input(1).get_shape()[channels_axis] != self._channels:
            return False
        self.consumers.append(_part(node, 1, channels_axis))
        return True

    def _axis_after(self, node: Any, port: int, axis: int) -> int | None:
        """Return the axis of the channels after a node, or None if they cannot be scaled through it."""
        kind = node.get_type_name()
        if kind == "Add":
            return axis if self._add_bias(node, 1 - port, axis) else None
        if kind == "Clamp":
            self.relu6 = True
            return axis if _is_relu6(node) and self._clips_layer_result(node) else None
        if kind in HOMOGENEOUS:
            rank_changes = len(node.output(0).get_shape()) != len(node.input(port).get_shape())
            return None if rank_changes or (kind == "Pad" and not _pads_with_zeros(node)) else axis
        return _axis_after_layout(node, axis) if kind in LAYOUT_OPERATIONS and port == 0 else None

    def _clips_layer_result(self, clamp: Any) -> bool:
        """Return whether a node clips the sum of the layer itself."""
        clipped = clamp.input_value(0).get_node()
        before = (
            [clipped] if clipped.get_type_name() != "Add" else [value.get_node() for value in clipped.input_values()]
        )
        return self._start in [node.get_friendly_name() for node in before]

    def _add_bias(self, node: Any, other: int, axis: int) -> bool:
        """Return whether a node adds a bias to each channel, and add it to the biases; after a ReLU6 it is none."""
        shape = list(node.input(other).get_shape())
        place = axis - (len(node.output(0).get_shape()) - len(shape))
        if self.relu6 or not _is_own_constant(node, other) or place < 0:
            return False
        if shape[place] != self._channels or math.prod(shape) != self._channels:
            return False
        self.biases.append(_part(node, other, place))
        return True


def _output_axis(node: Any) -> int | None:
    """Return the axis of a layer's weights that counts its output channels, None if they cannot be scaled."""
    kind = node.get_type_name()
    if _is_dense(node):
        return 0 if node.get_attributes()["transpose_b"] else 1
    return 0 if kind == "Convolution" or _is_depthwise(node) else None


def _input_axis(node: Any) -> int | None:
    """Return the axis of a layer's weights that counts its input channels, None if they cannot be scaled."""
    kind = node.get_type_name()
    if _is_dense(node):
        transposed = node.get_attributes()
        return None if transposed["transpose_a"] else 1 if transposed["transpose_b"] else 0
    if kind == "Convolution":
        return 1
    return 0 if _is_depthwise(node) else None


def _is_dense(node: Any) -> bool:
    """Return whether a node multiplies by one matrix: weights of another rank are several matrices, or none."""
    return node.get_type_name() == "MatMul" and len(node.input(1).get_shape()) == 2


def _is_depthwise(node: Any) -> bool:
    """Return whether each channel is convolved alone: weights are (channels, 1, 1, rows, columns)."""
    return node.get_type_name() == "GroupConvolution" and list(node.input(1).get_shape())[1:3] == [1, 1]


def _axis_after_layout(node: Any, axis: int) -> int | None:
    """Return the axis after a node that rearranges axes; a reshape is followed if all other axes have size 1."""
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
    only_channels = math.prod(before) == before[axis] > 1
    return next(place for place, size in enumerate(after) if size > 1) if only_channels else None


def _is_relu6(node: Any) -> bool:
    limits = node.get_attributes()
    return bool(node.get_type_name() == "Clamp" and (limits["min"], limits["max"]) == (0, RELU6_MAX))


def _pads_with_zeros(node: Any) -> bool:
    if node.get_attributes()["pad_mode"] != "constant":
        return True
    value = node.input_value(3).get_node() if node.get_input_size() > 3 else None
    return value is None or (value.get_type_name() == "Constant" and not np.any(value.get_data()))


def _is_own_constant(node: Any, port: int) -> bool:
    """Return whether an input is a float32 constant that only this node uses."""
    value = node.input_value(port)
    constant = value.get_node().get_type_name() == "Constant" and value.get_element_type() == ov.Type.f32
    return bool(constant and len(value.get_target_inputs()) == 1)


def _part(node: Any, port: int, axis: int) -> ChannelAxis:
    return ChannelAxis(node.input_value(port).get_node().get_friendly_name(), axis)
