"""Fake quantization of Keras models of both generations: their layers are called one by one, with rounding between.

What a layer gives is not rounded by it, but by whatever takes it: only then is known whether that is a normalization
or an activation that becomes part of the layer.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from edgekit_converters.data.samples import Array
from edgekit_converters.load import Arrays, Live, in_batches
from edgekit_converters.prune.keras_graph import Call, is_followable, walk
from edgekit_converters.train import Settings
from edgekit_converters.train.fake_quantize import ARITHMETICS, FORGOTTEN, RANGES, SMALLEST, Arithmetic, Role, swallows

# class of layers: ((a weight's name, its axes of outputs), ...)
WEIGHTS: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D"), (("kernel", (-1,)),)),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), (("kernel", (-2,)),)),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), (("depthwise_kernel", (-2, -1)), ("kernel", (-2, -1)))),
    **dict.fromkeys(
        ("SeparableConv1D", "SeparableConv2D"), (("depthwise_kernel", (-2, -1)), ("pointwise_kernel", (-1,)))
    ),
}
Mode = Literal["train", "use", "observe"]
RELUS = ("relu", "relu6")
ROLES = {
    **dict.fromkeys((*WEIGHTS, "EinsumDense"), Role.LAYER),
    "BatchNormalization": Role.NORM,
    **dict.fromkeys(("Relu", "Relu6"), Role.RELU),
    **dict.fromkeys(("Softmax", "LogSoftmax"), Role.FLOAT),
    **dict.fromkeys(("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "ZeroPadding1D", "ZeroPadding2D"), Role.KEEPS),
    **dict.fromkeys(("GlobalMaxPooling1D", "GlobalMaxPooling2D", "Cropping1D", "Cropping2D", "Pad"), Role.KEEPS),
    **dict.fromkeys(("Flatten", "Reshape", "Permute", "Transpose", "RepeatVector", "Squeeze"), Role.KEEPS),
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "Identity"), Role.KEEPS),
    **dict.fromkeys(("ExpandDims", "StridedSlice", "SlicingOpLambda", "GetItem", "Split", "Stack"), Role.KEEPS),
}


@dataclass
class Given:
    """A tensor that nothing has taken yet; without a point it is on its way rounded, or no floating point."""

    tensor: Any
    role: Role
    point: str | None  # where in the model it is made
    rounded: Any = None


def fake_quantized(live: Live, settings: Settings) -> KerasFakeQuantize | None:
    """Return what imitates the arithmetic that the settings ask for, where they do."""
    scheme = settings.quantize_aware
    return KerasFakeQuantize(live, ARITHMETICS[scheme]) if scheme else None


class KerasFakeQuantize:
    """Calls a model as its quantized artifact would compute; its weights stay as they are.

    Args:
        live: of a subclassed model, whose calls are not known, only the weights are rounded.
        arithmetic: of the scheme.
    """

    def __init__(self, live: Live, arithmetic: Arithmetic) -> None:
        model = live.handle.model
        self._model, self._arithmetic = model, arithmetic
        self._ranges: dict[str, tf.Variable] = {}  # point: (low, high); NaN: none yet
        self._weights = _weights(model)
        self._followed = is_followable(model)
        # names are counted on from model to model in a process; the place among all layers stays what it is
        self._places = {id(one): str(place) for place, one in enumerate(_operations(model))} if self._followed else {}
        apart = bool(arithmetic.activation_bits) and not self._followed
        self.notes = ("of a subclassed model weights are rounded, activations are not",) * apart
        self._compiled = tf.function(self._evaluated, reduce_retracing=True)
        self._run = in_batches(self._evaluate) if self.follows else live.run
        self._mode: Mode = "use"

    def run(self, batch: Arrays) -> Arrays:
        """What the artifact would give; the first batch gives the ranges of activations."""
        if self.follows and not self._ranges:
            self._mode = "observe"
            self._run(batch)
            self._mode = "use"
        with self.rounded_weights() if not self.follows else contextlib.nullcontext():
            return self._run(batch)

    def _evaluate(self, batch: Arrays) -> Arrays:
        return [one.numpy() for one in self._compiled([tf.constant(one) for one in batch], self._mode)]

    def _evaluated(self, tensors: list[Any], mode: Mode) -> list[Any]:
        with self.rounded_weights() if mode == "use" else contextlib.nullcontext():
            return self.call(self._model, tensors, mode)

    def call(self, model: Any, tensors: list[Any], mode: Mode) -> list[Any]:
        """Return a model's outputs, with activations rounded; weights are what they are.

        Args:
            model: of the layers of the one it was made for.
            tensors: one an input.
            mode: "train" widens the ranges of activations as training mode does statistics; "use" takes what there is;
                "observe" widens and does not round, as calibration.
        """
        calls: Counter[str] = Counter()

        def visit(call: Call, values: list[Any]) -> list[Any]:
            place = self._places.get(id(call.layer), call.name)
            calls[place] += 1
            role, point = _role(call), f"{place}:{calls[place]}"
            taken = [one.tensor if swallows(role, one.role) else self._taken(one, mode) for one in values]
            with self._inner(call, point, mode) as inner:
                given = _called(call, taken, mode == "train")
            role = inner or role
            rests = role in (Role.KEEPS, Role.FLOAT)
            return [
                Given(one, role, None if rests or not one.dtype.is_floating else f"{point}/{number}")
                for number, one in enumerate(given)
            ]

        begun = [
            Given(one, Role.INPUT, f"input/{place}" if one.dtype.is_floating else None)
            for place, one in enumerate(tensors)
        ]
        return [self._taken(one, mode) for one in walk(model, begun, visit)]

    @property
    def follows(self) -> bool:
        """Whether there is anything between the layers to round."""
        return self._followed and bool(self._arithmetic.activation_bits)

    @contextlib.contextmanager
    def rounded_weights(self) -> Iterator[None]:
        """Have the model's variables rounded meanwhile: gradients are then of the rounded, for the others.

        Inside a ``tf.function`` it becomes part of what is compiled.
        """
        kept = [tf.identity(variable) for variable, _ in self._weights]
        for (variable, channels), whole in zip(self._weights, kept, strict=True):
            variable.assign(rounded_weights(whole, channels, self._arithmetic))
        try:
            yield
        finally:
            for (variable, _), whole in zip(self._weights, kept, strict=True):
                variable.assign(whole)

    def state(self) -> dict[str, Array]:
        """The ranges by their points."""
        return {f"{RANGES}{point}": kept.numpy() for point, kept in self._ranges.items()}

    def restore(self, state: dict[str, Array]) -> dict[str, Array]:
        """Take over ranges, forget all others, and return the rest of a state."""
        found = {name.removeprefix(RANGES): array for name, array in state.items() if name.startswith(RANGES)}
        for point in {*self._ranges, *found}:
            self._range(point).assign(found.get(point, np.full(2, np.nan, np.float32)))
        return {name: array for name, array in state.items() if not name.startswith(RANGES)}

    def _taken(self, given: Given, mode: Mode) -> Any:
        """A tensor as others take it."""
        if given.point is None or not self._arithmetic.activation_bits:
            return given.tensor
        if given.rounded is None:
            given.rounded = self._rounded(given.tensor, given.point, mode)
        return given.rounded

    def _rounded(self, tensor: Any, point: str, mode: Mode) -> Any:
        values, kept = tf.cast(tensor, tf.float32), self._range(point)
        if mode != "use":
            seen = tf.stack([tf.reduce_min(values), tf.reduce_max(values)])
            kept.assign(_widened(kept, seen))
        if mode == "observe":
            return tensor
        rounded = tf.cast(spread(values, kept, self._arithmetic), tensor.dtype)
        return tensor + tf.stop_gradient(rounded - tensor)

    def _range(self, point: str) -> tf.Variable:
        if point not in self._ranges:
            with tf.init_scope():  # also where a function is being compiled
                self._ranges[point] = tf.Variable(np.full(2, np.nan, np.float32), trainable=False)
        return self._ranges[point]

    @contextlib.contextmanager
    def _inner(self, call: Call, point: str, mode: Mode) -> Iterator[Role | None]:
        """Have the sums of a layer rounded before its own activation, where that is an operator of its own.

        Yields:
            What the layer then ends with, where it is no longer what its class says.
        """
        layer = call.layer
        function: Any = getattr(layer, "activation", None)
        apart = _role(call) is Role.LAYER and inspect.isfunction(function)
        if not apart or function.__name__ in ("linear", *RELUS):
            yield None
            return
        layer.activation = self._after_rounding(function, f"{point}/sum", mode)
        try:
            yield Role.FLOAT if function.__name__ == "softmax" else Role.OTHER
        finally:
            layer.activation = function

    def _after_rounding(self, function: Callable[..., Any], point: str, mode: Mode) -> Callable[..., Any]:
        return lambda sums: function(self._taken(Given(sums, Role.LAYER, point), mode))


def rounded_weights(weights: Any, channels: tuple[int, ...], arithmetic: Arithmetic) -> Any:
    """:func:`fake_quantize.rounded_weights`."""
    rank = len(weights.shape)
    summed = [axis for axis in range(rank) if axis not in {one % rank for one in channels}]
    step = tf.maximum(tf.reduce_max(tf.abs(weights), summed, keepdims=True), SMALLEST) / arithmetic.weight_levels
    return tf.round(weights / step) * step


def spread(values: Any, ends: Any, arithmetic: Arithmetic) -> Any:
    """:func:`fake_quantize.rounded_activations`."""
    if arithmetic.symmetric:
        top = 2 ** (arithmetic.activation_bits - 1) - 1
        step = tf.maximum(tf.reduce_max(tf.abs(ends)), SMALLEST) / top
        return tf.clip_by_value(tf.round(values / step), -top, top) * step
    top = 2**arithmetic.activation_bits - 1
    low, high = tf.minimum(ends[0], 0.0), tf.maximum(ends[1], 0.0)
    step = tf.maximum(high - low, SMALLEST) / top
    zero = tf.round(-low / step)
    return (tf.clip_by_value(tf.round(values / step) + zero, 0, top) - zero) * step


def _widened(kept: Any, seen: Any) -> Any:
    """:func:`fake_quantize.widened`; the first batch's extremes where nothing was seen before."""
    kept = tf.where(tf.math.is_nan(kept), seen, kept)
    eased = kept + FORGOTTEN * (seen - kept)
    return tf.stack([tf.minimum(seen[0], eased[0]), tf.maximum(seen[1], eased[1])])


def _role(call: Call) -> Role:
    """Tell what a call is; the layers ``Activation`` and ``ReLU`` by what they compute."""
    layer, kind = call.layer, call.kind
    if kind == "Activation":
        kind = getattr(layer.activation, "__name__", "").capitalize()
    if kind == "ReLU":
        plain = not layer.negative_slope and not layer.threshold and layer.max_value in (None, 6)
        return Role.RELU if plain else Role.OTHER
    return ROLES.get(kind, Role.OTHER)


def _called(call: Call, values: list[Any], training: bool) -> list[Any]:
    """Call a layer, in training mode where it has one and its model does not say otherwise."""
    layer = call.layer
    args, kwargs = call.filled(values)
    knows = getattr(layer, "_call_has_training_arg", getattr(layer, "_expects_training_arg", False))
    if knows and kwargs.get("training") is None:
        kwargs = {**kwargs, "training": training}
    return list(tf.nest.flatten(layer(*args, **kwargs)))


def _weights(model: Any) -> list[tuple[tf.Variable, tuple[int, ...]]]:
    """The weights that become integers, each once, with their axes of outputs."""
    found = {}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        for name, channels in _named(layer):
            variable = getattr(layer, name, None)
            variable = getattr(variable, "value", variable) if not isinstance(variable, tf.Variable) else variable
            if isinstance(variable, tf.Variable):
                found[id(variable)] = (variable, channels)
    return list(found.values())


def _operations(model: Any) -> Iterator[Any]:
    """All layers, and in Keras 3 the functions called between them, in the order of the graph."""
    for one in getattr(model, "operations", None) or model.layers:
        yield one
        if is_followable(one):
            yield from _operations(one)


def _named(layer: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """A layer's weights by name; those of an einsum have outputs on the axes that its result still has."""
    if type(layer).__name__ == "EinsumDense":
        _, _, rest = layer.equation.partition(",")
        kernel, _, result = rest.partition("->")
        return (("kernel", tuple(axis for axis, letter in enumerate(kernel) if letter in result)),)
    return next((WEIGHTS[kind.__name__] for kind in type(layer).__mro__ if kind.__name__ in WEIGHTS), ())
