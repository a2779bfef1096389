"""Find residual branches: operands of an addition that can be removed while the rest of the model still runs.

Independent of frameworks: a framework lists the calls of a model as :class:`GraphNode` records. The branch of an
operand are the nodes that only this operand needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit_converters.prune import Branch, PruningGraph


@dataclass(frozen=True)
class GraphNode:
    """One call of a layer or function, in the order of execution."""

    name: str  # of the layer
    inputs: tuple[int, ...]  # indices of the nodes that it reads; empty for an input of the model
    shape: tuple[int, ...]  # of the output
    is_addition: bool = False


@dataclass(frozen=True)
class ResidualPath:
    """An operand of an addition that can be removed."""

    index: int  # of the addition among the nodes
    operand: int  # 0 or 1
    nodes: frozenset[int]  # indices of the nodes that nothing else reads


@dataclass(frozen=True)
class RemovableBranch:
    """A removable branch, by the names that the model gives its layers."""

    name: str  # of the addition; with ":0" or ":1" if both operands can be removed
    stream: str  # the residual stream that it is added to
    layers: frozenset[str]  # that are removed with it, or modules that contain them


def branch_name(addition: str, one: ResidualPath, paths: Sequence[ResidualPath]) -> str:
    """Return the name of an operand of an addition."""
    both = sum(other.index == one.index for other in paths) > 1
    return f"{addition}:{one.operand}" if both else addition


def removable_paths(nodes: Sequence[GraphNode], outputs: Sequence[int]) -> Iterator[ResidualPath]:
    """Yield the operands of additions of two equal shapes that can be removed.

    The remaining model still reads every input and computes every output.
    """
    needed = _nodes_before(nodes, outputs)
    for index in sorted(needed):
        one = nodes[index]
        if (
            not one.is_addition
            or len(set(one.inputs)) != 2
            or {nodes[index].shape for index in one.inputs} != {one.shape}
        ):
            continue
        for operand in (0, 1):
            shorter = [*nodes[:index], replace(one, inputs=(one.inputs[1 - operand],)), *nodes[index + 1 :]]
            removed = needed - _nodes_before(shorter, outputs)
            if one.inputs[operand] in removed and all(nodes[index].inputs for index in removed):
                yield ResidualPath(index, operand, frozenset(removed))


def _nodes_before(nodes: Sequence[GraphNode], outputs: Sequence[int]) -> set[int]:
    found, pending = set(), list(outputs)
    while pending:
        index = pending.pop()
        if index not in found:
            found.add(index)
            pending += nodes[index].inputs
    return found


def find_branches(graph: PruningGraph, removable_branches: Sequence[RemovableBranch]) -> tuple[Branch, ...]:
    """Return the branches that have channel groups of their own; of two at one addition, the one with more MACs."""
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
    """Tell whether a layer is one of ``layers`` or inside one: names are paths with slashes or dots."""
    name = layer.partition(" ")[0]
    places = [index for index, sign in enumerate(name) if sign in "/."]
    return name in layers or any(name[:index] in layers for index in places)


def without_branches(graph: PruningGraph, names: Sequence[str]) -> PruningGraph:
    """Return the graph of the model as it will be without some branches."""
    removed = [one for one in graph.branches if one.name in names]
    layers = {layer for one in removed for layer in one.layers}
    groups = {group for one in removed for group in one.groups}
    lost = sum(one.parameters(graph.widths) for one in graph.layer_costs if one.layer in layers)
    return PruningGraph(
        tuple(one for one in graph.groups if one.name not in groups),
        tuple(one for one in graph.layer_costs if one.layer not in layers),
        graph.unprunable,
        graph.parameters - lost,
        tuple(one for one in graph.branches if not set(one.layers) <= layers),
    )
