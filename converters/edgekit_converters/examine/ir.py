"""Read an IR's graph; a copy of the model with a result for every operation gives their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import openvino as ov

from edgekit_converters.artifact.open import artifact_inputs
from edgekit_converters.examine.graph import Graph, Node, Range, RangeRecorder, Tensor
from edgekit_converters.formats.openvino_model import openvino_errors
from edgekit_converters.records import Artifact

KINDS = {
    **dict.fromkeys(("Convolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"), "conv"),
    **dict.fromkeys(("Reshape", "Transpose", "Squeeze", "Unsqueeze"), "shape"),
    **dict.fromkeys(("StridedSlice", "Slice", "Split", "VariadicSplit", "Gather"), "slice"),
    **dict.fromkeys(("Relu", "PRelu", "HSwish", "Swish", "Elu", "Gelu"), "relu"),
    **{"MatMul": "dense", "GroupConvolution": "depthwise", "Softmax": "softmax", "Concat": "concat"},
    **{"ReduceSum": "sum", "Pad": "pad", "FakeQuantize": "quantize"},
    **{"Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Divide": "divide"},
}
DYNAMIC = -1  # a size that the artifact does not fix
NOT_OPERATIONS = ("Parameter", "Constant", "Result")


def read(artifact: Artifact, samples: list[np.ndarray]) -> Graph:
    """Return the graph and the ranges of its float tensors over all samples.

    Raises:
        ToolchainError: OpenVINO cannot read or run it.
    """
    with openvino_errors("examine"):
        model = ov.Core().read_model(artifact.files[0])
        ports = [port for node in model.get_ordered_ops() for port in node.outputs()]
        places = {_key(port): place for place, port in enumerate(ports)}
        nodes = [node for node in model.get_ordered_ops() if node.get_type_name() not in NOT_OPERATIONS]
        return Graph(
            tensors=tuple(map(_tensor, ports)),
            nodes=tuple(_node(node, places) for node in nodes),
            outputs=tuple(
                places[_key(model.outputs[part.index].get_node().input_value(0))]
                for binding in artifact.outputs
                for part in binding.parts
            ),
            ranges=_ranges(model, artifact, samples, [port for node in nodes for port in node.outputs()], places),
        )


def _key(port: Any) -> tuple[str, int]:
    return port.get_node().get_friendly_name(), port.get_index()


def _tensor(port: Any) -> Tensor:
    node = port.get_node()
    partial = port.get_partial_shape()
    sizes = partial if partial.rank.is_static else ()
    return Tensor(tuple(size.get_length() if size.is_static else DYNAMIC for size in sizes), _constant(node))


def _constant(node: Any) -> np.ndarray | None:
    """Return a node's constant value: of a constant, or of a converted constant such as float16 weights; else None."""
    if node.get_type_name() == "Constant":
        return np.array(node.data)
    return _constant(node.input_value(0).get_node()) if node.get_type_name() == "Convert" else None


def _node(node: Any, places: dict[tuple[str, int], int]) -> Node:
    kind = KINDS.get(node.get_type_name(), "other")
    return Node(
        name=node.get_friendly_name(),
        kind=kind,
        inputs=tuple(places[_key(value.get_source_output())] for value in node.inputs()),
        outputs=tuple(places[_key(port)] for port in node.outputs()),
        axis=_axis(kind, node),
    )


def _axis(kind: str, node: Any) -> int | None:
    if kind == "depthwise":
        return 0
    if kind in ("concat", "softmax"):
        return int(node.get_attributes()["axis"]) % len(node.get_input_partial_shape(0))
    if kind == "sum":
        axes = node.input_value(1).get_node()
        known = axes.get_type_name() == "Constant" and axes.data.size == 1
        return int(axes.data.ravel()[0]) % len(node.get_input_partial_shape(0)) if known else None
    return None


def values(artifact: Artifact, samples: Iterable[list[np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the float results of every operation by its name, sample by sample.

    Raises:
        ToolchainError: OpenVINO cannot read or run it.
    """
    with openvino_errors("examine"):
        model = ov.Core().read_model(artifact.files[0])
        nodes = [node for node in model.get_ordered_ops() if node.get_type_name() not in NOT_OPERATIONS]
        ports = [port for node in nodes if _constant(node) is None for port in node.outputs()]
        for held in _run(model, artifact, samples, ports):
            yield {f"{name}.{index}" if index else name: value for (name, index), value in held.items()}


def _ranges(
    model: ov.Model, artifact: Artifact, samples: list[np.ndarray], ports: list[Any], places: dict[tuple[str, int], int]
) -> dict[int, Range]:
    recorder = RangeRecorder()
    rows = ([array[row : row + 1] for array in samples] for row in range(len(samples[0])))
    for held in _run(model, artifact, rows, ports):
        for key, value in held.items():
            recorder.add(places[key], value)
    return recorder.ranges()


def _run(
    model: ov.Model, artifact: Artifact, samples: Iterable[list[np.ndarray]], ports: list[Any]
) -> Iterator[dict[tuple[str, int], np.ndarray]]:
    watched = {_key(port) for port in ports if port.get_element_type() == ov.Type.f32}
    copy = model.clone()
    nodes_of_copy = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
    copy.add_outputs([nodes_of_copy[name].output(index) for name, index in sorted(watched)])
    compiled = ov.Core().compile_model(copy, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = [_key(result.input_value(0)) for result in copy.get_results()]
    for sample in samples:
        computed = compiled(artifact_inputs(artifact, sample))
        yield {key: np.asarray(computed[index]) for index, key in enumerate(results) if key in watched}
