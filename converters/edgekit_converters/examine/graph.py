"""A float artifact's graph, the same for every format, with the ranges of its tensors on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

PERCENTILE = 99.9
PERCENTILE_VALUES = 1 << 15  # of a sample, evenly spread over the tensor, that its percentile is computed from
WEIGHTED = ("conv", "depthwise", "dense")
ARITHMETIC = ("add", "subtract", "multiply", "divide")
LAYOUT_KINDS = ("shape", "slice", "concat")  # rearrange values and change none


@dataclass(frozen=True)
class Tensor:
    """An activation between nodes, or a constant."""

    shape: tuple[int, ...]
    constant: np.ndarray | None = None


@dataclass(frozen=True)
class Node:
    """An operator."""

    name: str  # by which the format's quantizer knows it
    kind: str  # such as "softmax", or an entry of the tuples above; "other" if no detector needs it
    inputs: tuple[int, ...]  # positions in Graph.tensors
    outputs: tuple[int, ...]
    axis: int | None = None  # of a concat, softmax or sum over one axis; the channels of depthwise weights; >= 0
    unfused: bool = True  # has no fused activation


@dataclass(frozen=True)
class Range:
    """The range of a tensor over all samples."""

    low: float
    high: float
    percentile: float  # 99.9 % of the absolute values are below: median of the samples' percentiles

    @property
    def span(self) -> float:
        """Width of the quantized range, which always includes 0."""
        return max(self.high, 0.0) - min(self.low, 0.0)

    @property
    def largest(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of execution, and the tensors between them."""

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]  # in the order of the source's outputs
    ranges: dict[int, Range] = field(default_factory=dict)  # of float activations

    @cached_property
    def producers(self) -> dict[int, Node]:
        """Tensor → the node that computes it."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    def consumers(self, tensor: int) -> list[Node]:
        """Return the nodes that use a tensor."""
        return [node for node in self.nodes if tensor in node.inputs]

    def constants(self, node: Node) -> list[np.ndarray]:
        """Return the constants among a node's inputs."""
        found = (self.tensors[place].constant for place in node.inputs)
        return [constant for constant in found if constant is not None]

    def activations(self, node: Node) -> list[int]:
        """Return a node's inputs that are no constants."""
        return [place for place in node.inputs if self.tensors[place].constant is None]

    def has_weights(self, node: Node) -> bool:
        """Return whether a node multiplies by constant weights."""
        return node.kind in WEIGHTED and bool(self.constants(node))

    def downstream(self, start: Iterable[int], through: Iterable[str] | None = None) -> Iterator[Node]:
        """Yield the nodes that tensors reach, in order, through nodes of some kinds or, by default, without weights."""
        reached = set(start)
        for node in self.nodes:
            passes = node.kind in through if through is not None else not self.has_weights(node)
            if passes and reached & set(node.inputs):
                reached |= set(node.outputs)
                yield node

    def upstream(self, tensor: int, through: Iterable[str]) -> Iterator[Node]:
        """Yield the nodes that a tensor is computed from, through nodes of some kinds, the nearest first."""
        wanted = {tensor}
        for node in reversed(self.nodes):
            if node.kind in through and wanted & set(node.outputs):
                wanted |= set(node.inputs)
                yield node


def finite_values(array: np.ndarray) -> np.ndarray:
    """Return the values of an array, (n,), without infinities and NaN."""
    values = array.ravel()
    if values.size and not np.isfinite([values.min(), values.max()]).all():  # NaN shows in both
        values = values[np.isfinite(values)]
    return values


class RangeRecorder:
    """Records the ranges of tensors sample by sample; memory grows by one number a tensor and sample."""

    def __init__(self) -> None:
        self._extremes: dict[int, tuple[float, float]] = {}
        self._percentiles: dict[int, list[float]] = {}

    def add(self, tensor: int, array: np.ndarray) -> None:
        """Add the values of a tensor on one sample; values that are not finite are ignored."""
        values = finite_values(array)
        if not values.size:
            return
        low, high = self._extremes.get(tensor, (np.inf, -np.inf))
        self._extremes[tensor] = min(low, float(values.min())), max(high, float(values.max()))
        spread = values[:: -(-values.size // PERCENTILE_VALUES)]
        self._percentiles.setdefault(tensor, []).append(float(np.percentile(np.abs(spread), PERCENTILE)))

    def ranges(self) -> dict[int, Range]:
        """Return the range of each tensor over the samples so far."""
        return {
            tensor: Range(low, high, float(np.median(self._percentiles[tensor])))
            for tensor, (low, high) in self._extremes.items()
        }
