"""Remove the CONCATENATION from an output of a ``.tflite``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.records import Artifact, Split


def split(artifact: Artifact, splits: tuple[Split, ...], folder: Path) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """Write ``model.tflite``; return it, and the number of parts of each output, in the source's order."""
    model = flatbuffer_utils.read_model(str(artifact.files[0]))
    graph = model.subgraphs[0]
    outputs = [int(graph.outputs[part.index]) for bound in artifact.outputs for part in bound.parts]
    removed = {outputs[one.output]: _producer(graph, outputs[one.output]) for one in splits}
    parts = [list(removed[tensor].inputs) if tensor in removed else [tensor] for tensor in outputs]
    graph.operators = [one for one in graph.operators if all(one is not other for other in removed.values())]
    graph.outputs = [tensor for group in parts for tensor in group]
    for definition in model.signatureDefs or ():
        definition.outputs = [_port(f"output_{place}", tensor) for place, tensor in enumerate(graph.outputs)]
    path = folder / "model.tflite"
    flatbuffer_utils.write_model(model, str(path))
    return (path,), tuple(map(len, parts))


def _producer(graph: Any, tensor: int) -> Any:
    return next(operator for operator in graph.operators if tensor in operator.outputs)


def _port(name: str, tensor: int) -> Any:
    port = schema.TensorMapT()
    port.name, port.tensorIndex = name.encode(), tensor
    return port
