"""Keras → TFLite with TensorFlow's converter: builtin operators only, batch fixed to 1."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError

from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.keras_function import concrete_function
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.lower.tflite_rewrites import simplify
from edgekit_runtime.errors import ToolchainError, UnsupportedOperator


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite``.

    Raises:
        UnsupportedOperator: TFLite has no builtin operator for something in the model.
        ToolchainError: the converter failed otherwise.
    """
    module, serve = concrete_function(live)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    with converter_errors(live.handle.layers):
        content = converter.convert()
    path = folder / "model.tflite"
    path.write_bytes(content)
    simplify(path)
    return (path,)


@contextlib.contextmanager
def converter_errors(layers: tuple[str, ...]) -> Iterator[None]:
    """Map the converter's errors: name a missing operator and its layer, without the MLIR dump."""
    try:
        yield
    except ConverterError as error:
        missing = {
            data.operator.name.removeprefix("tf."): layer_suffix(_traced_name(data), layers)
            for data in error.errors
            if data.operator.name
        }
        if missing:
            where = "; ".join(operator + found for operator, found in missing.items())
            raise UnsupportedOperator(
                f"TFLite has no builtin operator for {where}",
                stage="lower",
                subject="litert",
                advice="replace the operation in the model, or convert for OpenVINO only: --device intel-cpu",
            ) from error
        raise ToolchainError(short_message(error), stage="lower", subject="litert") from error


def layer_suffix(traced: str, layers: tuple[str, ...]) -> str:
    """Return the layer of a traced operation, such as `` in layer 'head/dense'`` for ``model/head/dense_1/MatMul``.

    A name traced twice gets a number, which is removed if that gives the name of a layer.
    """
    names = traced.split("/")[1:-1]
    plain = [re.sub(r"_\d+$", "", name) for name in names]
    found = [
        short if short in layers and name not in layers else name for name, short in zip(names, plain, strict=True)
    ]
    return f" in layer {'/'.join(found)!r}" if found else ""


def _traced_name(data: Any) -> str:
    """Return the name of an error's operation in the graph, without the function around it."""
    return next((str(call.name).split("@")[0] for call in data.location.call if "/" in call.name), "")
