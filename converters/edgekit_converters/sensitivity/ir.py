"""Takes an IR and its quantized self apart; OpenVINO runs the pieces, with a result for each of them.

FakeQuantize is computed as it is written, in float32, and not by int8 kernels: OpenVINO 2026.4's give wrong values
(0 dB) for results in the middle of a model when they run with the settings that its answers need (see
``formats.ir.engine_settings``). The arithmetic is the same but for float32's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13
from openvino.utils.node_factory import NodeFactory

from edgekit_converters.artifact.open import entered
from edgekit_converters.data import batches
from edgekit_converters.formats.openvino_model import openvino_errors
from edgekit_converters.sensitivity import Arrays, SensitivityRequest, UnitOutputs
from edgekit_runtime.errors import ToolchainError

Key = tuple[str, int]  # a node's friendly name in the float model, and which of its outputs
# NNCF quantizes before them what is quantized for those behind them, whom it is to be charged to
PASSING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Split", "Pad", "MaxPool")
# no int8 kernels, and no threads to wait for: samples are small, and the other format runs beside
WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")  # whose biases NNCF corrects
CORRECTING = 16  # samples, of which biases are corrected
AS_WRITTEN = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": False, "INFERENCE_NUM_THREADS": 1}
INSERTED = ("FakeQuantize", "Multiply", "Add")  # SmoothQuant multiplies, bias correction may add


class IrPair:
    """See :class:`edgekit_converters.sensitivity.ArtifactPair`."""

    def __init__(self, request: SensitivityRequest, units: Sequence[frozenset[str]]) -> None:
        self._request = request
        with openvino_errors("sensitivity"):
            plain = ov.Core().read_model(request.artifact.files[0])
            quantized = ov.Core().read_model(request.quantized.files[0])
            known = _name_alike(plain, quantized)
            passing = {node.get_friendly_name() for node in plain.get_ops() if node.get_type_name() in PASSING}
            known -= passing
            units = [frozenset() if unit <= passing else unit for unit in units]
            self._exits = [_exits(plain, unit) for unit in units]
            pieces = _with_biases_of(plain, quantized.clone())
            apart, self._entries = _Cut(pieces, units, known).model(self._exits)
            disturbed, self._noises = _with_noise(plain.clone(), units, self._exits)
            corrected = _corrected(apart, known)
            watched = {key for exits in self._exits for key in exits} | {*self._entries, *corrected}
            self._plain = _Running(disturbed, sorted(watched))
            self._quantized = _Running(quantized, [key for exits in self._exits for key in exits])
            self._quiet = [np.zeros(shape, np.float32) for shape in self._plain.shapes[len(plain.inputs) :]]
            self._correct(apart, corrected)
            self._apart = _Running(apart, [])

    def _correct(self, apart: ov.Model, corrected: Sequence[Key]) -> None:
        """Correct biases of the pieces for their own mean error, as NNCF does for what comes before as well."""
        running = _Running(apart.clone(), corrected)
        errors: dict[Key, list[np.ndarray]] = {key: [] for key in corrected}
        for sample in islice(batches(self._request.data, self._request.inputs, 1), CORRECTING):
            self._plain.run([*entered(self._request.artifact, sample), *self._quiet])
            running.run([self._plain.value(key) for key in self._entries])
            for key, found in errors.items():
                found.append(running.value(key) - self._plain.value(key))
        for key, found in errors.items():
            bias = _bias(_port(apart, key).get_node())
            constant = bias.get_source_output().get_node()
            error = _as_bias(np.concatenate(found), np.array(constant.data))
            bias.replace_source_output(opset13.constant(constant.data - error).output(0))

    def look(self, sample: Arrays) -> list[UnitOutputs]:
        """Run a sample through both artifacts."""
        with openvino_errors("sensitivity"):
            self._plain.run([*entered(self._request.artifact, list(sample)), *self._quiet])
            self._quantized.run(entered(self._request.quantized, list(sample)))
            self._apart.run([self._plain.value(key) for key in self._entries])
        pieces = iter(self._apart.answers)
        return [
            UnitOutputs(
                [self._plain.value(key) for key in exits],
                [self._quantized.value(key) for key in exits],
                [next(pieces) for _ in exits],
            )
            for exits in self._exits
        ]

    def answers(self) -> tuple[Arrays, Arrays]:
        """Return what the float and the quantized model gave at last."""
        return self._plain.answers, self._quantized.answers

    def disturbed(self, sample: Arrays, unit: int, errors: Arrays) -> Arrays:
        """Return what the float model gives when errors are added to a unit's exits."""
        noises = list(self._quiet)
        for key, error in zip(self._exits[unit], errors, strict=True):
            noises[self._noises[key]] = error
        with openvino_errors("sensitivity"):
            self._plain.run([*entered(self._request.artifact, list(sample)), *noises])
        return self._plain.answers


def _key(port: Any) -> Key:
    return port.get_node().get_friendly_name(), port.get_index()


def _port(model: ov.Model, key: Key) -> Any:
    return next(node for node in model.get_ops() if node.get_friendly_name() == key[0]).output(key[1])


def _name_alike(plain: ov.Model, quantized: ov.Model) -> set[str]:
    """Give the quantized model's nodes the names of those of the float model that they come from; return these.

    Both are walked from their results, input by input: quantization only inserts nodes between, and new constants.

    Raises:
        ToolchainError: it did more than that.
    """
    twins: dict[str, Any] = {}
    pending = list(zip(plain.get_results(), quantized.get_results(), strict=True))
    while pending:
        ours, theirs = pending.pop()
        while theirs.get_type_name() != ours.get_type_name() and theirs.get_type_name() in INSERTED:
            theirs = theirs.input_value(0).get_node()
        if ours.get_friendly_name() in twins or _is_constant(ours):
            continue
        if theirs.get_type_name() != ours.get_type_name():
            raise ToolchainError(
                f"the quantized model has {theirs.get_type_name()} where the float one has "
                f"{ours.get_type_name()} ({ours.get_friendly_name()}), so layers cannot be compared",
                stage="sensitivity",
                subject="openvino",
            )
        twins[ours.get_friendly_name()] = theirs
        pending += [tuple(port.get_node() for port in pair) for pair in zip(_taken(ours), _taken(theirs), strict=True)]
    for place, node in enumerate(quantized.get_ops()):
        node.set_friendly_name(f"inserted {place}")
    for name, node in twins.items():
        node.set_friendly_name(name)
    return set(twins)


def _with_biases_of(plain: ov.Model, quantized: ov.Model) -> ov.Model:
    """Undo what bias correction did, which NNCF always does: it makes up for the layers before, too.

    Without their errors it would be an error itself, and blame whom it mends.
    """
    biases = {node.get_friendly_name(): bias for node in plain.get_ops() if (bias := _bias(node))}
    for node in quantized.get_ops():
        bias = _bias(node)
        if bias and node.get_friendly_name() in biases:
            value = biases[node.get_friendly_name()].get_source_output().get_node()
            bias.replace_source_output(opset13.constant(np.array(value.data)).output(0))
    return quantized


def _bias(node: Any) -> Any:
    """Return where an Add takes a constant, or None."""
    found = [one for one in node.inputs() if one.get_source_output().get_node().get_type_name() == "Constant"]
    return found[0] if node.get_type_name() == "Add" and found else None


def _corrected(model: ov.Model, known: set[str]) -> list[Key]:
    """Return where the float model adds a bias to a product with weights."""
    adding = [node for node in model.get_ops() if node.get_friendly_name() in known and _bias(node) is not None]
    products = [{port.get_node().get_type_name() for port in _taken(node)} & set(WEIGHTED) for node in adding]
    return [_key(node.output(0)) for node, found in zip(adding, products, strict=True) if found]


def _as_bias(errors: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the mean of errors, (samples, ...), over all axes that a bias is the same along; in the bias's shape."""
    shape = (1,) * (errors.ndim - bias.ndim) + bias.shape
    same = tuple(axis for axis, size in enumerate(shape) if axis == 0 or size == 1)
    mean: np.ndarray = errors.mean(axis=same, keepdims=True).reshape(bias.shape).astype(bias.dtype)
    return mean


def _taken(node: Any) -> list[Any]:
    return [entrance.get_source_output() for entrance in node.inputs()]


def _exits(model: ov.Model, unit: frozenset[str]) -> list[Key]:
    """Return the real values of a unit that others take, or the model's user."""
    return [
        _key(port)
        for node in model.get_ordered_ops()
        if node.get_friendly_name() in unit
        for port in node.outputs()
        if port.get_element_type() == ov.Type.f32
        and any(taker.get_node().get_friendly_name() not in unit for taker in port.get_target_inputs())
    ]


class _Cut:
    """Cuts a quantized model between units: what crosses comes in anew, with the quantization on its way.

    Args:
        model: the quantized model; it is changed.
        units: sets of friendly names.
        known: the names of the float model but of what only passes values on; what quantization inserted has others.
    """

    def __init__(self, model: ov.Model, units: Sequence[frozenset[str]], known: set[str]) -> None:
        self._whole, self._known = model, known
        self._unit_of = {name: place for place, unit in enumerate(units) for name in unit}
        self._parameters: dict[Key, Any] = {}
        self._copies: dict[Key, Any] = {}

    def model(self, exits: Sequence[Sequence[Key]]) -> tuple[ov.Model, list[Key]]:
        """Return the pieces as one model that gives all exits, and the float value that each of its inputs takes."""
        ports = {key: _port(self._whole, key) for unit in exits for key in unit}
        for node in self._whole.get_ordered_ops():
            unit = self._unit_of.get(node.get_friendly_name())
            for entrance in node.inputs() if unit is not None else ():
                port = entrance.get_source_output()
                origin = self._origin(port)
                if origin and self._unit_of.get(_key(origin)[0]) != unit:
                    entrance.replace_source_output(self._entry(port))
        results = [opset13.result(ports[key]) for unit in exits for key in unit]
        return ov.Model(results, list(self._parameters.values()), "apart"), list(self._parameters)

    def _origin(self, port: Any) -> Any:
        """The float model's value that comes out of ``port``; None of what is computed from constants alone."""
        node = port.get_node()
        if node.get_type_name() == "Constant":
            return None
        if node.get_friendly_name() in self._known:
            return port
        return next((origin for origin in map(self._origin, _taken(node)) if origin), None)

    def _entry(self, port: Any) -> Any:
        key = _key(port)
        if key not in self._copies:
            node = port.get_node()
            if node.get_friendly_name() in self._known:
                made = opset13.parameter(port.get_partial_shape(), port.get_element_type())
                made.set_friendly_name(f"entry {len(self._copies)}")  # never the name of another node
                self._parameters[key] = made
                self._copies[key] = made.output(0)
            else:
                taken = [self._entry(one) if self._origin(one) else one for one in _taken(node)]
                made = NodeFactory().create(node.get_type_name(), taken, node.get_attributes())
                made.set_friendly_name(f"copy {len(self._copies)}")
                self._copies[key] = made.output(key[1])
        return self._copies[key]


def _is_constant(node: Any) -> bool:
    """Tell constants, and what is computed from constants alone."""
    kind = node.get_type_name()
    if kind in ("Constant", "Parameter"):
        return bool(kind == "Constant")
    return all(_is_constant(port.get_node()) for port in _taken(node))


def _with_noise(
    model: ov.Model, units: Sequence[frozenset[str]], exits: Sequence[Sequence[Key]]
) -> tuple[ov.Model, dict[Key, int]]:
    """Add an input to every exit; return the model, and exit → the place of that input after the model's own."""
    places: dict[Key, int] = {}
    noises: list[Any] = []
    for unit, keys in zip(units, exits, strict=True):
        for key in keys:
            port = _port(model, key)
            takers = [one for one in port.get_target_inputs() if one.get_node().get_friendly_name() not in unit]
            noise = opset13.parameter(port.get_partial_shape(), np.float32)
            total = opset13.add(port, noise, name=f"disturbed {len(noises)}")  # never the name of another node
            for taker in takers:
                taker.replace_source_output(total.output(0))
            places[key] = len(noises)
            noises.append(noise)
    model.add_parameters(noises)
    return model, places


class _Running:
    """A model with more results; ``answers`` are those it has by itself."""

    def __init__(self, model: ov.Model, watched: Sequence[Key]) -> None:
        self.shapes = [tuple(port.get_shape()) for port in model.inputs]
        own = len(model.outputs)
        model.add_outputs([_port(model, key) for key in watched])  # none twice
        made = [_key(result.input_value(0)) for result in model.get_results()]
        self._places = {key: made.index(key) for key in watched}
        self._compiled = ov.Core().compile_model(model, "CPU", AS_WRITTEN)
        self._own = own
        self._results: list[np.ndarray] = []

    def run(self, given: Arrays) -> None:
        """Run with all inputs."""
        results = self._compiled(list(given))
        self._results = [np.array(results[place]) for place in range(len(self._compiled.outputs))]

    def value(self, key: Key) -> np.ndarray:
        """Return what the last run left in a watched value."""
        return self._results[self._places[key]]

    @property
    def answers(self) -> Arrays:
        """What the last run gave."""
        return self._results[: self._own]
