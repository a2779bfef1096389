"""Match two traces of one model by the values that their steps compute."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import numpy as np

from edgekit_converters.trace.steps import Step, same_values


def pair(
    layers: Sequence[Step], layer_values: np.ndarray, nodes: Sequence[Step], node_values: np.ndarray
) -> list[tuple[str, ...]]:
    """Return for each step of the source the names of the artifact's nodes that compute it.

    A step and a node match when they compute the same values; among several the order of execution decides. A step
    whose values no longer exist, because it was fused into a later one, gets the nodes of the first matched step after
    it. A node whose values the source never had, such as a convolution before its bias, belongs to the first matched
    node after it. A step that only rearranges values matches only nodes that rearrange values; otherwise it gets no
    node.

    Args:
        layers: the steps of the source.
        layer_values: their fingerprints, a row each.
        nodes: the nodes of the artifact.
        node_values: their fingerprints, a row each.
    """
    matched = _match_by_value(layers, layer_values, nodes, node_values)
    owned = _with_unmatched_inputs(nodes, set(matched.values()))
    consumers = _consumers(layers)
    names = []
    for place, step in enumerate(layers):
        at = matched.get(place)
        if at is None and not step.rearranges:
            later = _first_matched_consumer(place, consumers, matched)
            at = matched[later] if later is not None else None
        names.append(tuple(nodes[node].name for node in owned[at]) if at is not None else ())
    return names


def _match_by_value(
    layers: Sequence[Step], layer_values: np.ndarray, nodes: Sequence[Step], node_values: np.ndarray
) -> dict[int, int]:
    """Return index of a step → index of the node with the same values; unmatched nodes are preferred."""
    matched: dict[int, int] = {}
    used: set[int] = set()
    for place, step in enumerate(layers):
        size = math.prod(step.shape)
        equal = [
            at
            for at, node in enumerate(nodes)
            if node.rearranges == step.rearranges
            and math.prod(node.shape) == size
            and same_values(layer_values[place], node_values[at])
        ]
        free = [at for at in equal if at not in used]
        if free or (equal and not step.rearranges):
            matched[place] = free[0] if free else equal[-1]
            used.add(matched[place])
    return matched


def _with_unmatched_inputs(nodes: Sequence[Step], matched: set[int]) -> dict[int, list[int]]:
    """Return matched node → itself and the unmatched nodes before it that only lead to it, in order of execution."""
    consumers = _consumers(nodes)
    owned: dict[int, list[int]] = {at: [] for at in matched}
    for at in range(len(nodes)):
        owner = at if at in matched else _first_matched_consumer(at, consumers, matched)
        if owner is not None:
            owned[owner].append(at)
    return owned


def _consumers(steps: Sequence[Step]) -> list[list[int]]:
    """Return for each step the steps that use its result."""
    consumers: list[list[int]] = [[] for _ in steps]
    for place, step in enumerate(steps):
        for before in step.inputs:
            consumers[before].append(place)
    return consumers


def _first_matched_consumer(place: int, consumers: list[list[int]], matched: Container[int]) -> int | None:
    """Return the first matched step, in the order of execution, that uses a step's result, directly or indirectly."""
    reached, pending = set(), [place]
    while pending:
        for after in consumers[pending.pop()]:
            if after not in reached:
                reached.add(after)
                if after not in matched:
                    pending.append(after)
    return min((one for one in reached if one in matched), default=None)
