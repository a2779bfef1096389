"""``.tflite`` as a source: float, to be quantized, or quantized already, to be bundled as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekit_converters.artifact import OpenArtifact, bind, open_interpreter, signature
from edgekit_converters.load import Live, one_by_one
from edgekit_converters.records import SourceRequest
from edgekit_runtime.engines import TensorInfo
from edgekit_runtime.errors import EngineError, SourceError
from edgekit_runtime.manifest import InputSpec, OutputSpec


def load_file(request: SourceRequest) -> Live:
    """Open the file with LiteRT.

    Raises:
        SourceError: LiteRT cannot read it.
    """
    try:
        artifact = bind("litert", "float32", (request.path,))
        opened = OpenArtifact(artifact, {})
    except (EngineError, ValueError) as error:
        raise SourceError(f"{request.path}: LiteRT cannot read it ({error})") from error
    _, input_names, output_names = signature(request.path)
    inputs = [opened.engine.inputs[binding.index] for binding in artifact.inputs]
    outputs = [opened.engine.outputs[binding.index] for binding in artifact.outputs]
    return Live(
        framework="tflite",
        inputs=tuple(
            InputSpec(name, info.shape, _real_dtype(info), "NHWC" if len(info.shape) == 4 else None)
            for name, info in zip(input_names, inputs, strict=True)
        ),
        outputs=tuple(
            OutputSpec(name, info.shape, _real_dtype(info)) for name, info in zip(output_names, outputs, strict=True)
        ),
        run=lambda batch: one_by_one(opened.run, batch),
        handle=request.path,
        quantized=is_quantized(request.path),
    )


def _real_dtype(info: TensorInfo) -> str:
    """Return the dtype the application sees: quantized tensors carry real numbers."""
    return "float32" if info.scale is not None else info.dtype


def is_quantized(path: Path) -> bool:
    """Tell whether any tensor of the file holds scaled integers."""
    return any(
        np.issubdtype(detail["dtype"], np.integer) and detail["quantization_parameters"]["scales"].size
        for detail in open_interpreter(path).get_tensor_details()
    )
