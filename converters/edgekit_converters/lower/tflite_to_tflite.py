"""A ``.tflite`` is its own lowering; a float one without a signature gets one, which the quantizer asks for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.formats.tflite_metadata import signature
from edgekit_converters.frameworks.live_model import LoadedModel


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite``: a file that came quantized to the byte as it is."""
    path = folder / "model.tflite"
    if live.scheme != "float32" or signature(live.handle).key is not None:
        return (Path(shutil.copyfile(live.handle, path)),)
    model = flatbuffer_utils.read_model(str(live.handle))
    model.signatureDefs = [_signature(model.subgraphs[0])]
    flatbuffer_utils.write_model(model, str(path))
    return (path,)


def _signature(graph: Any) -> Any:
    """Return a signature whose names carry the file's own order."""
    made = schema.SignatureDefT()
    made.signatureKey = "serving_default"
    made.inputs = [_port(f"input_{place}", tensor) for place, tensor in enumerate(graph.inputs)]
    made.outputs = [_port(f"output_{place}", tensor) for place, tensor in enumerate(graph.outputs)]
    return made


def _port(name: str, tensor: int) -> Any:
    port = schema.TensorMapT()
    port.name, port.tensorIndex = name, int(tensor)
    return port
