"""ONNX and IR → IR with fixed shapes and float32 weights."""

from __future__ import annotations

from pathlib import Path

from edgekit_converters.formats.openvino_model import save
from edgekit_converters.frameworks.loaded_model import LoadedModel


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``."""
    return save(live.handle, live, folder)
