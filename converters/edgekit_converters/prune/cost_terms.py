"""The cost that a goal limits, as a sum of terms that each depend on the widths of a few groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit_converters.prune import LayerCost, PruningGraph, Widths

MEASURES = ("channels", "macs", "size", "latency")


@dataclass(frozen=True)
class Term:
    """A part of the cost, and the groups that it depends on."""

    groups: frozenset[str]
    cost: Callable[[Widths], float]


def terms_of(
    measure: str, graph: PruningGraph, milliseconds: Callable[[LayerCost, Widths], float] | None = None
) -> tuple[Term, ...]:
    """Return the terms that a measure adds up.

    Args:
        measure: one of ``MEASURES``.
        graph: of the model.
        milliseconds: of a layer at given widths; wanted for "latency".
    """
    if measure == "channels":
        return tuple(Term(frozenset([one.name]), partial(_width, one.name)) for one in graph.groups)
    if measure == "latency":
        assert milliseconds is not None
        return tuple(Term(_groups(one), partial(milliseconds, one)) for one in graph.layer_costs)
    if measure == "macs":
        return tuple(Term(_groups(one), one.macs) for one in graph.layer_costs)
    counted = tuple(Term(_groups(one), one.parameters) for one in graph.layer_costs)
    rest = graph.parameters - total(counted, graph.widths)
    return (*counted, Term(frozenset(), lambda _: rest))


def overhead_terms(cost: float, graph: PruningGraph, dense: PruningGraph) -> tuple[Term, ...]:
    """Return terms for costs outside of layers, such as additions and pooling, in proportion to output sizes.

    Args:
        cost: of the original model.
        graph: of the current model.
        dense: of the original model.
    """
    volume = sum(one.positions * one.outs.count(dense.widths) for one in dense.layer_costs)
    each = cost / volume if volume else 0.0
    return tuple(Term(_groups(one), partial(_share, each, one)) for one in graph.layer_costs)


def _share(each: float, layer_cost: LayerCost, widths: Widths) -> float:
    return each * layer_cost.positions * layer_cost.outs.count(widths)


def total(terms: Sequence[Term], widths: Widths) -> float:
    """Return the cost at given widths."""
    return sum(term.cost(widths) for term in terms)


def _width(group: str, widths: Widths) -> float:
    return widths[group]


def _groups(layer_cost: LayerCost) -> frozenset[str]:
    return frozenset(group for side in (layer_cost.ins, layer_cost.outs) for group, _ in side.group_entries)
