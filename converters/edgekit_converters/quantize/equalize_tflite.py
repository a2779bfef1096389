"""Cross-layer equalization of a float ``.tflite``: finds what can be scaled, and writes the scaled constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.quantize.equalize import Constants, Link, Part, equalize

# layer: the axis of its weights that counts the channels it makes, and the axis that counts those it takes
MAKES = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
TAKES = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 1}
# what gives s f(x) for s x; where the channels stay last, each channel may have its own s
SCALES_ALONG = {"RELU", "LEAKY_RELU", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "RESHAPE", "PAD", "MUL"}
ACTIVATION = schema.ActivationFunctionType
HOMOGENEOUS = (ACTIVATION.NONE, ACTIVATION.RELU)


def equalized(path: Path, made: Path) -> Path:
    """Write the equalized model to ``made`` and return that; both compute the same but for float32's rounding."""
    model = flatbuffer_utils.read_model(str(path))
    if len(model.subgraphs) == 1:
        graph = Graph(model)
        links = tuple(graph.links())
        constants = graph.constants(links)
        equalize(constants, links)
        for index, array in constants.items():
            graph.buffer(index).data = np.frombuffer(array.astype(np.float32).tobytes(), np.uint8)
    made.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    return made


class Graph:
    """The one graph of a model, and who takes what in it; tensors go by their index."""

    def __init__(self, model: Any) -> None:
        self._model, self._graph = model, model.subgraphs[0]
        self._takers: dict[int, list[Any]] = {}
        self._makers: dict[int, Any] = {}
        for operator in self._graph.operators:
            for index in operator.inputs:
                self._takers.setdefault(int(index), []).append(operator)
            self._makers |= {int(index): operator for index in operator.outputs}
        self._sharing = Counter(tensor.buffer for tensor in self._graph.tensors)

    def links(self) -> Iterator[Link]:
        """Yield what can be equalized, in the order of execution."""
        for operator in self._graph.operators:
            link = self._link(operator)
            if link:
                yield link

    def constants(self, links: tuple[Link, ...]) -> Constants:
        """Return the constants of the links as float64, so that forty small steps do not add up to an error."""
        parts = [part for link in links for part in (link.weights, *link.biases, *link.takers)]
        return {part.constant: self._array(part.constant) for part in parts}

    def buffer(self, index: Any) -> Any:
        """Return where a tensor's data are."""
        return self._model.buffers[self._graph.tensors[index].buffer]

    def _link(self, maker: Any) -> Link | None:
        kind, inputs = self._kind(maker), [int(index) for index in maker.inputs]
        if kind not in MAKES or not self._own(inputs[1]) or not all(map(self._own, self._bias(inputs))):
            return None
        activation = maker.builtinOptions.fusedActivationFunction
        bounded = activation == ACTIVATION.RELU6 and self._ends_at_six(inputs[0])
        if activation not in HOMOGENEOUS and not bounded:
            return None
        takers = self._reach(int(maker.outputs[0]))
        if not takers:
            return None
        biases = tuple(Part(index, 0) for index in self._bias(inputs))
        return Link(Part(inputs[1], MAKES[kind]), biases, tuple(takers), bounded)

    def _reach(self, start: int) -> list[Part] | None:
        """Return who takes a tensor's channels, or None where one of them cannot be scaled."""
        channels, reached, pending = self._shape(start)[-1], {start}, [start]
        takers: list[Part] = []
        products: list[Any] = []
        while pending:
            index = pending.pop()
            if index in self._graph.outputs or index not in self._takers:
                return None
            for operator in self._takers[index]:
                taken = self._taken(operator, index, channels)
                if taken:
                    takers.append(taken)
                elif self._scales_along(operator, index, channels):
                    products += [operator] if self._kind(operator) == "MUL" else []
                    result = int(operator.outputs[0])
                    pending += [result] if result not in reached else []
                    reached.add(result)
                else:
                    return None
        # of x · y only one may come with the channels: both would scale them twice
        return takers if all(sum(index in reached for index in one.inputs) == 1 for one in products) else None

    def _taken(self, operator: Any, index: int, channels: int) -> Part | None:
        """Return what takes a tensor's channels. Flattened, with the channels last, they come in turns."""
        kind = self._kind(operator)
        if kind not in TAKES or operator.inputs[0] != index or not self._own(int(operator.inputs[1])):
            return None
        constant, axis = int(operator.inputs[1]), TAKES[kind]
        size = self._shape(constant)[axis]
        if size == channels:
            return Part(constant, axis)
        return Part(constant, axis, channels) if kind == "FULLY_CONNECTED" and size % channels == 0 else None

    def _scales_along(self, operator: Any, index: int, channels: int) -> bool:
        kind, inputs = self._kind(operator), [int(index) for index in operator.inputs]
        if kind not in SCALES_ALONG:
            return False
        last = self._shape(int(operator.outputs[0]))[-1:]
        if kind == "RESHAPE":  # as long as its last axis has whole turns of channels, they come in turns there, too
            return bool(last) and last[0] % channels == 0
        if last != self._shape(index)[-1:]:
            return False
        if getattr(operator.builtinOptions, "fusedActivationFunction", ACTIVATION.NONE) not in HOMOGENEOUS:
            return False
        if kind == "MEAN":
            axes = self._array(inputs[1], np.int32).ravel()
            return len(self._shape(inputs[0])) - 1 not in axes % len(self._shape(inputs[0]))
        return True

    def _ends_at_six(self, index: int) -> bool:
        """Tell whether a tensor comes from a ReLU6."""
        options = getattr(self._makers.get(index), "builtinOptions", None)
        return bool(getattr(options, "fusedActivationFunction", None) == ACTIVATION.RELU6)

    def _own(self, index: int) -> bool:
        """Tell whether a tensor is a float32 constant that one operator alone takes."""
        tensor = self._graph.tensors[index]
        constant = self._model.buffers[tensor.buffer].data is not None and tensor.type == schema.TensorType.FLOAT32
        return constant and len(self._takers[index]) == 1 and self._sharing[tensor.buffer] == 1

    def _bias(self, inputs: list[int]) -> list[int]:
        return [index for index in inputs[2:3] if index >= 0]

    def _shape(self, index: int) -> list[int]:
        return [int(size) for size in self._graph.tensors[index].shape]

    def _kind(self, operator: Any) -> str:
        return str(flatbuffer_utils.opcode_to_name(self._model, operator.opcodeIndex))

    def _array(self, index: Any, stored: Any = np.float32) -> Any:
        """Return a constant's values in a new array; floats come as float64."""
        values = np.frombuffer(bytes(self.buffer(index).data), stored).reshape(self._shape(index))
        return values.astype(np.float64 if stored == np.float32 else np.int64)
