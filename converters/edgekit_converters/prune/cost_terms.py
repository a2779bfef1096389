"""What a goal is counted in, as a sum of terms that each depend on the widths of a few groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit_converters.prune import LayerCost, PruningGraph, Widths

MEASURES = ("channels", "macs", "size", "latency")


@dataclass(frozen=True)
class Term:
    """A part of the costs, and the groups it depends on."""

    groups: frozenset[str]
    cost: Callable[[Widths], float]


def terms_of(
    measure: str, anatomy: PruningGraph, milliseconds: Callable[[LayerCost, Widths], float] | None = None
) -> tuple[Term, ...]:
    """Return what a measure adds up.

    Args:
        measure: one of ``MEASURES``.
        anatomy: of the model.
        milliseconds: of a layer at given widths; wanted for "latency".
    """
    if measure == "channels":
        return tuple(Term(frozenset([one.name]), partial(_width, one.name)) for one in anatomy.groups)
    if measure == "latency":
        assert milliseconds is not None
        return tuple(Term(_groups(one), partial(milliseconds, one)) for one in anatomy.labours)
    if measure == "macs":
        return tuple(Term(_groups(one), one.macs) for one in anatomy.labours)
    counted = tuple(Term(_groups(one), one.parameters) for one in anatomy.labours)
    rest = anatomy.parameters - total(counted, anatomy.widths)
    return (*counted, Term(frozenset(), lambda _: rest))


def spread(cost: float, anatomy: PruningGraph, dense: PruningGraph) -> tuple[Term, ...]:
    """Return terms for what is no layer's own, such as additions and pools: it goes by how many values layers give.

    Args:
        cost: of the dense model.
        anatomy: of the model as it is.
        dense: of the dense one.
    """
    volume = sum(one.positions * one.outs.count(dense.widths) for one in dense.labours)
    each = cost / volume if volume else 0.0
    return tuple(Term(_groups(one), partial(_share, each, one)) for one in anatomy.labours)


def _share(each: float, labour: LayerCost, widths: Widths) -> float:
    return each * labour.positions * labour.outs.count(widths)


def total(terms: Sequence[Term], widths: Widths) -> float:
    """Return the costs at given widths."""
    return sum(term.cost(widths) for term in terms)


def _width(group: str, widths: Widths) -> float:
    return widths[group]


def _groups(labour: LayerCost) -> frozenset[str]:
    return frozenset(group for side in (labour.ins, labour.outs) for group, _ in side.parts)
