"""Quantize: convert a float artifact to a scheme with fewer bits."""

from __future__ import annotations

import pkgutil
from pathlib import Path

from edgekit_converters.artifact.open import bind_built, group_outputs_like
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.formats.recipe_check import check_corrections
from edgekit_converters.records import Artifact, QuantizeRequest


def quantize(request: QuantizeRequest, folder: Path) -> Artifact:
    """The stage: write the quantized artifact, with its tensors bound like the float artifact's.

    Raises:
        PlanError: the recipe asks for a correction that the engine's quantizer lacks.
        CalibrationError: the calibration data leave a tensor without a range.
        ToolchainError: the quantizer failed.
    """
    check_corrections(request.artifact.engine, request.recipe)
    files = pkgutil.resolve_name(format_of(request.artifact.engine).quantizer)(request, folder)
    return group_outputs_like(request.artifact, bind_built("quantize", request.artifact.engine, request.scheme, files))


QUANTIZE = Stage(quantize, toolchain=lambda request: request.artifact.toolchain)
