"""A float artifact's graph in terms of neither format, with what its tensors held on calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

TAIL_PERCENT = 99.9
ENOUGH = 1 << 15  # values of a sample, evenly spread over the tensor, to tell its percentile from
WEIGHTED = ("conv", "depthwise", "dense")
ARITHMETIC = ("add", "subtract", "multiply", "divide")
MOVES = ("shape", "slice", "concat")  # change no number


@dataclass(frozen=True)
class Tensor:
    """A value that flows between nodes, or a constant."""

    shape: tuple[int, ...]
    constant: np.ndarray | None = None


@dataclass(frozen=True)
class Node:
    """An operator."""

    name: str  # as the format's quantizer calls it
    kind: str  # a key of examine/findings.py's rules, such as "softmax", or of the tuples above; "other" for all else
    inputs: tuple[int, ...]  # places of tensors
    outputs: tuple[int, ...]
    axis: int | None = None  # of a concat, softmax or sum over one axis; of a depthwise one's weights: channels; >= 0
    plain: bool = True  # it does that and nothing else, such as a fused activation


@dataclass(frozen=True)
class Range:
    """What a tensor held, over all samples."""

    low: float
    high: float
    tail: float  # what 99.9 % of the absolute values stay below: the median of the samples

    @property
    def span(self) -> float:
        """How much a quantized range has to cover; it always holds 0."""
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
    ranges: dict[int, Range] = field(default_factory=dict)  # of tensors that are float and no constants

    @cached_property
    def makers(self) -> dict[int, Node]:
        """Tensor → the node that makes it."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    def takers(self, tensor: int) -> list[Node]:
        """The nodes that take a tensor."""
        return [node for node in self.nodes if tensor in node.inputs]

    def constants(self, node: Node) -> list[np.ndarray]:
        """The constants a node takes."""
        found = (self.tensors[place].constant for place in node.inputs)
        return [constant for constant in found if constant is not None]

    def values(self, node: Node) -> list[int]:
        """The tensors a node takes that are no constants."""
        return [place for place in node.inputs if self.tensors[place].constant is None]

    def weighted(self, node: Node) -> bool:
        """Whether it multiplies by constant weights."""
        return node.kind in WEIGHTED and bool(self.constants(node))

    def behind(self, start: Iterable[int], through: Iterable[str] | None = None) -> Iterator[Node]:
        """Every node that tensors lead to, in order: through nodes of some kinds, or all that have no weights."""
        reached = set(start)
        for node in self.nodes:
            goes = node.kind in through if through is not None else not self.weighted(node)
            if goes and reached & set(node.inputs):
                reached |= set(node.outputs)
                yield node

    def before(self, tensor: int, through: Iterable[str]) -> Iterator[Node]:
        """Every node that leads to a tensor through nodes of some kinds, the nearest first."""
        wanted = {tensor}
        for node in reversed(self.nodes):
            if node.kind in through and wanted & set(node.outputs):
                wanted |= set(node.inputs)
                yield node


def finite(array: np.ndarray) -> np.ndarray:
    """The values of an array, (n,), without infinities and NaN."""
    values = array.ravel()
    if values.size and not np.isfinite([values.min(), values.max()]).all():  # NaN is either
        values = values[np.isfinite(values)]
    return values


class Watcher:
    """Gathers ranges from one sample after the other, in constant memory but for a number a sample."""

    def __init__(self) -> None:
        self._extremes: dict[int, tuple[float, float]] = {}
        self._tails: dict[int, list[float]] = {}

    def see(self, tensor: int, array: np.ndarray) -> None:
        """Take in what a tensor holds for one sample; values that are not finite are passed over."""
        values = finite(array)
        if not values.size:
            return
        low, high = self._extremes.get(tensor, (np.inf, -np.inf))
        self._extremes[tensor] = min(low, float(values.min())), max(high, float(values.max()))
        some = values[:: -(-values.size // ENOUGH)]
        self._tails.setdefault(tensor, []).append(float(np.percentile(np.abs(some), TAIL_PERCENT)))

    def ranges(self) -> dict[int, Range]:
        """What was seen."""
        return {
            tensor: Range(low, high, float(np.median(self._tails[tensor])))
            for tensor, (low, high) in self._extremes.items()
        }
