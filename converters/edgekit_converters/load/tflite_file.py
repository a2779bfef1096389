"""``.tflite`` as a source: float, to be quantized, or quantized already, to be bundled as it is."""

from __future__ import annotations

import re

from edgekit_converters.artifact.open import OpenArtifact, bind
from edgekit_converters.formats.tflite_metadata import signature
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load import fixed_shape, given_shapes, one_by_one
from edgekit_converters.load.tflite_scheme import scheme_of
from edgekit_converters.records import SourceRequest
from edgekit_runtime.engines import TensorInfo
from edgekit_runtime.errors import EngineError, SourceError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

CUSTOM_OPERATOR = re.compile(r"custom op: ([\w-]+)")


def load_file(request: SourceRequest) -> LoadedModel:
    """Open the file with LiteRT.

    Raises:
        SourceError: LiteRT cannot read it, or the user said other shapes than it has.
    """
    try:
        artifact = bind("litert", "float32", (request.path,))
        opened = OpenArtifact(artifact)
    except (EngineError, ValueError) as error:
        custom = CUSTOM_OPERATOR.search(str(error))
        if custom:
            raise SourceError(
                f"{request.path}: has the custom operator {custom.group(1)!r}, which only its vendor's delegate runs; "
                f"here it could not be verified: convert the model as it was before the vendor's compiler"
            ) from error
        raise SourceError(f"{request.path}: LiteRT cannot read it ({error})") from error
    ports = signature(request.path)
    inputs = [opened.engine.inputs[binding.index] for binding in artifact.inputs]
    outputs = [opened.engine.outputs[part.index] for bound in artifact.outputs for part in bound.parts]
    input_shapes = given_shapes(request, [port.name for port in ports.inputs])
    for port, info, input_shape in zip(ports.inputs, inputs, input_shapes, strict=True):
        if input_shape:
            fixed_shape(port.name, info.shape, input_shape)
    return LoadedModel(
        framework="tflite",
        inputs=tuple(
            InputSpec(port.name, info.shape, _real_dtype(info), "NHWC" if len(info.shape) == 4 else None)
            for port, info in zip(ports.inputs, inputs, strict=True)
        ),
        outputs=tuple(
            OutputSpec(port.name, info.shape, _real_dtype(info))
            for port, info in zip(ports.outputs, outputs, strict=True)
        ),
        run=lambda batch: one_by_one(opened.run, batch),
        handle=request.path,
        scheme=scheme_of(request.path),
    )


def _real_dtype(info: TensorInfo) -> str:
    """Return the dtype the application sees: quantized tensors carry real numbers."""
    return "float32" if info.scale is not None else info.dtype
