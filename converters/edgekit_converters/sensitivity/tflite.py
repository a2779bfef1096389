"""Takes a ``.tflite`` and its quantized self apart; LiteRT's own kernels run the pieces and keep every tensor."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_litert.tools import flatbuffer_utils

from edgekit_converters.artifact.open import entered
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.formats.tflite_graph import node_name
from edgekit_converters.records import Artifact
from edgekit_converters.sensitivity import Arrays, SensitivityRequest, UnitOutputs
from edgekit_runtime.errors import ToolchainError
from edgekit_runtime.tensors import dequantize, quantize

INSERTED = ("QUANTIZE", "DEQUANTIZE")  # what the quantizer puts between operators, and a float model has none of


class TflitePair:
    """See :class:`edgekit_converters.sensitivity.ArtifactPair`. Tensors are indices of the main graph."""

    def __init__(self, request: SensitivityRequest, units: Sequence[frozenset[str]]) -> None:
        self._request = request
        with _litert_errors():
            plain, quantized = (_Graph(one) for one in (request.artifact, request.quantized))
            twins = _pair(plain, quantized)
            self._exits = [_exits(plain, unit) for unit in units]
            self._twin = {ours: theirs for ours, theirs in twins.items() if ours in set().union(*self._exits)}
            apart, self._entries = _apart(request.quantized, plain, twins, units)
            disturbed, self._noises = _with_noise(request.artifact, units)
            self._plain, self._quantized = _Running(disturbed), _Running(quantized.model)
            self._apart = _Running(apart)
        self._outputs = [int(tensor) for tensor in disturbed.subgraphs[0].outputs]
        self._quantized_outputs = [int(tensor) for tensor in quantized.graph.outputs]

    def look(self, sample: Arrays) -> list[UnitOutputs]:
        """Run a sample through both artifacts."""
        with _litert_errors():
            self._plain.run(entered(self._request.artifact, list(sample)))
            self._quantized.run(entered(self._request.quantized, list(sample)))
            for tensor, source in self._entries.items():
                self._apart.put(tensor, self._plain.value(source))
            self._apart.run([])
            return [
                UnitOutputs(
                    [self._plain.value(one) for one in exits],
                    [self._quantized.value(self._twin[one]) for one in exits],
                    [self._apart.value(self._twin[one]) for one in exits],
                )
                for exits in self._exits
            ]

    def answers(self) -> tuple[Arrays, Arrays]:
        """Return what the float and the quantized model gave at last."""
        answer = [self._plain.value(tensor) for tensor in self._outputs]
        return answer, [self._quantized.value(tensor) for tensor in self._quantized_outputs]

    def disturbed(self, sample: Arrays, unit: int, errors: Arrays) -> Arrays:
        """Return what the float model gives when errors are added to a unit's exits."""
        noises = [self._noises[one] for one in self._exits[unit]]
        with _litert_errors():
            for tensor, error in zip(noises, errors, strict=True):
                self._plain.put(tensor, error)
            self._plain.run(entered(self._request.artifact, list(sample)))
            answer = [self._plain.value(tensor) for tensor in self._outputs]
            for tensor, error in zip(noises, errors, strict=True):
                self._plain.put(tensor, np.zeros_like(error))
        return answer


@contextlib.contextmanager
def _litert_errors() -> Iterator[None]:
    """Map what LiteRT and its file tools raise."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ToolchainError(short_message(error), stage="sensitivity", subject="litert") from error


class _Graph:
    """A file's main graph, by who makes and who takes what."""

    def __init__(self, artifact: Artifact) -> None:
        self.model = flatbuffer_utils.read_model(str(artifact.files[0]))
        self.graph = self.model.subgraphs[0]
        self.makers = {int(out): one for one in self.graph.operators for out in one.outputs}

    def kind(self, operator: Any) -> str:
        return str(flatbuffer_utils.opcode_to_name(self.model, operator.opcodeIndex))

    def name(self, operator: Any) -> str:
        return node_name(self.graph, operator)

    def inserted(self, tensor: int) -> bool:
        return tensor in self.makers and self.kind(self.makers[tensor]) in INSERTED

    def origin(self, tensor: int) -> int:
        """The tensor that comes out of ``tensor``'s quantizations."""
        while self.inserted(tensor):
            tensor = int(self.makers[tensor].inputs[0])
        return tensor

    def constant(self, tensor: int) -> bool:
        return self.model.buffers[self.graph.tensors[tensor].buffer].data is not None

    def add_tensor(self, like: int, name: str) -> int:
        """Add a tensor of another one's type, shape and scale, and return its place."""
        tensor = copy.copy(self.graph.tensors[like])
        tensor.name, tensor.buffer, tensor.isVariable = name.encode(), 0, False
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    @property
    def operators(self) -> list[Any]:
        """Those that a quantizer did not insert, in the order of execution."""
        return [one for one in self.graph.operators if self.kind(one) not in INSERTED]


def _pair(plain: _Graph, quantized: _Graph) -> dict[int, int]:
    """Return float tensor → the quantized model's: the quantizer keeps operators in order, and only inserts some.

    Raises:
        ToolchainError: it did not.
    """
    ours, theirs = plain.operators, quantized.operators
    if [plain.kind(one) for one in ours] != [quantized.kind(one) for one in theirs]:
        raise ToolchainError(
            "the quantized model has other operators than the float one, so layers cannot be compared",
            stage="sensitivity",
            subject="litert",
        )
    pairs = dict(zip(plain.graph.inputs, quantized.graph.inputs, strict=True))
    for one, other in zip(ours, theirs, strict=True):
        pairs |= dict(zip(one.outputs, other.outputs, strict=True))
    return {int(one): int(other) for one, other in pairs.items()}


def _exits(plain: _Graph, unit: frozenset[str]) -> list[int]:
    """Return the float tensors of a unit that others take, or the model's user."""
    inside = [one for one in plain.graph.operators if plain.name(one) in unit]
    made = [int(out) for one in inside for out in one.outputs if out >= 0]
    outside = [one for one in plain.graph.operators if plain.name(one) not in unit]
    taken = {int(tensor) for one in outside for tensor in one.inputs} | {int(out) for out in plain.graph.outputs}
    is_float = [plain.graph.tensors[tensor].type == schema.TensorType.FLOAT32 for tensor in made]
    return [tensor for tensor, real in zip(made, is_float, strict=True) if real and tensor in taken]


def _apart(
    artifact: Artifact, plain: _Graph, twins: dict[int, int], units: Sequence[frozenset[str]]
) -> tuple[Any, dict[int, int]]:
    """Cut the quantized model between units: what crosses comes in anew.

    Returns:
        The model, whose inputs are entries alone, and entry → the float tensor whose value it is to be given.
    """
    whole = _Graph(artifact)
    floats = {theirs: ours for ours, theirs in twins.items()}
    unit_of: dict[int, int] = {}  # of a tensor: the unit that makes it
    for one, other in zip(plain.operators, whole.operators, strict=True):
        found = [place for place, unit in enumerate(units) if plain.name(one) in unit]
        unit_of |= {int(out): place for out in other.outputs for place in found}
    made: dict[int, int] = {}
    entries: dict[int, int] = {}
    for operator in whole.operators:
        unit = unit_of.get(int(operator.outputs[0]) if len(operator.outputs) else -1)
        for place, tensor in enumerate(operator.inputs):
            if unit is None or tensor < 0:
                continue
            origin = whole.origin(int(tensor))
            if whole.constant(origin) or unit_of.get(origin) == unit:
                continue
            if tensor not in made:  # its own scale is the layer's; what a float operator takes is no more quantized
                made[tensor] = whole.add_tensor(int(tensor), f"entry_{tensor}")
                entries[made[tensor]] = floats[origin]
            operator.inputs[place] = made[tensor]
    whole.graph.operators = [
        one
        for one in whole.graph.operators
        if any(int(out) in unit_of or _fed(whole, int(out), unit_of) for out in one.outputs)
    ]
    whole.graph.inputs = list(entries)
    whole.graph.outputs = list(unit_of)
    whole.model.signatureDefs = None
    return whole.model, entries


def _fed(whole: _Graph, tensor: int, unit_of: dict[int, int]) -> bool:
    """Tell of a tensor whether it is a quantization of a constant, or of what some unit makes."""
    origin = whole.origin(tensor)
    return whole.inserted(tensor) and (whole.constant(origin) or origin in unit_of)


def _with_noise(artifact: Artifact, units: Sequence[frozenset[str]]) -> tuple[Any, dict[int, int]]:
    """Return the float model with an addition at every exit, and exit → the input that is added there."""
    whole = _Graph(artifact)
    exits = [_exits(whole, unit) for unit in units]
    code = _code_of_add(whole.model)
    noises: dict[int, int] = {}
    for unit, tensors in zip(units, exits, strict=True):
        for tensor in tensors:
            noises[tensor] = whole.add_tensor(tensor, f"noise_{tensor}")
            total = whole.add_tensor(tensor, f"disturbed_{tensor}")
            for operator in whole.graph.operators:
                if whole.name(operator) not in unit:
                    operator.inputs = [total if taken == tensor else taken for taken in operator.inputs]
            whole.graph.outputs = [total if taken == tensor else taken for taken in whole.graph.outputs]
            after = whole.graph.operators.index(whole.makers[tensor]) + 1
            whole.graph.operators.insert(after, _addition(code, tensor, noises[tensor], total))
    whole.graph.inputs = [*whole.graph.inputs, *noises.values()]
    whole.model.signatureDefs = None
    return whole.model, noises


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


class _Running:
    """A model that keeps every tensor while it runs; what is put into an input stays there."""

    def __init__(self, model: Any) -> None:
        for buffer in model.buffers:
            if buffer.data is not None:  # anything else is packed byte by byte
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

    def put(self, tensor: int, value: np.ndarray) -> None:
        """Give an input its value, in real numbers."""
        detail = self._details[tensor]
        scale, zero_point = detail["quantization"]
        given = quantize(value, scale, zero_point, detail["dtype"]) if scale else value
        self._interpreter.set_tensor(tensor, np.ascontiguousarray(given, dtype=detail["dtype"]))

    def run(self, given: Arrays) -> None:
        """Run with the first inputs as they are given, in their own dtypes."""
        for detail, array in zip(self._inputs, given, strict=False):
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()

    def value(self, tensor: int) -> np.ndarray:
        """Return what the last run left in a tensor, in real numbers."""
        value = self._interpreter.get_tensor(tensor)
        scale, zero_point = self._details[tensor]["quantization"]
        return dequantize(value, scale, zero_point) if scale else value
