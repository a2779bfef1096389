"""Lower: turn an open model into a float artifact of one engine's format.

A lowering writes the artifact into a folder, its inputs and outputs in the source's order, and returns its files.
Each :class:`~edgekit_converters.formats.Format` names its lowerings, by the source's framework.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path

from edgekit_converters.artifact.open import bind, bind_made, scaled_like
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
        ToolchainError: the toolchain refused for another reason.
    """
    source = request.source
    lowering = pkgutil.resolve_name(format_of(request.engine).lowerings[source.framework])
    files = lowering(open_source(source.request), folder)
    artifact = bind_made("lower", request.engine, source.scheme, files)
    if source.framework == "tflite":
        artifact = scaled_like(bind("litert", source.scheme, (source.request.path,)), artifact)
    shapes = len(artifact.inputs), len(artifact.outputs)
    if shapes != (len(source.inputs), len(source.outputs)):
        raise ConversionError(
            f"the artifact has {shapes[0]} inputs and {shapes[1]} outputs, "
            f"the model {len(source.inputs)} and {len(source.outputs)}",
            stage="lower",
            subject=request.engine,
            advice="an input the model does not use is dropped by the toolchain: remove it from the model",
        )
    return artifact


LOWER = Stage(lower, toolchain=lambda request: request.source.toolchain)
