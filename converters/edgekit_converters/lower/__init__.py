"""Lower: convert a loaded model into a float artifact of one format.

A lowering writes the artifact into a folder, with its inputs and outputs in the source's order, and returns its files.
Each :class:`~edgekit_converters.formats.Format` names its lowerings, by the source's framework.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path

from edgekit_converters.artifact.open import bind, bind_built, with_scales_of
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.load import open_source
from edgekit_converters.records import Artifact, LowerRequest
from edgekit_runtime.errors import ConversionError


def lower(request: LowerRequest, folder: Path) -> Artifact:
    """The stage: write the float artifact and bind its tensors to the source's.

    Raises:
        ConversionError: the artifact does not have the source's inputs and outputs.
        UnsupportedOperator: the format lacks an operator; the message names it and its layer.
        ToolchainError: the toolchain failed for another reason.
    """
    source = request.source
    lowering = pkgutil.resolve_name(format_of(request.engine).lowerings[source.framework])
    files = lowering(open_source(source.request), folder)
    artifact = bind_built("lower", request.engine, source.scheme, files)
    if source.framework == "tflite":
        artifact = with_scales_of(bind("litert", source.scheme, (source.request.path,)), artifact)
    shapes = len(artifact.inputs), len(artifact.outputs)
    if shapes != (len(source.inputs), len(source.outputs)):
        raise ConversionError(
            f"the artifact has {shapes[0]} inputs and {shapes[1]} outputs, "
            f"the model {len(source.inputs)} and {len(source.outputs)}",
            stage="lower",
            subject=request.engine,
            advice="the toolchain drops unused inputs: remove them from the model",
        )
    return artifact


LOWER = Stage(lower, toolchain=lambda request: request.source.toolchain)
