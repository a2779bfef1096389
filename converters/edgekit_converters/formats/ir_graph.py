"""The graph of an OpenVINO IR."""

from __future__ import annotations

import openvino as ov

NOT_COMPUTED = ("Constant", "Parameter", "Result", "Assign", "ReadValue")


def constants(model: ov.Model) -> frozenset[str]:
    """Return the names of constants and of nodes computed from constants alone, such as float16 weights as float32."""
    found: set[str] = set()
    for node in model.get_ordered_ops():
        before = [value.get_source_output().get_node().get_friendly_name() for value in node.inputs()]
        kind = node.get_type_name()
        if kind == "Constant" or (kind not in NOT_COMPUTED and before and found.issuperset(before)):
            found.add(node.get_friendly_name())
    return frozenset(found)
