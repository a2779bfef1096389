"""Split a float IR and its quantized one into units; OpenVINO runs them, with a result for each.

FakeQuantize runs in float32 as written, not in int8 kernels: with the settings that a model's outputs need (see
``formats.ir.engine_settings``), the int8 kernels of OpenVINO 2026.4 give wrong values (0 dB) inside a model. The
arithmetic is the same up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13
from openvino.utils.node_factory import NodeFactory

from edgekit_converters.artifact.open import artifact_inputs
from edgekit_converters.data import batches
from edgekit_converters.formats.openvino_model import openvino_errors
from edgekit_converters.sensitivity import Arrays, SensitivityRequest, UnitOutputs
from edgekit_runtime.errors import ToolchainError

Key = tuple[str, int]  # a node's friendly name in the float model, and which of its outputs
# NNCF quantizes before them for the consumers behind them, which the error is attributed to
LAYOUT_OPERATIONS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Split", "Pad", "MaxPool")
WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")  # NNCF corrects their biases
BIAS_SAMPLES = 16  # that biases are corrected on
# no int8 kernels, and one thread: samples are small, and the other format runs at the same time
ENGINE_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": False, "INFERENCE_NUM_THREADS": 1}
INSERTED = ("FakeQuantize", "Multiply", "Add")  # by quantization, SmoothQuant and bias correction


class IrPair:
    """See :class:`edgekit_converters.sensitivity.ArtifactPair`."""

    def __init__(self, request: SensitivityRequest, units: Sequence[frozenset[str]]) -> None:
        self._request = request
        with openvino_errors("sensitivity"):
            float_model = ov.Core().read_model(request.artifact.files[0])
            quantized = ov.Core().read_model(request.quantized.files[0])
            matched = _match_names(float_model, quantized)
            nodes = float_model.get_ops()
            layout = {node.get_friendly_name() for node in nodes if node.get_type_name() in LAYOUT_OPERATIONS}
            matched -= layout
            units = [frozenset() if unit <= layout else unit for unit in units]
            self._unit_results = [_unit_results(float_model, unit) for unit in units]
            pieces = _with_float_biases(float_model, quantized.clone())
            split, self._unit_inputs = _UnitSplitter(pieces, units, matched).model(self._unit_results)
            with_noise, self._noises = _with_noise(float_model.clone(), units, self._unit_results)
            corrected = _biased_products(split, matched)
            results = [key for unit_results in self._unit_results for key in unit_results]
            watched = {*results, *self._unit_inputs, *corrected}
            self._float_model = _RunningModel(with_noise, sorted(watched))
            self._quantized = _RunningModel(quantized, results)
            self._zeros = [np.zeros(shape, np.float32) for shape in self._float_model.shapes[len(float_model.inputs) :]]
            self._correct(split, corrected)
            self._split = _RunningModel(split, [])

    def _correct(self, split: ov.Model, corrected: Sequence[Key]) -> None:
        """Correct biases of the units for their own mean error only; NNCF's correction includes inherited errors."""
        running = _RunningModel(split.clone(), corrected)
        errors: dict[Key, list[np.ndarray]] = {key: [] for key in corrected}
        for sample in islice(batches(self._request.data, self._request.inputs, 1), BIAS_SAMPLES):
            self._float_model.run([*artifact_inputs(self._request.artifact, sample), *self._zeros])
            running.run([self._float_model.value(key) for key in self._unit_inputs])
            for key, found in errors.items():
                found.append(running.value(key) - self._float_model.value(key))
        for key, found in errors.items():
            bias = _bias(_port(split, key).get_node())
            constant = bias.get_source_output().get_node()
            error = _as_bias(np.concatenate(found), np.array(constant.data))
            bias.replace_source_output(opset13.constant(constant.data - error).output(0))

    def run(self, sample: Arrays) -> list[UnitOutputs]:
        """Run a sample through both artifacts."""
        with openvino_errors("sensitivity"):
            self._float_model.run([*artifact_inputs(self._request.artifact, list(sample)), *self._zeros])
            self._quantized.run(artifact_inputs(self._request.quantized, list(sample)))
            self._split.run([self._float_model.value(key) for key in self._unit_inputs])
        pieces = iter(self._split.outputs)
        return [
            UnitOutputs(
                [self._float_model.value(key) for key in unit_results],
                [self._quantized.value(key) for key in unit_results],
                [next(pieces) for _ in unit_results],
            )
            for unit_results in self._unit_results
        ]

    def outputs(self) -> tuple[Arrays, Arrays]:
        """Return the outputs of the float and of the quantized model in the last run."""
        return self._float_model.outputs, self._quantized.outputs

    def outputs_with_errors(self, sample: Arrays, unit: int, errors: Arrays) -> Arrays:
        """Return the outputs of the float model when errors are added to a unit's results."""
        noises = list(self._zeros)
        for key, error in zip(self._unit_results[unit], errors, strict=True):
            noises[self._noises[key]] = error
        with openvino_errors("sensitivity"):
            self._float_model.run([*artifact_inputs(self._request.artifact, list(sample)), *noises])
        return self._float_model.outputs


def _key(port: Any) -> Key:
    return port.get_node().get_friendly_name(), port.get_index()


def _port(model: ov.Model, key: Key) -> Any:
    return next(node for node in model.get_ops() if node.get_friendly_name() == key[0]).output(key[1])


def _match_names(float_model: ov.Model, quantized: ov.Model) -> set[str]:
    """Rename the quantized model's nodes to the float nodes that they come from; return these names.

    Follows both models from their results, input by input: quantization only inserts nodes and new constants.

    Raises:
        ToolchainError: quantization changed other nodes.
    """
    counterparts: dict[str, Any] = {}
    pending = list(zip(float_model.get_results(), quantized.get_results(), strict=True))
    while pending:
        float_node, quantized_node = pending.pop()
        while (
            quantized_node.get_type_name() != float_node.get_type_name() and quantized_node.get_type_name() in INSERTED
        ):
            quantized_node = quantized_node.input_value(0).get_node()
        if float_node.get_friendly_name() in counterparts or _is_constant(float_node):
            continue
        if quantized_node.get_type_name() != float_node.get_type_name():
            raise ToolchainError(
                f"the quantized model has {quantized_node.get_type_name()} where the float one has "
                f"{float_node.get_type_name()} ({float_node.get_friendly_name()}), so layers cannot be compared",
                stage="sensitivity",
                subject="openvino",
            )
        counterparts[float_node.get_friendly_name()] = quantized_node
        pending += [
            tuple(port.get_node() for port in pair)
            for pair in zip(_sources(float_node), _sources(quantized_node), strict=True)
        ]
    for place, node in enumerate(quantized.get_ops()):
        node.set_friendly_name(f"inserted {place}")
    for name, node in counterparts.items():
        node.set_friendly_name(name)
    return set(counterparts)


def _with_float_biases(float_model: ov.Model, quantized: ov.Model) -> ov.Model:
    """Undo NNCF's bias correction, which also compensates errors of earlier layers.

    With float inputs these errors are missing, so the correction would itself be an error.
    """
    biases = {node.get_friendly_name(): bias for node in float_model.get_ops() if (bias := _bias(node))}
    for node in quantized.get_ops():
        bias = _bias(node)
        if bias and node.get_friendly_name() in biases:
            value = biases[node.get_friendly_name()].get_source_output().get_node()
            bias.replace_source_output(opset13.constant(np.array(value.data)).output(0))
    return quantized


def _bias(node: Any) -> Any:
    """Return the constant input of an Add, or None."""
    found = [one for one in node.inputs() if one.get_source_output().get_node().get_type_name() == "Constant"]
    return found[0] if node.get_type_name() == "Add" and found else None


def _biased_products(model: ov.Model, matched: set[str]) -> list[Key]:
    """Return the results of adding a bias to a product with weights."""
    adding = [node for node in model.get_ops() if node.get_friendly_name() in matched and _bias(node) is not None]
    products = [{port.get_node().get_type_name() for port in _sources(node)} & set(WEIGHTED) for node in adding]
    return [_key(node.output(0)) for node, found in zip(adding, products, strict=True) if found]


def _as_bias(errors: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the mean of errors, (samples, ...), in the shape of a bias, over the axes that it broadcasts along."""
    shape = (1,) * (errors.ndim - bias.ndim) + bias.shape
    same = tuple(axis for axis, size in enumerate(shape) if axis == 0 or size == 1)
    mean: np.ndarray = errors.mean(axis=same, keepdims=True).reshape(bias.shape).astype(bias.dtype)
    return mean


def _sources(node: Any) -> list[Any]:
    return [input_port.get_source_output() for input_port in node.inputs()]


def _unit_results(model: ov.Model, unit: frozenset[str]) -> list[Key]:
    """Return the float results of a unit that other units, or outputs of the model, use."""
    return [
        _key(port)
        for node in model.get_ordered_ops()
        if node.get_friendly_name() in unit
        for port in node.outputs()
        if port.get_element_type() == ov.Type.f32
        and any(consumer.get_node().get_friendly_name() not in unit for consumer in port.get_target_inputs())
    ]


class _UnitSplitter:
    """Splits a quantized model into units: values between units become inputs, followed by their quantization.

    Args:
        model: the quantized model; it is changed.
        units: sets of friendly names.
        matched: names of float nodes, without layout operations; inserted nodes have other names.
    """

    def __init__(self, model: ov.Model, units: Sequence[frozenset[str]], matched: set[str]) -> None:
        self._whole, self._known = model, matched
        self._unit_of = {name: place for place, unit in enumerate(units) for name in unit}
        self._parameters: dict[Key, Any] = {}
        self._copies: dict[Key, Any] = {}

    def model(self, unit_results: Sequence[Sequence[Key]]) -> tuple[ov.Model, list[Key]]:
        """Return all units as one model with their results as outputs, and the float value for each of its inputs."""
        ports = {key: _port(self._whole, key) for unit in unit_results for key in unit}
        for node in self._whole.get_ordered_ops():
            unit = self._unit_of.get(node.get_friendly_name())
            for input_port in node.inputs() if unit is not None else ():
                port = input_port.get_source_output()
                origin = self._origin(port)
                if origin and self._unit_of.get(_key(origin)[0]) != unit:
                    input_port.replace_source_output(self._new_input(port))
        results = [opset13.result(ports[key]) for unit in unit_results for key in unit]
        return ov.Model(results, list(self._parameters.values()), "split"), list(self._parameters)

    def _origin(self, port: Any) -> Any:
        """Return the float model's value that ``port`` is a quantization of; None of constants."""
        node = port.get_node()
        if node.get_type_name() == "Constant":
            return None
        if node.get_friendly_name() in self._known:
            return port
        return next((origin for origin in map(self._origin, _sources(node)) if origin), None)

    def _new_input(self, port: Any) -> Any:
        key = _key(port)
        if key not in self._copies:
            node = port.get_node()
            if node.get_friendly_name() in self._known:
                parameter = opset13.parameter(port.get_partial_shape(), port.get_element_type())
                parameter.set_friendly_name(f"entry {len(self._copies)}")  # never the name of another node
                self._parameters[key] = parameter
                self._copies[key] = parameter.output(0)
            else:
                sources = [self._new_input(one) if self._origin(one) else one for one in _sources(node)]
                copied = NodeFactory().create(node.get_type_name(), sources, node.get_attributes())
                copied.set_friendly_name(f"copy {len(self._copies)}")
                self._copies[key] = copied.output(key[1])
        return self._copies[key]


def _is_constant(node: Any) -> bool:
    """Return whether a node is a constant, or computed from constants only."""
    kind = node.get_type_name()
    if kind in ("Constant", "Parameter"):
        return bool(kind == "Constant")
    return all(_is_constant(port.get_node()) for port in _sources(node))


def _with_noise(
    model: ov.Model, units: Sequence[frozenset[str]], unit_results: Sequence[Sequence[Key]]
) -> tuple[ov.Model, dict[Key, int]]:
    """Add an input to every unit result; return the model, and result → index of its input after the model's own."""
    places: dict[Key, int] = {}
    noises: list[Any] = []
    for unit, keys in zip(units, unit_results, strict=True):
        for key in keys:
            port = _port(model, key)
            consumers = [one for one in port.get_target_inputs() if one.get_node().get_friendly_name() not in unit]
            noise = opset13.parameter(port.get_partial_shape(), np.float32)
            total = opset13.add(port, noise, name=f"with noise {len(noises)}")  # never the name of another node
            for consumer in consumers:
                consumer.replace_source_output(total.output(0))
            places[key] = len(noises)
            noises.append(noise)
    model.add_parameters(noises)
    return model, places


class _RunningModel:
    """A compiled model with additional results; ``outputs`` are its own."""

    def __init__(self, model: ov.Model, watched: Sequence[Key]) -> None:
        self.shapes = [tuple(port.get_shape()) for port in model.inputs]
        own = len(model.outputs)
        model.add_outputs([_port(model, key) for key in watched])  # none twice
        keys = [_key(result.input_value(0)) for result in model.get_results()]
        self._places = {key: keys.index(key) for key in watched}
        self._compiled = ov.Core().compile_model(model, "CPU", ENGINE_SETTINGS)
        self._own = own
        self._results: list[np.ndarray] = []

    def run(self, inputs: Arrays) -> None:
        """Run with all inputs."""
        results = self._compiled(list(inputs))
        self._results = [np.array(results[place]) for place in range(len(self._compiled.outputs))]

    def value(self, key: Key) -> np.ndarray:
        """Return a watched value of the last run."""
        return self._results[self._places[key]]

    @property
    def outputs(self) -> Arrays:
        """The model's own outputs in the last run."""
        return self._results[: self._own]
