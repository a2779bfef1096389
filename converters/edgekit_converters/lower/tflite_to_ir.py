"""Float ``.tflite`` → OpenVINO IR."""

from __future__ import annotations

from pathlib import Path

from edgekit_converters.formats.openvino_model import convert, save
from edgekit_converters.frameworks.loaded_model import LoadedModel


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``.

    Raises:
        UnsupportedOperator: OpenVINO lacks an operator of the model.
        ToolchainError: OpenVINO failed otherwise.
    """
    return save(convert(live.handle), live, folder)
