"""Fake quantization of Keras models of both generations: their layers are called one by one, with rounding between.

The result of a layer is rounded by the operation that reads it, because only then is it known whether that is a
normalization or an activation that is fused into the layer.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.keras_graph import Call, is_followable, walk
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.load import in_batches
from edgekit_converters.train import Settings
from edgekit_converters.train.fake_quantize import (
    ARITHMETICS,
    RANGE_DECAY,
    RANGES,
    ROUND_HALF_UP,
    SMALLEST,
    Arithmetic,
    Grid,
    Role,
    RoundBetween,
    fuses,
    grid_of,
)
from edgekit_converters.train.keras.operator_roles import (
    SILU,
    activation_as_operators,
    factors,
    normalized,
    output_role,
    role_of,
    separable,
    silu,
    weight_steps,
    weights_of,
)

Mode = Literal["train", "use", "observe", "count"]


@dataclass
class PendingTensor:
    """A tensor that no operation has read yet; without a grid it stays in floating point."""

    tensor: Any
    role: Role
    grid: Grid | None
    rounded: Any = None
    sums: Any = None  # of a layer: the steps its sums are counted in, of the shape (channels,)


@dataclass(frozen=True)
class Place:
    """Where and how a layer is called; ``alone`` marks a normalization that is not fused into a layer."""

    point: str
    mode: Mode
    alone: bool
    sums: Any  # as of Given


def open_fake_quantizer(live: LoadedModel, settings: Settings) -> KerasFakeQuantize | None:
    """Return the fake quantization for the settings; None if they have none."""
    scheme = settings.quantize_aware
    return KerasFakeQuantize(live, ARITHMETICS[scheme]) if scheme else None


class KerasFakeQuantize:
    """Calls a model with the arithmetic of its quantized artifact; its weights stay unchanged.

    Args:
        live: if it is subclassed, its calls are unknown, and only the weights are rounded.
        arithmetic: of the scheme.
    """

    def __init__(self, live: LoadedModel, arithmetic: Arithmetic) -> None:
        model = live.handle.model
        self._model, self._arithmetic = model, arithmetic
        self._ranges: dict[str, tf.Variable] = {}  # point: (low, high); NaN: none yet
        self._consumers: Counter[str] = Counter()  # of what is made at a point
        self._weights = _weights(model, arithmetic)
        self._followed = is_followable(model)
        # names are counted on from model to model in a process; the place among all layers stays what it is
        self._places = {id(one): str(place) for place, one in enumerate(_operations(model))} if self._followed else {}
        apart = bool(arithmetic.activation_bits) and not self._followed
        self.notes = ("of a subclassed model weights are rounded, activations are not",) * apart
        self._compiled = tf.function(self._call_rounded, reduce_retracing=True)
        self._run = in_batches(self._evaluate) if self.follows else live.run
        self._mode: Mode = "use"

    def run(self, batch: Arrays) -> Arrays:
        """Return what the artifact would compute; the first batch calibrates the ranges of activations."""
        if self.follows and not self._ranges:
            self.call(self._model, [tf.constant(one[:1]) for one in batch], "count")
            self._mode = "observe"
            self._run(batch)
            self._mode = "use"
        with self.quantized_weights() if not self.follows else contextlib.nullcontext():
            return self._run(batch)

    def _evaluate(self, batch: Arrays) -> Arrays:
        return [one.numpy() for one in self._compiled([tf.constant(one) for one in batch], self._mode)]

    def _call_rounded(self, tensors: list[Any], mode: Mode) -> list[Any]:
        with self.quantized_weights() if mode == "use" else contextlib.nullcontext():
            return self.call(self._model, tensors, mode)

    def call(self, model: Any, tensors: list[Any], mode: Mode) -> list[Any]:
        """Return a model's outputs with rounded activations; weights are used as they are.

        Args:
            model: with the layers of the model that this object was created for.
            tensors: one for each input.
            mode: "train" updates ranges; "use" does not; "observe" updates them without rounding, as calibration;
                "count" only counts the readers of each tensor.
        """
        calls: Counter[str] = Counter()

        def visit(call: Call, values: list[Any]) -> list[Any]:
            place = self._places.get(id(call.layer), call.name)
            calls[place] += 1
            point = f"{place}:{calls[place]}"
            role = role_of(call)
            if mode == "count":
                self._consumers.update(one.grid.point for one in values if one.grid)
            taken = [self._input(one, mode, role) for one in values]
            alone = role is Role.NORM and not all(self._fuses_with(role, one) for one in values)
            sums = self._sums(call, role, values) if mode == "use" else None
            given = self._computed(call, taken, Place(point, mode, alone, sums))
            role = output_role(call, role)
            grids = [one.grid for one in values]
            return [self._outputs(one, role, f"{point}/{number}", grids, sums) for number, one in enumerate(given)]

        begun = [self._outputs(one, Role.INPUT, f"input/{place}", []) for place, one in enumerate(tensors)]
        limits = walk(model, begun, visit)
        if mode == "count":
            self._consumers.update(one.grid.point for one in limits if one.grid)
        return [self._input(one, mode) for one in limits]

    @property
    def follows(self) -> bool:
        """Whether activations between the layers are rounded."""
        return self._followed and bool(self._arithmetic.activation_bits)

    @contextlib.contextmanager
    def quantized_weights(self) -> Iterator[None]:
        """Round the model's variables for the duration of the context; gradients are applied to the unrounded ones.

        Inside a ``tf.function`` it becomes part of the compiled function.
        """
        kept = [tf.identity(variable) for variable, *_ in self._weights]
        for (variable, channels, arithmetic), whole in zip(self._weights, kept, strict=True):
            variable.assign(fake_quantize_weights(whole, channels, arithmetic))
        try:
            yield
        finally:
            for (variable, *_), whole in zip(self._weights, kept, strict=True):
                variable.assign(whole)

    def state(self) -> dict[str, Array]:
        """Return the ranges by their points."""
        return {f"{RANGES}{point}": kept.numpy() for point, kept in self._ranges.items()}

    def restore(self, state: dict[str, Array]) -> dict[str, Array]:
        """Restore the ranges, and return the rest of a state."""
        found = {name.removeprefix(RANGES): array for name, array in state.items() if name.startswith(RANGES)}
        for point in {*self._ranges, *found}:
            self._range(point).assign(found.get(point, np.full(2, np.nan, np.float32)))
        return {name: array for name, array in state.items() if not name.startswith(RANGES)}

    def _outputs(
        self, tensor: Any, role: Role, point: str, taken: list[Grid | None], sums: Any = None
    ) -> PendingTensor:
        grid = grid_of(role, point, taken, self._arithmetic) if tensor.dtype.is_floating else None
        return PendingTensor(tensor, role, grid, tensor if role is Role.MOVES else None, sums)

    def _fuses_with(self, role: Role, given: PendingTensor) -> bool:
        """Tell whether an operation is fused into the one that computed a tensor."""
        return given.grid is not None and fuses(role, given.role, alone=self._consumers[given.grid.point] < 2)

    def _sums(self, call: Call, role: Role, values: list[PendingTensor]) -> Any:
        """Return the steps of a layer's accumulator and bias; None if they are too fine, or unknown."""
        first = values[0] if values else None
        if first is None or first.grid is None or self._arithmetic.activation_bits != 8:
            return None
        if role is Role.LAYER:
            limits = tf.constant(first.grid.fixed_range) if first.grid.fixed_range else self._range(first.grid.point)
            return weight_steps(call.layer, self._arithmetic, scale_and_zero_point(limits, self._arithmetic)[0])
        if first.sums is None or role is Role.CONCATENATES or not self._fuses_with(role, first):
            return None
        return first.sums * tf.abs(factors(call.layer)) if role is Role.NORM else first.sums

    def _input(self, given: PendingTensor, mode: Mode, role: Role = Role.OTHER) -> Any:
        """Return a tensor as an operation with a role reads it."""
        if given.grid is None or mode == "count" or not self._arithmetic.activation_bits:
            return given.tensor
        if self._fuses_with(role, given):
            return _round_sums(given.tensor, given.sums) if role is Role.CONCATENATES else given.tensor
        if given.rounded is None:
            given.rounded = self._rounded(given.tensor, given.grid, mode, given.sums)
        return given.rounded

    def _rounded(self, tensor: Any, grid: Grid, mode: Mode, sums: Any = None) -> Any:
        kept = tf.constant(grid.fixed_range) if grid.fixed_range else self._range(grid.point)
        if mode != "use" and grid.observes:
            kept.assign(_updated_range(kept, _extremes(tensor)))
        return tensor if mode == "observe" else self._straight_through(tensor, kept, sums, ties_away=grid.ties_away)

    def _straight_through(self, tensor: Any, limits: Any, sums: Any = None, *, ties_away: bool = False) -> Any:
        """Return the rounded tensor, with the gradient of the unrounded one."""
        values = tf.cast(tensor, tf.float32)
        rounded = fake_quantize(_round_sums(values, sums), limits, self._arithmetic, ties_away=ties_away)
        return tensor + tf.stop_gradient(tf.cast(rounded, tensor.dtype) - tensor)

    def _range(self, point: str) -> tf.Variable:
        if point not in self._ranges:
            with tf.init_scope():  # also where a function is being compiled
                self._ranges[point] = tf.Variable(np.full(2, np.nan, np.float32), trainable=False)
        return self._ranges[point]

    def _computed(self, call: Call, values: list[Any], place: Place) -> list[Any]:
        """Call a layer as the operators that it becomes."""
        layer, training = call.layer, place.mode == "train"

        def rounds(values: Any, name: str, role: Role = Role.OTHER) -> Any:
            grid = grid_of(role, f"{place.point}/{name}", [], self._arithmetic)
            if grid is None or place.mode == "count" or not self._arithmetic.activation_bits:
                return values
            if role is Role.CONSTANT:
                return values if place.mode == "observe" else self._straight_through(values, _extremes(values))
            return self._rounded(values, grid, place.mode, place.sums if role is Role.LAYER else None)

        with _activation_as_operators(layer, role_of(call) is Role.LAYER, rounds):
            if call.kind == "SeparableConv2D" and layer.data_format == "channels_last":
                return [separable(layer, values[0], rounds)]
            if call.kind.lower() in SILU:  # the function
                return [silu(values[0], rounds)]
            given = _called(call, values, training)
        return [normalized(layer, values[0], training, rounds)] if place.alone else given


@contextlib.contextmanager
def _activation_as_operators(layer: Any, of_layer: bool, rounds: RoundBetween) -> Iterator[None]:
    """Let a layer compute its own activation as operators do."""
    function: Any = getattr(layer, "activation", None)
    if not inspect.isfunction(function):
        yield
        return
    layer.activation = activation_as_operators(function, of_layer, rounds)
    try:
        yield
    finally:
        layer.activation = function


def fake_quantize_weights(weights: Any, channels: tuple[int, ...], arithmetic: Arithmetic) -> Any:
    """:func:`fake_quantize.fake_quantize_weights`."""
    rank = len(weights.shape)
    summed = [axis for axis in range(rank) if axis not in {one % rank for one in channels}]
    step = tf.maximum(tf.reduce_max(tf.abs(weights), summed, keepdims=True), SMALLEST) / arithmetic.weight_levels
    return tf.round(weights / step) * step


def fake_quantize(values: Any, limits: Any, arithmetic: Arithmetic, *, ties_away: bool = False) -> Any:
    """:func:`fake_quantize.fake_quantize_activations`."""
    step, zero = scale_and_zero_point(limits, arithmetic)
    top = 2 ** (arithmetic.activation_bits - 1) - 1
    integers = values / step + zero
    whole = (
        tf.sign(integers) * tf.floor(tf.abs(integers) + ROUND_HALF_UP) if ties_away else tf.round(values / step) + zero
    )
    return (tf.clip_by_value(whole, -top if arithmetic.symmetric else -top - 1, top) - zero) * step


def scale_and_zero_point(limits: Any, arithmetic: Arithmetic) -> tuple[Any, Any]:
    """:func:`fake_quantize.steps`."""
    if arithmetic.symmetric:
        return tf.maximum(tf.reduce_max(tf.abs(limits)), SMALLEST) / (2 ** (arithmetic.activation_bits - 1) - 1), 0.0
    low, high = tf.minimum(limits[0], 0.0), tf.maximum(limits[1], 0.0)
    step = tf.maximum(high - low, SMALLEST) / (2**arithmetic.activation_bits - 1)
    return step, tf.round(-low / step) - 2 ** (arithmetic.activation_bits - 1)


def _round_sums(values: Any, sums: Any) -> Any:
    """Round accumulators to whole steps."""
    return values if sums is None else tf.round(values / sums) * sums


def _extremes(values: Any) -> Any:
    values = tf.cast(values, tf.float32)
    return tf.stack([tf.reduce_min(values), tf.reduce_max(values)])


def _updated_range(kept: Any, seen: Any) -> Any:
    """:func:`fake_quantize.updated_range`; the first batch's extremes if there is no range yet."""
    kept = tf.where(tf.math.is_nan(kept), seen, kept)
    eased = kept + RANGE_DECAY * (seen - kept)
    return tf.stack([tf.minimum(seen[0], eased[0]), tf.maximum(seen[1], eased[1])])


def _called(call: Call, values: list[Any], training: bool) -> list[Any]:
    """Call a layer, in training mode if it has one and the model does not set it."""
    layer = call.layer
    args, kwargs = call.filled(values)
    knows = getattr(layer, "_call_has_training_arg", getattr(layer, "_expects_training_arg", False))
    if knows and kwargs.get("training") is None:
        kwargs = {**kwargs, "training": training}
    return list(tf.nest.flatten(layer(*args, **kwargs)))


def _weights(model: Any, arithmetic: Arithmetic) -> list[tuple[tf.Variable, tuple[int, ...], Arithmetic]]:
    """Return the weights that become integers, each once, with their output axes and arithmetic."""
    found = {}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for name, channels in weights_of(layer):
            variable = getattr(layer, name, None)
            variable = getattr(variable, "value", variable) if not isinstance(variable, tf.Variable) else variable
            if isinstance(variable, tf.Variable):
                deep = -2 in channels  # depthwise, or transposed
                found[id(variable)] = (variable, channels, arithmetic.depthwise if deep else arithmetic)
    return list(found.values())


def _operations(model: Any) -> Iterator[Any]:
    """Yield all layers, and in Keras 3 the functions between them, in the order of the graph."""
    for one in getattr(model, "operations", None) or model.layers:
        yield one
        if is_followable(one):
            yield from _operations(one)
