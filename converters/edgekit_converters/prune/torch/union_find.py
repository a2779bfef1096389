"""Union-find over the elements of tensors, and arrays of element ids."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

UNTRACKED = -1  # an element that no cut touches

Ids = np.ndarray  # ids of a tensor's elements: as many axes as it has, of size 1 where the id is the same all along


class UnionFind:
    """Sets of elements that are cut together (union-find, Tarjan 1975).

    A set that must stay has a reason.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._why: dict[int, str] = {}  # by root

    def new(self, count: int) -> Ids:
        """Return new elements, (count,), each in a set of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def join(self, one: Ids, other: Ids) -> None:
        """Join the sets of elements at the same position; arrays broadcast, and UNTRACKED elements join nothing."""
        pairs = np.stack([each.ravel() for each in np.broadcast_arrays(one, other)])
        for a, b in np.unique(pairs[:, (pairs >= 0).all(axis=0)], axis=1).T.tolist():
            self._unite(self._root(a), self._root(b))

    def join_along(self, ids: Ids, axes: Iterable[int]) -> Ids:
        """Join elements that differ only in their position along ``axes``; return the ids without these axes."""
        for axis in axes:
            first = ids.take([0], axis)
            self.join(ids, first)
            ids = first
        return ids

    def keep(self, ids: Ids, why: str, *, last: bool = False) -> None:
        """Mark the sets of elements as not to be cut; the first reason is kept, unless ``last`` is set."""
        for root in self.roots(ids[ids >= 0]).tolist():
            self._why[root] = why if last else self._why.get(root, why)

    def roots(self, ids: Ids) -> Ids:
        """Return the lowest element of each element's set; UNTRACKED stays UNTRACKED."""
        distinct, places = np.unique(ids, return_inverse=True)
        found = np.array([self._root(one) if one >= 0 else UNTRACKED for one in distinct.tolist()], dtype=np.int64)
        return found[places].reshape(ids.shape) if distinct.size else ids.astype(np.int64)

    def why(self, root: int) -> str | None:
        """Return the reason why a set must stay; None if it can be cut."""
        return self._why.get(root)

    def _root(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]
            one = self._parent[one]
        return one

    def _unite(self, a: int, b: int) -> None:
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        self._parent[high] = low
        if high in self._why:
            self._why.setdefault(low, self._why.pop(high))


def untracked(axes: int) -> Ids:
    """Return the ids of a tensor with elements that no cut touches."""
    return np.full((1,) * axes, UNTRACKED, dtype=np.int64)


def varying_axes(ids: Ids) -> list[int]:
    """Return the axes along which the ids differ."""
    return [axis for axis, size in enumerate(ids.shape) if size > 1]


def compact(ids: Ids) -> Ids:
    """Return the same ids with size 1 along each axis where they do not differ."""
    for axis in varying_axes(ids):
        first = ids.take([0], axis)
        if (ids == first).all():
            ids = first
    return ids


def along_axis(ids: Ids, axis: int, axes: int) -> Ids:
    """Return ids (n,) laid along one axis of a tensor."""
    return ids.reshape([-1 if one == axis else 1 for one in range(axes)])
