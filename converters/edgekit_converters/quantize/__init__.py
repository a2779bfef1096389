"""Quantize: store and compute a float artifact in fewer bits. One file an engine; ``QUANTIZERS`` says which."""

from __future__ import annotations

import pkgutil
from pathlib import Path

from edgekit_converters.artifact.open import bind_made, joined_like
from edgekit_converters.quantize.corrections import refuse_corrections
from edgekit_converters.records import Artifact, QuantizeRequest

# engine: "module:function", (QuantizeRequest, folder) -> files
QUANTIZERS = {
    "litert": "edgekit_converters.quantize.tflite:quantize",
    "openvino": "edgekit_converters.quantize.ir:quantize",
}


def quantize(request: QuantizeRequest, folder: Path) -> Artifact:
    """The stage: write the quantized artifact, its tensors bound as the float one's were.

    Raises:
        PlanError: the recipe asks for a correction that the engine's quantizer lacks.
        CalibrationError: the calibration data do not drive the model.
        ToolchainError: the quantizer failed.
    """
    refuse_corrections(request.recipe, request.artifact.engine)
    files = pkgutil.resolve_name(QUANTIZERS[request.artifact.engine])(request, folder)
    return joined_like(request.artifact, bind_made("quantize", request.artifact.engine, request.scheme, files))
