"""Cross-layer equalization of a float ``.tflite``: find scalable channels and write the scaled constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.quantize.equalize import ChannelAxis, ChannelLink, Constants, equalize

# layer: the axis of its weights that counts its output channels, and the axis that counts its input channels
OUTPUT_AXES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
INPUT_AXES = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 1}
# f(s x) = s f(x); where the channels stay last, each channel may have its own s
HOMOGENEOUS_OPERATORS = {"RELU", "LEAKY_RELU", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "RESHAPE", "PAD", "MUL"}
ACTIVATION = schema.ActivationFunctionType
HOMOGENEOUS_ACTIVATIONS = (ACTIVATION.NONE, ACTIVATION.RELU)


def equalize_file(path: Path, out: Path) -> Path:
    """Write the equalized model to ``out`` and return the path; it computes the same up to float32 rounding."""
    model = flatbuffer_utils.read_model(str(path))
    if len(model.subgraphs) == 1:
        graph = _ChannelGraph(model)
        links = tuple(graph.links())
        constants = graph.constants(links)
        equalize(constants, links)
        for index, array in constants.items():
            graph.buffer(index).data = np.frombuffer(array.astype(np.float32).tobytes(), np.uint8)
    out.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return out


class _ChannelGraph:
    """The graph of a model with one graph, and the consumers of each tensor; tensors are named by their index."""

    def __init__(self, model: Any) -> None:
        self._model, self._graph = model, model.subgraphs[0]
        self._consumers: dict[int, list[Any]] = {}
        self._producers: dict[int, Any] = {}
        for operator in self._graph.operators:
            for index in operator.inputs:
                self._consumers.setdefault(int(index), []).append(operator)
            self._producers |= {int(index): operator for index in operator.outputs}
        self._sharing = Counter(tensor.buffer for tensor in self._graph.tensors)

    def links(self) -> Iterator[ChannelLink]:
        """Yield the links that can be equalized, in the order of execution."""
        for operator in self._graph.operators:
            link = self._link(operator)
            if link:
                yield link

    def constants(self, links: tuple[ChannelLink, ...]) -> Constants:
        """Return the constants of the links as float64, so that many small steps do not add up to an error."""
        parts = [part for link in links for part in (link.weights, *link.biases, *link.consumers)]
        return {part.constant: self._array(part.constant) for part in parts}

    def buffer(self, index: Any) -> Any:
        """Return the buffer with a tensor's data."""
        return self._model.buffers[self._graph.tensors[index].buffer]

    def _link(self, layer: Any) -> ChannelLink | None:
        kind, inputs = self._kind(layer), [int(index) for index in layer.inputs]
        if (
            kind not in OUTPUT_AXES
            or not self._is_own_constant(inputs[1])
            or not all(map(self._is_own_constant, self._bias(inputs)))
        ):
            return None
        activation = layer.builtinOptions.fusedActivationFunction
        relu6 = activation == ACTIVATION.RELU6 and self._is_relu6(inputs[0])
        if activation not in HOMOGENEOUS_ACTIVATIONS and not relu6:
            return None
        consumers = self._consumers_of_channels(int(layer.outputs[0]))
        if not consumers:
            return None
        biases = tuple(ChannelAxis(index, 0) for index in self._bias(inputs))
        return ChannelLink(ChannelAxis(inputs[1], OUTPUT_AXES[kind]), biases, tuple(consumers), relu6)

    def _consumers_of_channels(self, start: int) -> list[ChannelAxis] | None:
        """Return the consumers of a tensor's channels, or None if one of them cannot be scaled."""
        channels, reached, pending = self._shape(start)[-1], {start}, [start]
        consumers: list[ChannelAxis] = []
        products: list[Any] = []
        while pending:
            index = pending.pop()
            if index in self._graph.outputs or index not in self._consumers:
                return None
            for operator in self._consumers[index]:
                consumer = self._consuming_axis(operator, index, channels)
                if consumer:
                    consumers.append(consumer)
                elif self._is_homogeneous(operator, index, channels):
                    products += [operator] if self._kind(operator) == "MUL" else []
                    result = int(operator.outputs[0])
                    pending += [result] if result not in reached else []
                    reached.add(result)
                else:
                    return None
        # only one factor of x · y may carry the channels: two would scale them twice
        return consumers if all(sum(index in reached for index in one.inputs) == 1 for one in products) else None

    def _consuming_axis(self, operator: Any, index: int, channels: int) -> ChannelAxis | None:
        """Return the weights that consume a tensor's channels, which repeat along the axis of a flattened tensor."""
        kind = self._kind(operator)
        if kind not in INPUT_AXES or operator.inputs[0] != index or not self._is_own_constant(int(operator.inputs[1])):
            return None
        constant, axis = int(operator.inputs[1]), INPUT_AXES[kind]
        size = self._shape(constant)[axis]
        if size == channels:
            return ChannelAxis(constant, axis)
        return ChannelAxis(constant, axis, channels) if kind == "FULLY_CONNECTED" and size % channels == 0 else None

    def _is_homogeneous(self, operator: Any, index: int, channels: int) -> bool:
        kind, inputs = self._kind(operator), [int(index) for index in operator.inputs]
        if kind not in HOMOGENEOUS_OPERATORS:
            return False
        last = self._shape(int(operator.outputs[0]))[-1:]
        if kind == "RESHAPE":  # the channels repeat along the last axis if its size is a multiple of their number
            return bool(last) and last[0] % channels == 0
        if last != self._shape(index)[-1:]:
            return False
        if getattr(operator.builtinOptions, "fusedActivationFunction", ACTIVATION.NONE) not in HOMOGENEOUS_ACTIVATIONS:
            return False
        if kind == "MEAN":
            axes = self._array(inputs[1], np.int32).ravel()
            return len(self._shape(inputs[0])) - 1 not in axes % len(self._shape(inputs[0]))
        return True

    def _is_relu6(self, index: int) -> bool:
        """Return whether a tensor is the result of a ReLU6."""
        options = getattr(self._producers.get(index), "builtinOptions", None)
        return bool(getattr(options, "fusedActivationFunction", None) == ACTIVATION.RELU6)

    def _is_own_constant(self, index: int) -> bool:
        """Return whether a tensor is a float32 constant that only one operator uses."""
        tensor = self._graph.tensors[index]
        constant = self._model.buffers[tensor.buffer].data is not None and tensor.type == schema.TensorType.FLOAT32
        return constant and len(self._consumers[index]) == 1 and self._sharing[tensor.buffer] == 1

    def _bias(self, inputs: list[int]) -> list[int]:
        return [index for index in inputs[2:3] if index >= 0]

    def _shape(self, index: int) -> list[int]:
        return [int(size) for size in self._graph.tensors[index].shape]

    def _kind(self, operator: Any) -> str:
        return str(flatbuffer_utils.opcode_to_name(self._model, operator.opcodeIndex))

    def _array(self, index: Any, stored: Any = np.float32) -> Any:
        """Return a constant's values in a new array, floats as float64."""
        values = np.frombuffer(bytes(self.buffer(index).data), stored).reshape(self._shape(index))
        return values.astype(np.float64 if stored == np.float32 else np.int64)
