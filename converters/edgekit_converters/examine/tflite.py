"""Read the main graph of a ``.tflite``; LiteRT's reference kernels run it and keep every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.artifact.open import artifact_inputs
from edgekit_converters.examine.graph import Graph, Node, Range, RangeRecorder, Tensor
from edgekit_converters.formats.tflite_graph import node_name
from edgekit_converters.records import Artifact
from edgekit_runtime.errors import ToolchainError

KINDS = {
    **dict.fromkeys(("CONV_2D", "CONV_3D", "TRANSPOSE_CONV"), "conv"),
    **dict.fromkeys(("FULLY_CONNECTED", "BATCH_MATMUL"), "dense"),
    **dict.fromkeys(("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS"), "shape"),
    **dict.fromkeys(("STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V", "GATHER", "UNPACK"), "slice"),
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "FAKE_QUANT"), "quantize"),
    **dict.fromkeys(("PAD", "PADV2"), "pad"),
    **dict.fromkeys(("RELU", "HARD_SWISH", "LEAKY_RELU", "PRELU", "ELU", "GELU"), "relu"),
    **{"DEPTHWISE_CONV_2D": "depthwise", "SOFTMAX": "softmax", "CONCATENATION": "concat", "SUM": "sum"},
    **{"MEAN": "mean", "SQUARE": "square", "SQUARED_DIFFERENCE": "square", "SQRT": "root", "RSQRT": "root"},
    **dict.fromkeys(("SELECT", "SELECT_V2"), "select"),
    **{"ABS": "abs", "MAXIMUM": "clip", "MINIMUM": "clip"},
    **{"ADD": "add", "SUB": "subtract", "MUL": "multiply", "DIV": "divide"},
}
CONTROL = ("WHILE", "IF", "CALL_ONCE")
DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
}


def read(artifact: Artifact, samples: list[np.ndarray]) -> Graph:
    """Return the graph and the ranges of its float tensors over all samples.

    Raises:
        ToolchainError: LiteRT cannot run it with every tensor kept.
    """
    model = flatbuffer_utils.read_model(str(artifact.files[0]))
    graph = model.subgraphs[0]
    tensors = tuple(_tensor(model, tensor) for tensor in graph.tensors)
    return Graph(
        tensors=tensors,
        nodes=tuple(_node(model, graph, operator, tensors) for operator in graph.operators if len(operator.outputs)),
        outputs=tuple(int(graph.outputs[part.index]) for binding in artifact.outputs for part in binding.parts),
        ranges=_ranges(artifact, samples, _float_activations(model, graph)),
    )


def _tensor(model: Any, tensor: Any) -> Tensor:
    data = model.buffers[tensor.buffer].data
    shape = tuple(int(size) for size in (tensor.shape if tensor.shape is not None else ()))
    known = data is not None and tensor.type in DTYPES
    return Tensor(shape, np.asarray(data).view(DTYPES[tensor.type]).reshape(shape) if known else None)


def _node(model: Any, graph: Any, operator: Any, tensors: tuple[Tensor, ...]) -> Node:
    name = flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex)
    kind = KINDS.get(name, "other")
    inputs = tuple(int(place) for place in operator.inputs if place >= 0)
    outputs = tuple(int(place) for place in operator.outputs if place >= 0)
    options = operator.builtinOptions
    return Node(
        name=node_name(graph, operator),
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        axis=_axis(kind, options, inputs, tensors),
        unfused=getattr(options, "fusedActivationFunction", 0) == schema.ActivationFunctionType.NONE,
    )


def _axis(kind: str, options: Any, inputs: tuple[int, ...], tensors: tuple[Tensor, ...]) -> int | None:
    rank = len(tensors[inputs[0]].shape) if inputs else 0
    if kind == "concat":
        return int(options.axis) % rank
    if kind == "softmax":
        return rank - 1
    if kind == "depthwise":
        return 3
    if kind == "sum":
        axes = tensors[inputs[1]].constant
        return int(axes.ravel()[0]) % rank if axes is not None and axes.size == 1 else None
    return None


def _float_activations(model: Any, graph: Any) -> list[int]:
    """Return the float inputs and results of the graph; an unused result of a loop has no memory and is left out."""
    names = [flatbuffer_utils.opcode_to_name(model, one.opcodeIndex) for one in graph.operators]
    operators = [one for one, name in zip(graph.operators, names, strict=True) if name not in CONTROL]
    found = [*graph.inputs, *(place for operator in operators for place in operator.outputs if place >= 0)]
    return [int(place) for place in found if graph.tensors[place].type == schema.TensorType.FLOAT32]


def values(artifact: Artifact, samples: Iterable[list[np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the values of every float tensor by its name, sample by sample.

    Raises:
        ToolchainError: LiteRT cannot run it with every tensor kept.
    """
    model = flatbuffer_utils.read_model(str(artifact.files[0]))
    graph = model.subgraphs[0]
    for held in _run(artifact, samples, _float_activations(model, graph)):
        yield {graph.tensors[place].name.decode(): value for place, value in held.items()}


def _ranges(artifact: Artifact, samples: list[np.ndarray], watched: list[int]) -> dict[int, Range]:
    recorder = RangeRecorder()
    rows = ([array[row : row + 1] for array in samples] for row in range(len(samples[0])))
    for held in _run(artifact, rows, watched):
        for place, value in held.items():
            recorder.add(place, value)
    return recorder.ranges()


def _run(
    artifact: Artifact, samples: Iterable[list[np.ndarray]], watched: list[int]
) -> Iterator[dict[int, np.ndarray]]:
    try:
        interpreter = Interpreter(
            str(artifact.files[0]),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        indices = [detail["index"] for detail in interpreter.get_input_details()]
        for sample in samples:
            for place, array in zip(indices, artifact_inputs(artifact, sample), strict=True):
                interpreter.set_tensor(place, array)
            interpreter.invoke()
            yield {place: interpreter.get_tensor(place) for place in watched}
    except (RuntimeError, ValueError) as error:
        raise ToolchainError(str(error), stage="examine", subject="litert") from error
