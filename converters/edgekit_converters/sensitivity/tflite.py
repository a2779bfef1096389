"""Split a float ``.tflite`` and its quantized one into units; LiteRT's reference kernels run them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.artifact.open import artifact_inputs
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.formats.tflite_graph import node_name
from edgekit_converters.records import Artifact
from edgekit_converters.sensitivity import Arrays, SensitivityRequest, UnitOutputs
from edgekit_runtime.errors import ToolchainError
from edgekit_runtime.tensors import dequantize, quantize

INSERTED = ("QUANTIZE", "DEQUANTIZE")  # by the quantizer; a float model has none


class TflitePair:
    """See :class:`edgekit_converters.sensitivity.ArtifactPair`. Tensors are indices of the main graph."""

    def __init__(self, request: SensitivityRequest, units: Sequence[frozenset[str]]) -> None:
        self._request = request
        with _litert_errors():
            float_graph, quantized = (_TfliteGraph(one) for one in (request.artifact, request.quantized))
            counterparts = _match_tensors(float_graph, quantized)
            self._unit_results = [_unit_results(float_graph, unit) for unit in units]
            in_units = set().union(*self._unit_results)
            self._counterpart = {tensor: other for tensor, other in counterparts.items() if tensor in in_units}
            split, self._unit_inputs = _split_units(request.quantized, float_graph, counterparts, units)
            with_noise, self._noises = _with_noise(request.artifact, units)
            self._float_model, self._quantized = _RunningModel(with_noise), _RunningModel(quantized.model)
            self._split = _RunningModel(split)
        self._outputs = [int(tensor) for tensor in with_noise.subgraphs[0].outputs]
        self._quantized_outputs = [int(tensor) for tensor in quantized.graph.outputs]

    def run(self, sample: Arrays) -> list[UnitOutputs]:
        """Run a sample through both artifacts."""
        with _litert_errors():
            self._float_model.run(artifact_inputs(self._request.artifact, list(sample)))
            self._quantized.run(artifact_inputs(self._request.quantized, list(sample)))
            for tensor, source in self._unit_inputs.items():
                self._split.set_input(tensor, self._float_model.value(source))
            self._split.run([])
            return [
                UnitOutputs(
                    [self._float_model.value(one) for one in unit_results],
                    [self._quantized.value(self._counterpart[one]) for one in unit_results],
                    [self._split.value(self._counterpart[one]) for one in unit_results],
                )
                for unit_results in self._unit_results
            ]

    def outputs(self) -> tuple[Arrays, Arrays]:
        """Return the outputs of the float and of the quantized model in the last run."""
        result = [self._float_model.value(tensor) for tensor in self._outputs]
        return result, [self._quantized.value(tensor) for tensor in self._quantized_outputs]

    def outputs_with_errors(self, sample: Arrays, unit: int, errors: Arrays) -> Arrays:
        """Return the outputs of the float model when errors are added to a unit's results."""
        noises = [self._noises[one] for one in self._unit_results[unit]]
        with _litert_errors():
            for tensor, error in zip(noises, errors, strict=True):
                self._float_model.set_input(tensor, error)
            self._float_model.run(artifact_inputs(self._request.artifact, list(sample)))
            result = [self._float_model.value(tensor) for tensor in self._outputs]
            for tensor, error in zip(noises, errors, strict=True):
                self._float_model.set_input(tensor, np.zeros_like(error))
        return result


@contextlib.contextmanager
def _litert_errors() -> Iterator[None]:
    """Map the exceptions of LiteRT and its file tools."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ToolchainError(short_message(error), stage="sensitivity", subject="litert") from error


class _TfliteGraph:
    """The main graph of a file, with the producer of each tensor."""

    def __init__(self, artifact: Artifact) -> None:
        self.model = flatbuffer_utils.read_model(str(artifact.files[0]))
        self.graph = self.model.subgraphs[0]
        self.producers = {int(out): one for one in self.graph.operators for out in one.outputs}

    def kind(self, operator: Any) -> str:
        return str(flatbuffer_utils.opcode_to_name(self.model, operator.opcodeIndex))

    def name(self, operator: Any) -> str:
        return node_name(self.graph, operator)

    def inserted(self, tensor: int) -> bool:
        return tensor in self.producers and self.kind(self.producers[tensor]) in INSERTED

    def origin(self, tensor: int) -> int:
        """Return the tensor that ``tensor`` is a quantization or dequantization of, or itself."""
        while self.inserted(tensor):
            tensor = int(self.producers[tensor].inputs[0])
        return tensor

    def constant(self, tensor: int) -> bool:
        return self.model.buffers[self.graph.tensors[tensor].buffer].data is not None

    def add_tensor(self, like: int, name: str) -> int:
        """Add a tensor with the type, shape and scale of another one, and return its index."""
        tensor = copy.copy(self.graph.tensors[like])
        tensor.name, tensor.buffer, tensor.isVariable = name.encode(), 0, False
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    @property
    def operators(self) -> list[Any]:
        """The operators that the quantizer did not insert, in the order of execution."""
        return [one for one in self.graph.operators if self.kind(one) not in INSERTED]


def _match_tensors(float_graph: _TfliteGraph, quantized: _TfliteGraph) -> dict[int, int]:
    """Return float tensor → tensor of the quantized model; the quantizer keeps the order of operators.

    Raises:
        ToolchainError: the quantized model has other operators.
    """
    float_operators, quantized_operators = float_graph.operators, quantized.operators
    if [float_graph.kind(one) for one in float_operators] != [quantized.kind(one) for one in quantized_operators]:
        raise ToolchainError(
            "the quantized model has other operators than the float one, so layers cannot be compared",
            stage="sensitivity",
            subject="litert",
        )
    pairs = dict(zip(float_graph.graph.inputs, quantized.graph.inputs, strict=True))
    for one, other in zip(float_operators, quantized_operators, strict=True):
        pairs |= dict(zip(one.outputs, other.outputs, strict=True))
    return {int(one): int(other) for one, other in pairs.items()}


def _unit_results(float_graph: _TfliteGraph, unit: frozenset[str]) -> list[int]:
    """Return the float results of a unit that other units, or outputs of the model, use."""
    inside = [one for one in float_graph.graph.operators if float_graph.name(one) in unit]
    results = [int(out) for one in inside for out in one.outputs if out >= 0]
    outside = [one for one in float_graph.graph.operators if float_graph.name(one) not in unit]
    used = {int(tensor) for one in outside for tensor in one.inputs} | {int(out) for out in float_graph.graph.outputs}
    is_float = [float_graph.graph.tensors[tensor].type == schema.TensorType.FLOAT32 for tensor in results]
    return [tensor for tensor, real in zip(results, is_float, strict=True) if real and tensor in used]


def _split_units(
    artifact: Artifact, float_graph: _TfliteGraph, counterparts: dict[int, int], units: Sequence[frozenset[str]]
) -> tuple[Any, dict[int, int]]:
    """Split the quantized model into units: tensors between units become inputs.

    Returns:
        The model, and for each of its inputs the float tensor with its value.
    """
    graph = _TfliteGraph(artifact)
    floats = {quantized_operators: float_operators for float_operators, quantized_operators in counterparts.items()}
    unit_of: dict[int, int] = {}  # of a tensor: the unit that computes it
    for one, other in zip(float_graph.operators, graph.operators, strict=True):
        found = [place for place, unit in enumerate(units) if float_graph.name(one) in unit]
        unit_of |= {int(out): place for out in other.outputs for place in found}
    new_inputs: dict[int, int] = {}
    unit_inputs: dict[int, int] = {}
    for operator in graph.operators:
        unit = unit_of.get(int(operator.outputs[0]) if len(operator.outputs) else -1)
        for place, tensor in enumerate(operator.inputs):
            if unit is None or tensor < 0:
                continue
            origin = graph.origin(int(tensor))
            if graph.constant(origin) or unit_of.get(origin) == unit:
                continue
            if tensor not in new_inputs:  # with its scale; the input of a float operator is not quantized
                new_inputs[tensor] = graph.add_tensor(int(tensor), f"entry_{tensor}")
                unit_inputs[new_inputs[tensor]] = floats[origin]
            operator.inputs[place] = new_inputs[tensor]
    graph.graph.operators = [
        one
        for one in graph.graph.operators
        if any(int(out) in unit_of or _is_quantized_input(graph, int(out), unit_of) for out in one.outputs)
    ]
    graph.graph.inputs = list(unit_inputs)
    graph.graph.outputs = list(unit_of)
    graph.model.signatureDefs = None
    return graph.model, unit_inputs


def _is_quantized_input(graph: _TfliteGraph, tensor: int, unit_of: dict[int, int]) -> bool:
    """Return whether a tensor is a quantization of a constant, or of a unit's result."""
    origin = graph.origin(tensor)
    return graph.inserted(tensor) and (graph.constant(origin) or origin in unit_of)


def _with_noise(artifact: Artifact, units: Sequence[frozenset[str]]) -> tuple[Any, dict[int, int]]:
    """Return the float model with an addition at every unit result, and result → the input that is added."""
    graph = _TfliteGraph(artifact)
    unit_results = [_unit_results(graph, unit) for unit in units]
    code = _code_of_add(graph.model)
    noises: dict[int, int] = {}
    for unit, tensors in zip(units, unit_results, strict=True):
        for tensor in tensors:
            noises[tensor] = graph.add_tensor(tensor, f"noise_{tensor}")
            total = graph.add_tensor(tensor, f"disturbed_{tensor}")
            for operator in graph.graph.operators:
                if graph.name(operator) not in unit:
                    operator.inputs = [total if place == tensor else place for place in operator.inputs]
            graph.graph.outputs = [total if place == tensor else place for place in graph.graph.outputs]
            after = graph.graph.operators.index(graph.producers[tensor]) + 1
            graph.graph.operators.insert(after, _addition(code, tensor, noises[tensor], total))
    graph.graph.inputs = [*graph.graph.inputs, *noises.values()]
    graph.model.signatureDefs = None
    return graph.model, noises


def _code_of_add(model: Any) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _addition(code: int, a: int, b: int, total: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, [a, b], [total]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    return operator


class _RunningModel:
    """A model that keeps every tensor while it runs; inputs keep their values between runs."""

    def __init__(self, model: Any) -> None:
        for buffer in model.buffers:
            if buffer.data is not None:  # other types are packed byte by byte
                buffer.data = np.asarray(bytearray(buffer.data), np.uint8)
        self._interpreter = Interpreter(
            model_content=bytes(flatbuffer_utils.convert_object_to_bytearray(model)),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        for detail in self._inputs:
            self._interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))

    def set_input(self, tensor: int, value: np.ndarray) -> None:
        """Set an input, in real numbers."""
        detail = self._details[tensor]
        scale, zero_point = detail["quantization"]
        values = quantize(value, scale, zero_point, detail["dtype"]) if scale else value
        self._interpreter.set_tensor(tensor, np.ascontiguousarray(values, dtype=detail["dtype"]))

    def run(self, values: Arrays) -> None:
        """Run with values for the first inputs, in their own dtypes."""
        for detail, array in zip(self._inputs, values, strict=False):
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()

    def value(self, tensor: int) -> np.ndarray:
        """Return a tensor's value in the last run, in real numbers."""
        value = self._interpreter.get_tensor(tensor)
        scale, zero_point = self._details[tensor]["quantization"]
        return dequantize(value, scale, zero_point) if scale else value
