"""The graph of a ``.tflite`` file, as AI Edge Quantizer's rules refer to it."""

from __future__ import annotations

from typing import Any


def node_name(graph: Any, operator: Any) -> str:
    """Return an operator's name: the names of its outputs, joined as AI Edge Quantizer's rules expect them.

    Args:
        graph: a ``SubGraphT``.
        operator: one of its operators, ``OperatorT``.
    """
    return ";".join(graph.tensors[index].name.decode() for index in operator.outputs if index >= 0)
