"""Trace a Keras 2 or 3 model by the calls of its layers; a SavedModel by the operations of its graph."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from edgekit_converters.frameworks.keras_function import concrete_function
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.trace.steps import Steps, Weights, positions

# layers that apply their kernels once an input position: each time step, or each pixel of a transposed convolution
BY_INPUT = re.compile("LSTM|GRU|RNN|Transpose")
LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed, tf_keras.layers.RNN, tf_keras.layers.TimeDistributed)
WEIGHTLESS = re.compile("Embedding")  # looks up weights and multiplies by none
GRAPH_KERNELS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Conv3D", "Conv2DBackpropInput")
NOT_COMPUTED = ("Const", "Placeholder", "Identity", "NoOp")


def steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Return the result of each innermost layer, named by its path, such as ``backbone/block1/conv``."""
    if not live.handle.layers:
        return _graph_steps(live, inputs)
    recorder = _CallRecorder()
    with recorder.recording():
        live.handle.serve(*[tf.constant(array) for array in inputs])
    return recorder.steps


class _CallRecorder:
    """Records calls of innermost layers, and of layers with weights whose inner layers have none."""

    def __init__(self) -> None:
        self.steps = Steps()
        self._stack: list[Any] = []  # the layers being called, the innermost last
        self._step_of: dict[int, int] = {}  # id of a tensor → index of the step that computed it
        self._alive: list[Any] = []  # tensors, so that no id is reused

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        kinds = (keras.Operation, tf_keras.layers.Layer)
        originals = [kind.__call__ for kind in kinds]
        for kind, original in zip(kinds, originals, strict=True):
            kind.__call__ = self._wrap(original)
        try:
            yield
        finally:
            for kind, original in zip(kinds, originals, strict=True):
                kind.__call__ = original

    def _wrap(self, original: Any) -> Any:
        @functools.wraps(original)
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if self._stack and isinstance(self._stack[-1], LOOPS):
                return original(layer, *args, **kwargs)
            self._stack.append(layer)
            before = len(self.steps.steps)
            try:
                result = original(layer, *args, **kwargs)
            finally:
                name = "/".join(str(one.name) for one in self._stack[1:]) or layer.name  # the first is the model
                self._stack.pop()
            if len(self.steps.steps) > before and self._is_one_step(layer, before):
                self._discard(before)
            if len(self.steps.steps) == before:
                self._add(name, layer, tf.nest.flatten((args, kwargs)), tf.nest.flatten(result))
            return result

        return call

    def _is_one_step(self, layer: Any, before: int) -> bool:
        """Return whether a layer has weights and its inner layers have none, such as a convolution with padding."""
        return bool(getattr(layer, "weights", ())) and not any(one.parameters for one in self.steps.steps[before:])

    def _discard(self, before: int) -> None:
        """Discard the steps inside a layer that is one step itself."""
        self.steps.truncate(before)
        self._step_of = {tensor: place for tensor, place in self._step_of.items() if place < before}

    def _add(self, name: str, layer: Any, arguments: list[Any], results: list[Any]) -> None:
        results = [one for one in results if isinstance(one, tf.Tensor) and hasattr(one, "numpy")]
        arguments = [one for one in arguments if isinstance(one, tf.Tensor) and hasattr(one, "numpy")]
        if not results:
            return
        inputs = [self._step_of[id(one)] for one in arguments if id(one) in self._step_of]
        kind = type(layer).__name__
        weights = _weights(layer, kind, arguments, results)
        place = self.steps.add((name, kind), weights, inputs, results[0].numpy(), [one.numpy() for one in arguments])
        self._step_of |= dict.fromkeys(map(id, results), place)
        self._alive += results


def _weights(layer: Any, kind: str, arguments: list[Any], results: list[Any]) -> Weights:
    weights = list(getattr(layer, "weights", ()))
    parameters = sum(math.prod(weight.shape) for weight in weights)
    if kind == "EinsumDense":
        return Weights(parameters, _einsum_macs(layer, results[0]))
    kernels = sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1)
    applied_to = arguments if BY_INPUT.search(kind) and arguments else results
    times = 0 if WEIGHTLESS.search(kind) else positions(applied_to[0].shape)
    return Weights(parameters, kernels * times)


def _einsum_macs(layer: Any, result: Any) -> int:
    """Return the multiplications: each result is a sum over the dimensions that only kernel and input have."""
    _, kernel, output = re.split(",|->", layer.equation)
    summed = [size for letter, size in zip(kernel, layer.kernel.shape, strict=True) if letter not in output]
    return math.prod(map(int, result.shape)) * math.prod(map(int, summed))


def _graph_steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Trace the operations of a graph with frozen variables; their names are the names of layers."""
    _, serve = concrete_function(live)
    frozen = convert_variables_to_constants_v2(serve)
    operations = [one for one in frozen.graph.get_operations() if one.type not in NOT_COMPUTED and one.outputs]
    fetched = frozen.prune(frozen.inputs, [one.outputs[0] for one in operations])
    arrays = [tensor.numpy() for tensor in fetched(*[tf.constant(array) for array in inputs])]
    found = Steps()
    values = {one.outputs[0].name: array for one, array in zip(operations, arrays, strict=True)}
    values |= {tensor.name: array for tensor, array in zip(frozen.inputs, inputs, strict=True)}
    places: dict[str, int] = {}
    for one, array in zip(operations, arrays, strict=True):
        sources = [_skip_identities(tensor) for tensor in one.inputs]
        before = [places[tensor.name] for tensor in sources if tensor.name in places]
        arrays = [values[tensor.name] for tensor in sources if tensor.name in values]
        weights = _constants(one.type, sources, array)
        name = one.name.replace("StatefulPartitionedCall/", "")
        places[one.outputs[0].name] = found.add((name, one.type), weights, before, array, arrays)
    return found


def _skip_identities(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _constants(kind: str, sources: list[Any], result: np.ndarray) -> Weights:
    shapes = [tuple(one.shape) for one in sources if one.op.type == "Const" and one.dtype.is_floating]
    kernels = sum(math.prod(shape) for shape in shapes if len(shape) > 1) if kind in GRAPH_KERNELS else 0
    return Weights(sum(map(math.prod, shapes)), kernels * positions(result.shape))
