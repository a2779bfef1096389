"""Residual branches: what is only added to something else, so that it can go whole and the rest still computes.

No framework. A framework's file tells the calls of a model, each as a :class:`Step`; what only one operand of an
addition needs, and nothing else, is its branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgekit_converters.prune import Branch, PruningGraph


@dataclass(frozen=True)
class Step:
    """A call of a model, in the order of execution."""

    name: str  # of the layer
    takes: tuple[int, ...]  # places of the steps whose outputs it takes; none for what enters the model
    shape: tuple[int, ...]  # of what it gives
    adds: bool = False


@dataclass(frozen=True)
class ResidualPath:
    """An operand of an addition that can be left out."""

    at: int  # the addition's place
    operand: int  # 0 or 1
    steps: frozenset[int]  # that nothing else needs


@dataclass(frozen=True)
class Operand:
    """One that can be left out, in a model's own terms."""

    name: str  # of the addition; of two operands that can be left out, with its place
    stream: str  # what it is added to
    layers: frozenset[str]  # that go with it, or modules around them


def named(addition: str, one: ResidualPath, all_of_them: Sequence[ResidualPath]) -> str:
    """Name an operand after its addition."""
    both = sum(other.at == one.at for other in all_of_them) > 1
    return f"{addition}:{one.operand}" if both else addition


def detours(steps: Sequence[Step], outputs: Sequence[int]) -> Iterator[ResidualPath]:
    """Yield the operands of additions of two equal shapes that can be left out.

    What is left must still take every input of the model, and give all its outputs.
    """
    whole = _needed(steps, outputs)
    for at in sorted(whole):
        one = steps[at]
        if not one.adds or len(set(one.takes)) != 2 or {steps[place].shape for place in one.takes} != {one.shape}:
            continue
        for operand in (0, 1):
            shorter = [*steps[:at], replace(one, takes=(one.takes[1 - operand],)), *steps[at + 1 :]]
            gone = whole - _needed(shorter, outputs)
            if one.takes[operand] in gone and all(steps[place].takes for place in gone):
                yield ResidualPath(at, operand, frozenset(gone))


def _needed(steps: Sequence[Step], outputs: Sequence[int]) -> set[int]:
    found, todo = set(), list(outputs)
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo += steps[place].takes
    return found


def found_in(anatomy: PruningGraph, operands: Sequence[Operand]) -> tuple[Branch, ...]:
    """Return the branches with channels of their own; of two at one addition, the one with more to compute."""
    best: dict[str, tuple[int, Branch]] = {}
    for one in operands:
        addition = one.name.rpartition(":")[0] or one.name
        inside = tuple(labour for labour in anatomy.labours if is_inside(labour.layer, one.layers))
        groups = tuple(
            group.name
            for group in anatomy.groups
            if all(is_inside(layer, one.layers) for layer in (*group.makers, *group.users))
        )
        macs = sum(labour.macs(anatomy.widths) for labour in inside)
        if groups and (addition not in best or macs > best[addition][0]):
            layers = tuple(dict.fromkeys(labour.layer for labour in inside))
            best[addition] = macs, Branch(one.name, layers, groups, one.stream)
    return tuple(branch for _, branch in best.values())


def is_inside(layer: str, layers: frozenset[str]) -> bool:
    """Tell whether a layer is one of some, or a part of one: names are paths with slashes or dots."""
    name = layer.partition(" ")[0]
    places = [place for place, sign in enumerate(name) if sign in "/."]
    return name in layers or any(name[:place] in layers for place in places)


def without(anatomy: PruningGraph, names: Sequence[str]) -> PruningGraph:
    """Return what is known of a model beforehand when branches are gone."""
    gone = [one for one in anatomy.branches if one.name in names]
    layers = {layer for one in gone for layer in one.layers}
    groups = {group for one in gone for group in one.groups}
    lost = sum(one.parameters(anatomy.widths) for one in anatomy.labours if one.layer in layers)
    return PruningGraph(
        tuple(one for one in anatomy.groups if one.name not in groups),
        tuple(one for one in anatomy.labours if one.layer not in layers),
        anatomy.whole,
        anatomy.parameters - lost,
        tuple(one for one in anatomy.branches if not set(one.layers) <= layers),
    )
