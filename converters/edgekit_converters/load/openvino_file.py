"""``.onnx`` and ``.xml`` as sources, read by OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov

from edgekit_converters.formats.openvino_model import ALL_FAILURES, openvino_errors
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load import fixed_shape, given_shapes, one_by_one
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import SourceError, ToolchainError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

CHANNELS = (1, 3, 4)


def load_file(request: SourceRequest) -> LoadedModel:
    """Read the file, fix its shapes and compile it in float32 as the reference.

    Raises:
        SourceError: OpenVINO cannot read it, or it leaves a shape open that the user has not said.
    """
    try:
        with openvino_errors(failures=ALL_FAILURES):  # ONNX is read by a frontend
            model = ov.Core().read_model(request.path)
    except ToolchainError as error:
        raise SourceError(f"{request.path}: OpenVINO cannot read it ({error.args[0]})") from error
    names = [_name(port, f"input_{index}") for index, port in enumerate(model.inputs)]
    shapes = [
        fixed_shape(name, _open_shape(port), input_shape)
        for name, port, input_shape in zip(names, model.inputs, given_shapes(request, names), strict=True)
    ]
    model.reshape(dict(zip(model.inputs, map(list, shapes), strict=True)))
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        results = compiled(batch)
        return [np.array(results[port]) for port in compiled.outputs]

    return LoadedModel(
        framework="openvino",
        inputs=tuple(
            InputSpec(name, shape, _dtype(port), _layout(shape))
            for name, shape, port in zip(names, shapes, model.inputs, strict=True)
        ),
        outputs=tuple(
            OutputSpec(_name(port, f"output_{index}"), tuple(port.get_shape()), _dtype(port))
            for index, port in enumerate(model.outputs)
        ),
        run=lambda batch: one_by_one(run, batch),
        handle=model,
        scheme=_scheme(model),
    )


def _scheme(model: ov.Model) -> str:
    """Return the scheme a model is in: quantized activations, integer weights alone, half weights, or none."""
    operators = model.get_ops()
    if any(node.get_type_name() == "FakeQuantize" for node in operators):
        return "int8-static"
    constants = [node for node in operators if node.get_type_name() == "Constant"]
    types = {node.get_element_type().to_string() for node in constants if len(node.get_output_shape(0)) > 1}
    if types & {"i8", "u8"}:
        return "int8-weights"
    return "float16" if "f16" in types else "float32"


def _open_shape(port: Any) -> tuple[int | None, ...]:
    return tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())


def _name(port: Any, otherwise: str) -> str:
    return str(min(port.get_names(), key=len, default=otherwise))


def _dtype(port: Any) -> str:
    return str(np.dtype(port.get_element_type().to_dtype()).name)


def _layout(shape: tuple[int, ...]) -> str | None:
    if len(shape) != 4:
        return None
    return "NHWC" if shape[-1] in CHANNELS and shape[1] not in CHANNELS else "NCHW"
