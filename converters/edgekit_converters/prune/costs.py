"""What a model costs at given widths: multiplications and parameters, exactly, from its anatomy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit_converters.prune import Anatomy, Labour, Widths

MEASURES = ("channels", "macs", "size", "latency")


@dataclass(frozen=True)
class Term:
    """A part of the costs, and the groups it depends on."""

    groups: frozenset[str]
    cost: Callable[[Widths], float]


def multiplications(labour: Labour, widths: Widths) -> int:
    """Return the multiply-accumulates of a layer for one sample.

    Attention multiplies queries with keys (``ins`` entries each) and weights with values (``outs`` entries each).
    """
    ins, outs = labour.ins.count(widths), labour.outs.count(widths)
    if labour.operator == "attention":
        return labour.positions * math.prod(labour.kernel) * (ins + outs)
    return labour.positions * _weights(labour, ins, outs)


def parameters_of(labour: Labour, widths: Widths) -> int:
    """Return the parameters of a layer, and of what normalizes its outputs."""
    ins, outs = labour.ins.count(widths), labour.outs.count(widths)
    return _weights(labour, ins, outs) + labour.extras * outs


def _weights(labour: Labour, ins: int, outs: int) -> int:
    if labour.operator == "attention":
        return 0
    if labour.operator == "depthwise":
        return math.prod(labour.kernel) * outs
    return math.prod(labour.kernel) * ins * outs // labour.divisions


def macs(anatomy: Anatomy, widths: Widths) -> int:
    """Return the multiply-accumulates of a model for one sample."""
    return sum(multiplications(labour, widths) for labour in anatomy.labours)


def parameters(anatomy: Anatomy, widths: Widths) -> int:
    """Return the parameters of a model; what no labour counts is never cut."""
    dense = anatomy.widths
    saved = sum(parameters_of(one, dense) - parameters_of(one, widths) for one in anatomy.labours)
    return anatomy.parameters - saved


def terms_of(
    measure: str, anatomy: Anatomy, milliseconds: Callable[[Labour, Widths], float] | None = None
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
    count = multiplications if measure == "macs" else parameters_of
    counted = tuple(Term(_groups(one), partial(count, one)) for one in anatomy.labours)
    if measure == "macs":
        return counted
    rest = anatomy.parameters - total(counted, anatomy.widths)
    return (*counted, Term(frozenset(), lambda _: rest))


def total(terms: Sequence[Term], widths: Widths) -> float:
    """Return the costs at given widths."""
    return sum(term.cost(widths) for term in terms)


def _width(group: str, widths: Widths) -> float:
    return widths[group]


def _groups(labour: Labour) -> frozenset[str]:
    return frozenset(group for side in (labour.ins, labour.outs) for group, _ in side.parts)
