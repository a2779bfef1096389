"""Keras → OpenVINO IR, by way of a SavedModel with fixed shapes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from edgekit_converters.formats.openvino_model import convert, save
from edgekit_converters.frameworks.keras_function import concrete_function
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.lower.keras_to_tflite import layer_suffix


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``.

    Raises:
        UnsupportedOperator: OpenVINO lacks an operator of the model.
        ToolchainError: OpenVINO failed otherwise.
    """
    module, serve = concrete_function(live)
    with tempfile.TemporaryDirectory(dir=folder) as saved:
        tf.saved_model.save(module, saved, signatures=serve)
        return save(convert(saved, lambda operator: _layer_suffix(serve, operator, live)), live, folder)


def _layer_suffix(serve: Any, operator: str, live: LoadedModel) -> str:
    graph = serve.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    traced = next((node.name for node in nodes if node.op == operator), "")
    return layer_suffix(traced, live.handle.layers)
