"""Keras → OpenVINO IR, by way of a SavedModel with fixed shapes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tensorflow as tf

from edgekit_converters.load import Live
from edgekit_converters.lower.ir import convert, save
from edgekit_converters.lower.keras_to_tflite import traced


def lower(live: Live, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``.

    Raises:
        UnsupportedOperator: OpenVINO lacks an operator of the model.
        ToolchainError: OpenVINO failed otherwise.
    """
    module, serve = traced(live)
    with tempfile.TemporaryDirectory(dir=folder) as saved:
        tf.saved_model.save(module, saved, signatures=serve)
        return save(convert(saved), live, folder)
