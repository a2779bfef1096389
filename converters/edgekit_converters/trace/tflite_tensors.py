"""Trace a ``.tflite`` by its operators: LiteRT runs it with its reference kernels and keeps every tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.artifact.open import artifact_inputs, bind
from edgekit_converters.formats.tflite_graph import node_name
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.records import Artifact
from edgekit_converters.trace.steps import Steps, Weights, positions

KERNELS = ("CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
NUMBERS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.INT8, schema.TensorType.INT4)


def steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Trace a source."""
    return artifact_steps(bind("litert", live.scheme, (live.handle,)), inputs)


def artifact_steps(artifact: Artifact, inputs: Arrays) -> Steps:
    """Return the result of each operator of the main graph, named by its output tensors."""
    model = flatbuffer_utils.read_model(str(artifact.files[0]))
    graph = model.subgraphs[0]
    interpreter = _run(artifact, inputs)
    found = Steps()
    step_of: dict[int, int] = {}  # tensor → index of the step that computed it
    for operator in graph.operators:
        outputs = [index for index in operator.outputs if index >= 0]
        constants = [index for index in operator.inputs if index >= 0 and _is_constant(model, graph.tensors[index])]
        activations = [index for index in operator.inputs if index >= 0 and index not in constants]
        if not outputs:
            continue
        kind = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
        result = interpreter.get_tensor(outputs[0])
        place = found.add(
            (node_name(graph, operator), kind),
            _weights([graph.tensors[index] for index in constants], kind, result),
            [step_of[index] for index in activations if index in step_of],
            result,
            [interpreter.get_tensor(index) for index in activations],
        )
        step_of |= dict.fromkeys(outputs, place)
    return found


def _run(artifact: Artifact, inputs: Arrays) -> Interpreter:
    interpreter = Interpreter(str(artifact.files[0]), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), artifact_inputs(artifact, inputs), strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return interpreter


def _is_constant(model: Any, tensor: Any) -> bool:
    return model.buffers[tensor.buffer].data is not None


def _weights(constants: list[Any], kind: str, result: np.ndarray) -> Weights:
    shapes = [tuple(tensor.shape) for tensor in constants if tensor.type in NUMBERS]
    kernels = sum(math.prod(shape) for shape in shapes if len(shape) > 1) if kind in KERNELS else 0
    return Weights(sum(map(math.prod, shapes)), kernels * positions(result.shape))
