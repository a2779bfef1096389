"""Track channels through a Keras model: which entries of which weights can only be cut together.

Every tensor carries a :class:`TrackedAxis`: the axis that holds its channels, and the id of each channel. A layer
produces channels, passes them on, or reads them. Channels that meet, in an addition or on one axis of a shared weight,
are joined. The result is a partition of all ids, so each rule only knows its own layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit_converters.prune.residual_branches import GraphNode

Ids = np.ndarray  # (entries,) int64: the channel each entry of an axis belongs to
Key = tuple[int, str, int]  # of a weight axis: id of the layer, weight, axis


@dataclass(frozen=True)
class TrackedAxis:
    """The axis of a tensor that holds channels, and their ids."""

    axis: int  # of the tensor with its batch
    ids: Ids

    def broadcast(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the channel id of every value of one sample, in the shape of the sample: ``shape[1:]``."""
        broadcast_shape = [1] * (len(shape) - 1)
        broadcast_shape[self.axis - 1] = -1
        return np.broadcast_to(self.ids.reshape(broadcast_shape), shape[1:])


@dataclass(frozen=True)
class WeightAxis:
    """An axis of a weight that holds channels and is cut with them."""

    layer: Any
    weight: str  # attribute of the layer; dotted if a nested layer holds it
    axis: int
    role: str  # "produces", "passes" or "consumes" these channels
    ids: Ids


@dataclass(frozen=True)
class UngroupedCost:
    """The cost of a layer before groups are known; fields as in :class:`edgekit_converters.prune.LayerCost`."""

    layer: str
    operator: str
    ins: Ids
    outs: Ids
    positions: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    channel_parameters: int = 0
    divisions: int = 1


@dataclass(frozen=True)
class ResizedShape:
    """A layer whose config stores the size of a channel axis: a Reshape, or the input of a nested model."""

    layer: str
    axis: int  # with the batch
    ids: Ids


@dataclass
class Partition:
    """Sets of joined channels (union-find with path halving, Tarjan 1975).

    A set that must stay has a reason.
    """

    parents: list[int] = field(default_factory=list)
    held: dict[int, str] = field(default_factory=dict)  # root: why

    def fresh(self, count: int) -> Ids:
        """Return new channels, each in a set of its own."""
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def whole(self, count: int, why: str) -> Ids:
        """Return entries that are never cut."""
        one = self.fresh(1)
        self.keep(one, why)
        return np.repeat(one, count)

    def keep(self, ids: Ids, why: str) -> None:
        """Mark channels as not to be cut; the first reason is kept."""
        for one in {self.root(int(entry)) for entry in ids}:
            self.held.setdefault(one, why)

    def unite(self, a: Ids, b: Ids) -> None:
        """Join channels, entry by entry."""
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            first, second = sorted((self.root(one), self.root(other)))
            if first != second:
                self.parents[second] = first
                why = self.held.pop(second, None)
                if why is not None:
                    self.held.setdefault(first, why)

    def root(self, one: int) -> int:
        """Return the channel that represents the set of another."""
        parents = self.parents
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    def roots(self, ids: Iterable[int]) -> Ids:
        """Return for each entry the channel that represents its set."""
        return np.array([self.root(int(one)) for one in ids], dtype=np.int64)


@dataclass
class Tracing:
    """The record of calling the layers of a model one by one."""

    partition: Partition = field(default_factory=Partition)
    weight_axes: dict[Key, WeightAxis] = field(default_factory=dict)  # by layer, weight, axis
    costs: dict[tuple[str, int, str], UngroupedCost] = field(default_factory=dict)  # by operator, layer, part
    names: dict[int, str] = field(default_factory=dict)  # id of a layer: its path of names
    kinds: dict[int, str] = field(default_factory=dict)  # a channel's first entry: "channels", "neurons" or "heads"
    resized: list[ResizedShape] = field(default_factory=list)
    unsupported: dict[str, str] = field(default_factory=dict)  # layers that cannot be cut: why
    steps: list[GraphNode] = field(default_factory=list)  # calls, those of inputs first
    outputs: tuple[int, ...] = ()  # indices of the steps that compute the outputs of the model

    def produced(self, layer: Any, weight: str, axis: int, kind: str) -> Ids:
        """Return the channels that an axis of a layer's weight produces, the same at every call."""
        known = self.weight_axes.get((id(layer), weight, axis))
        if known is not None:
            return known.ids
        size = weight_of(layer, weight).shape[axis]
        ids = self.partition.fresh(int(size))
        self.kinds |= dict.fromkeys(ids.tolist(), kind)
        self.attach(layer, weight, axis, "produces", ids)
        return ids

    def attach(self, layer: Any, weight: str, axis: int, role: str, ids: Ids) -> None:
        """Record the channels of an axis of a weight; if it has channels already, both are joined."""
        key = (id(layer), weight, axis)
        known = self.weight_axes.setdefault(key, WeightAxis(layer, weight, axis, role, ids))
        self.partition.unite(known.ids, ids)

    def add_cost(self, layer: Any, cost: UngroupedCost, part: str = "") -> None:
        """Record the cost of a layer; the calls of one layer are added up."""
        key = (cost.operator, id(layer), part)
        before = self.costs.get(key)
        if before is None:
            self.costs[key] = cost
        else:
            self.costs[key] = UngroupedCost(**(vars(before) | {"positions": before.positions + cost.positions}))


def weight_of(layer: Any, dotted: str) -> Any:
    """Return a weight of a layer by its attribute; dotted if a nested layer holds it."""
    for name in dotted.split("."):
        layer = getattr(layer, name)
    return layer
