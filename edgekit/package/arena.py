"""Estimate the tensor arena that TFLite Micro needs for a ``.tflite``, without running it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit_runtime.errors import ConversionError

if TYPE_CHECKING:
    import tflite

ALIGNMENT_BYTES = 16  # of every buffer in an arena
# Value sizes of the schema's TensorType; TFLite Micro supports no others.
TYPE_BYTES = {
    "FLOAT32": 4,
    "FLOAT16": 2,
    "INT32": 4,
    "UINT8": 1,
    "INT64": 8,
    "BOOL": 1,
    "INT16": 2,
    "INT8": 1,
    "FLOAT64": 8,
    "UINT32": 4,
    "UINT16": 2,
}
# Persistent allocations on a 64-bit machine, an upper bound for machines with shorter pointers. A node counts with the
# largest per-node data of any kernel, a channel with a multiplier and a shift.
INTERPRETER_BYTES, TENSOR_BYTES, NODE_BYTES, CHANNEL_BYTES = 1536, 24, 176, 8


@dataclass(frozen=True)
class ArenaTensor:
    """A tensor of the first subgraph."""

    size_bytes: int
    constant: bool
    channels: int  # of a convolution's weights, else 0


@dataclass(frozen=True)
class Arena:
    """The allocations of an interpreter."""

    activation_bytes: int  # activations, which share memory by their lifetimes
    persistent_bytes: int  # of tensors, nodes and the interpreter itself

    @property
    def total_bytes(self) -> int:
        """The sum, rounded up to a whole KiB."""
        return -(-(self.activation_bytes + self.persistent_bytes) // 1024) * 1024


def estimate(model: bytes) -> Arena:
    """Estimate the arena of a model.

    Activations are placed as TFLite Micro's GreedyMemoryPlanner does: the largest first, each at the lowest free
    offset during its lifetime. Kernels may need more, so leave room and measure on the device.

    Raises:
        ConversionError: the data is not a ``.tflite``, or a shape in it is dynamic.
    """
    import tflite

    try:
        root = tflite.Model.GetRootAs(model, 0)
        graph = root.Subgraphs(0)
        tensors = [_tensor(graph.Tensors(i), root) for i in range(graph.TensorsLength())]
        operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        nodes = [(_integers(node, "Inputs"), _integers(node, "Outputs")) for node in operators]
        lifetimes = _lifetimes(tensors, nodes, _integers(graph, "Inputs"), _integers(graph, "Outputs"))
    except (struct.error, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # of flatbuffers
        raise ConversionError(f"cannot be read: {error}", stage="package", subject=".tflite") from error
    persistent = INTERPRETER_BYTES + TENSOR_BYTES * len(tensors) + NODE_BYTES * len(nodes)
    persistent += CHANNEL_BYTES * sum(tensors[index].channels for inputs, _ in nodes for index in inputs if index >= 0)
    return Arena(_planned_bytes([(tensors[index].size_bytes, *life) for index, life in lifetimes.items()]), persistent)


def _tensor(tensor: tflite.Tensor, root: tflite.Model) -> ArenaTensor:
    import tflite

    shape = _integers(tensor, "Shape")
    count = math.prod(shape)
    if count < 0:
        raise ValueError("a shape is dynamic")
    type_bytes = {getattr(tflite.TensorType, name): size for name, size in TYPE_BYTES.items()}
    buffer = root.Buffers(tensor.Buffer())
    constant = buffer.DataLength() > 0 or buffer.Offset() > 1
    channels = (shape[3] if shape[0] == 1 else shape[0]) if constant and len(shape) == 4 else 0
    return ArenaTensor(count * type_bytes[tensor.Type()], constant, channels)


def _integers(table: Any, field: str) -> list[int]:
    """Return a vector of integers of a FlatBuffer table; empty if it is not set."""
    values = getattr(table, f"{field}AsNumpy")()
    return [] if isinstance(values, int) else values.tolist()


def _lifetimes(
    tensors: list[ArenaTensor], nodes: list[tuple[list[int], list[int]]], inputs: list[int], outputs: list[int]
) -> dict[int, tuple[int, int]]:
    """Return, for each tensor that is not constant, the first and the last node during which it is allocated."""
    lifetimes = {index: (0, 0) for index in inputs}
    for node, (read, written) in enumerate(nodes):
        for index in (*read, *written):
            if index >= 0 and not tensors[index].constant:
                first, _ = lifetimes.get(index, (node, node))
                lifetimes[index] = first, node
    for index in outputs:
        if not tensors[index].constant:
            lifetimes[index] = lifetimes.get(index, (0, 0))[0], len(nodes)
    return lifetimes


def _planned_bytes(buffers: list[tuple[int, int, int]]) -> int:
    """Return the size of a memory plan for buffers of (size in bytes, first node, last node)."""
    placed: list[tuple[int, int, int, int]] = []  # start, end, first node, last node
    for size, first, last in sorted(buffers, key=lambda buffer: (-buffer[0], buffer[1])):
        needed = -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        offset = 0
        for start, end, other_first, other_last in sorted(placed):
            if other_first <= last and first <= other_last:
                if start - offset >= needed:
                    break
                offset = max(offset, end)
        placed.append((offset, offset + needed, first, last))
    return max((end for _, end, _, _ in placed), default=0)
