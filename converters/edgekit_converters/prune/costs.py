"""What a model costs at given widths: multiplications and parameters, exactly, from its anatomy alone."""

from __future__ import annotations

import math

from edgekit_converters.prune import Anatomy, Labour, Widths


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
