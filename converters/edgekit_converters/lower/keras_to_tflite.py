"""Keras → TFLite with TensorFlow's converter: builtin operators only, batch fixed to 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError

from edgekit_converters.foreign import told
from edgekit_converters.load import Live
from edgekit_runtime.errors import ToolchainError, UnsupportedOperator


def lower(live: Live, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite``.

    Raises:
        UnsupportedOperator: TFLite has no builtin operator for something in the model.
        ToolchainError: the converter failed otherwise.
    """
    module, serve = traced(live)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    with converter_errors():
        content = converter.convert()
    path = folder / "model.tflite"
    path.write_bytes(content)
    return (path,)


def traced(live: Live) -> tuple[tf.Module, Any]:
    """Return the computation with its shapes fixed, and the module that holds its variables.

    Arguments and results are called ``input_<i>`` and ``output_<i>``: formats sort names, so the names carry the order.
    """
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{index}") for index, spec in enumerate(live.inputs)]

    @tf.function(input_signature=signature)
    def serve(*tensors: Any) -> dict[str, Any]:
        return {f"output_{index}": tensor for index, tensor in enumerate(live.handle.serve(*tensors))}

    module = tf.Module()
    module.held = live.handle.variables
    module.serve = serve
    return module, serve.get_concrete_function()


@contextlib.contextmanager
def converter_errors() -> Iterator[None]:
    """Map the converter's errors: a missing operator is named with its layer, not dumped as MLIR."""
    try:
        yield
    except ConverterError as error:
        missing = {data.operator.name.removeprefix("tf."): _layer(data) for data in error.errors if data.operator.name}
        if missing:
            where = "; ".join(f"{operator} in layer {layer!r}" for operator, layer in missing.items())
            raise UnsupportedOperator(
                f"TFLite has no builtin operator for {where}",
                stage="lower",
                subject="litert",
                advice="replace the operation in the model, or convert for OpenVINO alone: --device intel-cpu",
            ) from error
        raise ToolchainError(told(error), stage="lower", subject="litert") from error


def _layer(data: Any) -> str:
    """Return the Keras layer of an error's location, such as ``head/dense`` of ``model/head/dense/MatMul@...``."""
    for call in data.location.call:
        if "/" in call.name:
            return "/".join(call.name.split("@")[0].split("/")[1:-1]) or call.name
    return "unknown"
