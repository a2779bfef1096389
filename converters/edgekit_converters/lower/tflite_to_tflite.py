"""A ``.tflite`` is copied; a float one without a signature gets one, because the quantizer requires it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.formats.tflite_metadata import signature
from edgekit_converters.frameworks.loaded_model import LoadedModel


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite``; a quantized file is copied unchanged."""
    path = folder / "model.tflite"
    if live.scheme != "float32" or signature(live.handle).key is not None:
        return (Path(shutil.copyfile(live.handle, path)),)
    model = flatbuffer_utils.read_model(str(live.handle))
    model.signatureDefs = [_signature(model.subgraphs[0])]
    flatbuffer_utils.write_model(model, str(path))
    return (path,)


def _signature(graph: Any) -> Any:
    """Return a signature whose names have the positions in the file."""
    signature_def = schema.SignatureDefT()
    signature_def.signatureKey = "serving_default"
    signature_def.inputs = [_port(f"input_{place}", tensor) for place, tensor in enumerate(graph.inputs)]
    signature_def.outputs = [_port(f"output_{place}", tensor) for place, tensor in enumerate(graph.outputs)]
    return signature_def


def _port(name: str, tensor: int) -> Any:
    port = schema.TensorMapT()
    port.name, port.tensorIndex = name, int(tensor)
    return port
