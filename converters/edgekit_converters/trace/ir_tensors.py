"""Trace OpenVINO IR by its operations: a copy of the model gets a result for every one of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import openvino as ov

from edgekit_converters.artifact.open import artifact_inputs
from edgekit_converters.formats.ir_graph import NOT_COMPUTED, constants
from edgekit_converters.formats.openvino_model import openvino_errors
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.records import Artifact
from edgekit_converters.trace.steps import Steps, Weights

CHANNELS_FIRST = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
KERNELS = (*CHANNELS_FIRST, "MatMul")


def steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Trace a source."""
    return _steps(live.handle, inputs)


def artifact_steps(artifact: Artifact, inputs: Arrays) -> Steps:
    """Return the result of each operation, named by its friendly name."""
    with openvino_errors("match"):
        model = ov.Core().read_model(artifact.files[0])
    return _steps(model, artifact_inputs(artifact, inputs))


def _steps(model: ov.Model, inputs: Arrays) -> Steps:
    with openvino_errors("match"):
        fixed = constants(model)
        nodes = [node for node in model.get_ordered_ops() if node.get_friendly_name() not in fixed]
        values = _values(model, nodes, inputs)
    found = Steps()
    places: dict[str, int] = {}
    for node in nodes:
        name, kind = node.get_friendly_name(), node.get_type_name()
        if kind in NOT_COMPUTED:
            continue
        producers = [value.get_source_output().get_node() for value in node.inputs()]
        sources = [one.get_friendly_name() for one in producers]
        places[name] = found.add(
            (name, kind),
            _weights([one for one in producers if one.get_friendly_name() in fixed], kind, values[name]),
            [places[one] for one in sources if one in places],
            values[name],
            [values[one] for one in sources if one in values],
        )
    return found


def _values(model: ov.Model, nodes: list[Any], inputs: Arrays) -> dict[str, np.ndarray]:
    """Run the model in float32 and return the first output of each node, by the node's name."""
    computed = [node for node in nodes if node.get_type_name() not in ("Result", "Assign", "Parameter")]
    inputs_by_name = dict(zip([port.get_node().get_friendly_name() for port in model.inputs], inputs, strict=True))
    copy = model.clone()
    nodes_of_copy = {node.get_friendly_name(): node for node in copy.get_ops()}
    copy.add_outputs([nodes_of_copy[node.get_friendly_name()].output(0) for node in computed])
    names = [result.input_value(0).get_node().get_friendly_name() for result in copy.get_results()]
    compiled = ov.Core().compile_model(copy, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(inputs)
    return inputs_by_name | {name: np.array(results[index]) for index, name in reversed(list(enumerate(names)))}


def _weights(constants: list[Any], kind: str, result: np.ndarray) -> Weights:
    tensors = [one.output(0) for one in constants if one.get_output_element_type(0).is_real() or kind in KERNELS]
    shapes = [tuple(tensor.get_shape()) for tensor in tensors]
    kernels = sum(math.prod(shape) for shape in shapes if len(shape) > 1) if kind in KERNELS else 0
    places = result.shape[2:] if kind in CHANNELS_FIRST else result.shape[1:-1]
    return Weights(sum(map(math.prod, shapes)), kernels * math.prod(places))
