"""How much memory TFLite Micro needs beside the model, estimated from a ``.tflite`` without any library.

What is read of the file is TensorFlow Lite's schema (schema.fbs) in the FlatBuffers encoding.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edgekit_runtime.errors import ConversionError

ALIGNMENT_BYTES = 16  # of every buffer in an arena
# Bytes of a value, by TensorType of the schema; what is not here is no type of TFLite Micro's.
TYPE_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 10: 8, 15: 4, 16: 2}
# What TFLite Micro keeps for as long as it lives, on a 64-bit machine: an upper bound for one with shorter pointers.
# A node's is the largest of a kernel's own data; a channel's a multiplier and a shift.
INTERPRETER_BYTES, TENSOR_BYTES, NODE_BYTES, CHANNEL_BYTES = 1536, 24, 176, 8


@dataclass(frozen=True)
class Tensor:
    """A tensor of the first subgraph."""

    size_bytes: int
    constant: bool
    channels: int  # of a convolution's weights, else 0


@dataclass(frozen=True)
class Arena:
    """What an interpreter allocates."""

    tensors_bytes: int  # activations, laid out by their lifetimes
    kept_bytes: int  # what it keeps of tensors, nodes and itself

    @property
    def total_bytes(self) -> int:
        """Both, rounded up to a whole KiB."""
        return -(-(self.tensors_bytes + self.kept_bytes) // 1024) * 1024


class Table:
    """A table of a FlatBuffer."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def field(self, number: int) -> int:
        """Where a field lies; 0 where it is not set."""
        vtable = self.at - self._int(self.at)
        size = struct.unpack_from("<H", self.data, vtable)[0]
        place = 4 + 2 * number
        offset = struct.unpack_from("<H", self.data, vtable + place)[0] if place + 2 <= size else 0
        return self.at + int(offset) if offset else 0

    def number(self, number: int, form: str = "<I") -> int:
        """The value of a number; 0 where it is not set."""
        at = self.field(number)
        return int(struct.unpack_from(form, self.data, at)[0]) if at else 0

    def numbers(self, number: int) -> list[int]:
        """The values of a vector of 32-bit integers."""
        start, count = self.vector(number)
        return list(struct.unpack_from(f"<{count}i", self.data, start))

    def vector(self, number: int) -> tuple[int, int]:
        """Where a vector starts, and how many elements it has."""
        at = self.field(number)
        if not at:
            return 0, 0
        start = at + self._uint(at)
        return start + 4, self._uint(start)

    def tables(self, number: int) -> list[Table]:
        """The tables of a vector of them."""
        start, count = self.vector(number)
        places = range(start, start + 4 * count, 4)
        return [Table(self.data, place + self._uint(place)) for place in places]

    def _int(self, at: int) -> int:
        return int(struct.unpack_from("<i", self.data, at)[0])

    def _uint(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.data, at)[0])


def estimate(model: bytes) -> Arena:
    """Estimate the arena of a model.

    Activations are laid out as TFLite Micro's GreedyMemoryPlanner does: the largest first, each at the lowest
    place that is free while it lives. Kernels may ask for more, so leave room and measure on the device.

    Raises:
        ConversionError: it is no ``.tflite``, or has no shapes that are known beforehand.
    """
    try:
        root = Table(model, struct.unpack_from("<I", model, 0)[0])
        graph = root.tables(2)[0]
        tensors = [_tensor(table, root.tables(4)) for table in graph.tables(0)]
        nodes = [(table.numbers(1), table.numbers(2)) for table in graph.tables(3)]
        lives = _lifetimes(tensors, nodes, graph.numbers(1), graph.numbers(2))
    except (struct.error, IndexError, KeyError) as error:
        raise ConversionError(f"cannot be read: {error}", stage="package", subject=".tflite") from error
    kept = INTERPRETER_BYTES + TENSOR_BYTES * len(tensors) + NODE_BYTES * len(nodes)
    kept += CHANNEL_BYTES * sum(tensors[place].channels for read, _ in nodes for place in read if place >= 0)
    return Arena(_laid_out([(tensors[place].size_bytes, *life) for place, life in lives.items()]), kept)


def _tensor(table: Table, buffers: list[Table]) -> Tensor:
    shape = table.numbers(0)
    count = 1
    for size in shape:
        count *= size
    if count < 0:
        raise KeyError("a shape is not known beforehand")
    buffer = buffers[table.number(2)]
    constant = buffer.vector(0)[1] > 0 or buffer.number(1, "<Q") > 1
    channels = (shape[3] if shape[0] == 1 else shape[0]) if constant and len(shape) == 4 else 0
    return Tensor(count * TYPE_BYTES[table.number(1, "<b")], constant, channels)


def _lifetimes(
    tensors: list[Tensor], nodes: list[tuple[list[int], list[int]]], inputs: list[int], outputs: list[int]
) -> dict[int, tuple[int, int]]:
    """By tensor, the first and the last node that it must be there for."""
    lives = {place: (0, 0) for place in inputs}
    for time, (read, written) in enumerate(nodes):
        for place in (*read, *written):
            if place >= 0 and not tensors[place].constant:
                first, _ = lives.get(place, (time, time))
                lives[place] = first, time
    for place in outputs:
        if not tensors[place].constant:
            lives[place] = lives.get(place, (0, 0))[0], len(nodes)
    return lives


def _laid_out(buffers: list[tuple[int, int, int]]) -> int:
    """The bytes that buffers of (size, first, last) take together."""
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    for size, first, last in sorted(buffers, key=lambda buffer: (-buffer[0], buffer[1])):
        need = -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        offset = 0
        for taken, end, began, ended in sorted(placed):
            if began <= last and first <= ended:
                if taken - offset >= need:
                    break
                offset = max(offset, end)
        placed.append((offset, offset + need, first, last))
    return max((end for _, end, _, _ in placed), default=0)
