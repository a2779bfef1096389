"""Residual branches: what is only added to something else, so that it can go whole and the rest still computes.

No framework. A framework's file tells the calls of a model, each as a :class:`GraphNode`; what only one operand of an
addition needs, and nothing else, is its branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit_converters.prune import Branch, PruningGraph


@dataclass(frozen=True)
class GraphNode:
    """A call of a model, in the order of execution."""

    name: str  # of the layer
    inputs: tuple[int, ...]  # places of the steps whose outputs it takes; none for what enters the model
    shape: tuple[int, ...]  # of what it gives
    is_addition: bool = False


@dataclass(frozen=True)
class ResidualPath:
    """An operand of an addition that can be left out."""

    at: int  # the addition's place
    operand: int  # 0 or 1
    steps: frozenset[int]  # that nothing else needs


@dataclass(frozen=True)
class RemovableBranch:
    """One that can be left out, in a model's own terms."""

    name: str  # of the addition; of two operands that can be left out, with its place
    stream: str  # what it is added to
    layers: frozenset[str]  # that go with it, or modules around them


def branch_name(addition: str, one: ResidualPath, all_of_them: Sequence[ResidualPath]) -> str:
    """Name an operand after its addition."""
    both = sum(other.at == one.at for other in all_of_them) > 1
    return f"{addition}:{one.operand}" if both else addition


def removable_paths(steps: Sequence[GraphNode], outputs: Sequence[int]) -> Iterator[ResidualPath]:
    """Yield the operands of additions of two equal shapes that can be left out.

    What is left must still take every input of the model, and give all its outputs.
    """
    whole = _needed(steps, outputs)
    for at in sorted(whole):
        one = steps[at]
        if (
            not one.is_addition
            or len(set(one.inputs)) != 2
            or {steps[place].shape for place in one.inputs} != {one.shape}
        ):
            continue
        for operand in (0, 1):
            shorter = [*steps[:at], replace(one, inputs=(one.inputs[1 - operand],)), *steps[at + 1 :]]
            gone = whole - _needed(shorter, outputs)
            if one.inputs[operand] in gone and all(steps[place].inputs for place in gone):
                yield ResidualPath(at, operand, frozenset(gone))


def _needed(steps: Sequence[GraphNode], outputs: Sequence[int]) -> set[int]:
    found, todo = set(), list(outputs)
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo += steps[place].inputs
    return found


def find_branches(graph: PruningGraph, removable_branches: Sequence[RemovableBranch]) -> tuple[Branch, ...]:
    """Return the branches with channels of their own; of two at one addition, the one with more to compute."""
    best: dict[str, tuple[int, Branch]] = {}
    for one in removable_branches:
        addition = one.name.rpartition(":")[0] or one.name
        inside = tuple(layer_cost for layer_cost in graph.layer_costs if is_inside(layer_cost.layer, one.layers))
        groups = tuple(
            group.name
            for group in graph.groups
            if all(is_inside(layer, one.layers) for layer in (*group.producers, *group.consumers))
        )
        macs = sum(layer_cost.macs(graph.widths) for layer_cost in inside)
        if groups and (addition not in best or macs > best[addition][0]):
            layers = tuple(dict.fromkeys(layer_cost.layer for layer_cost in inside))
            best[addition] = macs, Branch(one.name, layers, groups, one.stream)
    return tuple(branch for _, branch in best.values())


def is_inside(layer: str, layers: frozenset[str]) -> bool:
    """Tell whether a layer is one of some, or a part of one: names are paths with slashes or dots."""
    name = layer.partition(" ")[0]
    places = [place for place, sign in enumerate(name) if sign in "/."]
    return name in layers or any(name[:place] in layers for place in places)


def without_branches(graph: PruningGraph, names: Sequence[str]) -> PruningGraph:
    """Return what is known of a model beforehand when branches are gone."""
    gone = [one for one in graph.branches if one.name in names]
    layers = {layer for one in gone for layer in one.layers}
    groups = {group for one in gone for group in one.groups}
    lost = sum(one.parameters(graph.widths) for one in graph.layer_costs if one.layer in layers)
    return PruningGraph(
        tuple(one for one in graph.groups if one.name not in groups),
        tuple(one for one in graph.layer_costs if one.layer not in layers),
        graph.unprunable,
        graph.parameters - lost,
        tuple(one for one in graph.branches if not set(one.layers) <= layers),
    )
