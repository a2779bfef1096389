"""Match two traces of one computation by what their steps compute."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import numpy as np

from edgekit_converters.trace.steps import Step, same


def pair(layers: Sequence[Step], theirs: np.ndarray, nodes: Sequence[Step], ours: np.ndarray) -> list[tuple[str, ...]]:
    """Return for each step of the source the names of the artifact's nodes that compute it.

    A step and a node are the same when they give the same values; among equals the order of execution decides. A
    step whose values do not exist any more, because it was fused into a later one, belongs to the first later step
    that was found. A node whose values the source never had, such as a convolution before its bias, belongs to the
    step of the first later node that was found. Steps that only move values are found in nodes that only move values,
    or nowhere: then nothing is computed for them.

    Args:
        layers: the steps of the source.
        theirs: their fingerprints, a row each.
        nodes: the nodes of the artifact.
        ours: their fingerprints, a row each.
    """
    found = _same(layers, theirs, nodes, ours)
    owned = _with_unmatched_before(nodes, set(found.values()))
    followers = _followers(layers)
    names = []
    for place, step in enumerate(layers):
        at = found.get(place)
        if at is None and not step.moves:
            later = _first_later(place, followers, found)
            at = found[later] if later is not None else None
        names.append(tuple(nodes[node].name for node in owned[at]) if at is not None else ())
    return names


def _same(layers: Sequence[Step], theirs: np.ndarray, nodes: Sequence[Step], ours: np.ndarray) -> dict[int, int]:
    """Return place of a step → place of the node that gives the same values; a node is taken once while others do."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    for place, step in enumerate(layers):
        size = math.prod(step.shape)
        equal = [
            at
            for at, node in enumerate(nodes)
            if node.moves == step.moves and math.prod(node.shape) == size and same(theirs[place], ours[at])
        ]
        free = [at for at in equal if at not in taken]
        if free or (equal and not step.moves):
            found[place] = free[0] if free else equal[-1]
            taken.add(found[place])
    return found


def _with_unmatched_before(nodes: Sequence[Step], matched: set[int]) -> dict[int, list[int]]:
    """Return matched node → itself and the nodes before it that only lead to it, in order of execution."""
    followers = _followers(nodes)
    owned: dict[int, list[int]] = {at: [] for at in matched}
    for at in range(len(nodes)):
        owner = at if at in matched else _first_later(at, followers, matched)
        if owner is not None:
            owned[owner].append(at)
    return owned


def _followers(steps: Sequence[Step]) -> list[list[int]]:
    followers: list[list[int]] = [[] for _ in steps]
    for place, step in enumerate(steps):
        for before in step.takes:
            followers[before].append(place)
    return followers


def _first_later(place: int, followers: list[list[int]], wanted: Container[int]) -> int | None:
    """Return the first step after ``place``, in the order of execution, that takes from it and is wanted."""
    reached, waiting = set(), [place]
    while waiting:
        for after in followers[waiting.pop()]:
            if after not in reached:
                reached.add(after)
                if after not in wanted:
                    waiting.append(after)
    return min((one for one in reached if one in wanted), default=None)
