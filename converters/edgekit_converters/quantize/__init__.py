"""Quantize: store and compute a float artifact in fewer bits."""

from __future__ import annotations

import pkgutil
from pathlib import Path

from edgekit_converters.artifact.open import bind_made, joined_like
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.formats.recipe_check import check_corrections
from edgekit_converters.records import Artifact, QuantizeRequest


def quantize(request: QuantizeRequest, folder: Path) -> Artifact:
    """The stage: write the quantized artifact, its tensors bound as the float one's were.

    Raises:
        PlanError: the recipe asks for a correction that the engine's quantizer lacks.
        CalibrationError: the calibration data do not drive the model.
        ToolchainError: the quantizer failed.
    """
    check_corrections(request.artifact.engine, request.recipe)
    files = pkgutil.resolve_name(format_of(request.artifact.engine).quantizer)(request, folder)
    return joined_like(request.artifact, bind_made("quantize", request.artifact.engine, request.scheme, files))


QUANTIZE = Stage(quantize, toolchain=lambda request: request.artifact.toolchain)
