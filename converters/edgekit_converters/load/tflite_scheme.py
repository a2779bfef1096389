"""Detect the quantization scheme of a ``.tflite`` file from its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgekit_runtime.errors import SourceError

SMALL = {"INT2", "INT4", "UINT4"}
TYPE_NAMES = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}


@dataclass(frozen=True)
class TensorKind:
    """A tensor that shows the scheme; only tensors with a scale, or of float16, are read."""

    type: str  # of the schema: INT8, FLOAT16, ...
    constant: bool
    widened: bool  # read by a DEQUANTIZE operator: computed with as float32


def scheme_of(path: Path) -> str:
    """Return the scheme of a file.

    Computed tensors with integer scales mean a static scheme. If only constants have scales, they are either converted
    to float before use (weights), or the operators quantize their other inputs at run time (dynamic).

    Raises:
        SourceError: it has integers of fewer than 8 bits.
    """
    tensors = list(_tensors(path.read_bytes()))
    small = {tensor.type for tensor in tensors} & SMALL
    if small:
        raise SourceError(f"{path}: holds tensors of {small.pop()}; edgekit bundles models of 8 bits and more")
    computed = {tensor.type for tensor in tensors if not tensor.constant} - {"FLOAT16"}
    if computed:
        return "int16x8-static" if "INT16" in computed else "int8-static"
    weights = [tensor for tensor in tensors if tensor.type in ("INT8", "UINT8")]
    if weights:
        return "int8-weights" if all(tensor.widened for tensor in weights) else "int8-dynamic"
    return "float16" if tensors else "float32"


def _tensors(content: bytes) -> Iterator[TensorKind]:
    model = schema.Model.GetRootAs(content, 0)
    for graph in (model.Subgraphs(index) for index in range(model.SubgraphsLength())):
        widened = set(_dequantized(model, graph))
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            name = TYPE_NAMES[tensor.Type()]
            scale = tensor.Quantization()
            if name == "FLOAT16" or (scale is not None and scale.ScaleLength()):
                buffer = model.Buffers(tensor.Buffer())
                stored = bool(buffer.DataLength() or buffer.Offset() > 1)  # large files keep data behind the graph
                yield TensorKind(name, stored, index in widened)


def _dequantized(model: Any, graph: Any) -> Iterator[int]:
    for operator in (graph.Operators(index) for index in range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        if schema.BuiltinOperator.DEQUANTIZE in (code.BuiltinCode(), code.DeprecatedBuiltinCode()):
            yield int(operator.Inputs(0))
