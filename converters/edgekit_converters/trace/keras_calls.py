"""Trace a Keras model of either generation by its layers' calls; a SavedModel by the operations of its graph."""

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
from edgekit_converters.frameworks.live_model import Arrays, LoadedModel
from edgekit_converters.trace.steps import Steps, Weights, positions

# whose kernels are applied once an input position: each time step, each pixel that is spread
BY_INPUT = re.compile("LSTM|GRU|RNN|Transpose")
LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed, tf_keras.layers.RNN, tf_keras.layers.TimeDistributed)
WEIGHTLESS = re.compile("Embedding")  # looks weights up, multiplies by none
GRAPH_KERNELS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Conv3D", "Conv2DBackpropInput")
STRUCTURE = ("Const", "Placeholder", "Identity", "NoOp")


def steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Return what each innermost layer gives, under its path of names, such as ``backbone/block1/conv``."""
    if not live.handle.layers:
        return _graph_steps(live, inputs)
    calls = _Calls()
    with calls.recorded():
        live.handle.serve(*[tf.constant(array) for array in inputs])
    return calls.steps


class _Calls:
    """Notes every call of a layer in which no other layer was noted, or none with weights where it has some itself."""

    def __init__(self) -> None:
        self.steps = Steps()
        self._stack: list[Any] = []  # the layers being called, the innermost last
        self._makers: dict[int, int] = {}  # id of a tensor → place of the step that made it
        self._kept: list[Any] = []  # so that no id is given twice

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        kinds = (keras.Operation, tf_keras.layers.Layer)
        originals = [kind.__call__ for kind in kinds]
        for kind, original in zip(kinds, originals, strict=True):
            kind.__call__ = self._noting(original)
        try:
            yield
        finally:
            for kind, original in zip(kinds, originals, strict=True):
                kind.__call__ = original

    def _noting(self, original: Any) -> Any:
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
            if len(self.steps.steps) > before and self._computes_itself(layer, before):
                self._forget(before)
            if len(self.steps.steps) == before:
                self._note(name, layer, tf.nest.flatten((args, kwargs)), tf.nest.flatten(result))
            return result

        return call

    def _computes_itself(self, layer: Any, before: int) -> bool:
        """Tell a layer with weights that nothing called in it has, such as a convolution that pads what it takes."""
        return bool(getattr(layer, "weights", ())) and not any(one.parameters for one in self.steps.steps[before:])

    def _forget(self, before: int) -> None:
        """Take back what was noted in a layer that is one step itself."""
        self.steps.drop(before)
        self._makers = {tensor: place for tensor, place in self._makers.items() if place < before}

    def _note(self, name: str, layer: Any, taken: list[Any], given: list[Any]) -> None:
        given = [one for one in given if isinstance(one, tf.Tensor) and hasattr(one, "numpy")]
        taken = [one for one in taken if isinstance(one, tf.Tensor) and hasattr(one, "numpy")]
        if not given:
            return
        takes = [self._makers[id(one)] for one in taken if id(one) in self._makers]
        kind = type(layer).__name__
        weights = _weights(layer, kind, taken, given)
        place = self.steps.add((name, kind), weights, takes, given[0].numpy(), [one.numpy() for one in taken])
        self._makers |= dict.fromkeys(map(id, given), place)
        self._kept += given


def _weights(layer: Any, kind: str, taken: list[Any], given: list[Any]) -> Weights:
    weights = list(getattr(layer, "weights", ()))
    parameters = sum(math.prod(weight.shape) for weight in weights)
    if kind == "EinsumDense":
        return Weights(parameters, _einsum_macs(layer, given[0]))
    kernels = sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1)
    times = 0 if WEIGHTLESS.search(kind) else positions((taken if BY_INPUT.search(kind) and taken else given)[0].shape)
    return Weights(parameters, kernels * times)


def _einsum_macs(layer: Any, result: Any) -> int:
    """Every value of the result is a sum over the dimensions that only the kernel and the input have."""
    _, kernel, output = re.split(",|->", layer.equation)
    summed = [size for letter, size in zip(kernel, layer.kernel.shape, strict=True) if letter not in output]
    return math.prod(map(int, result.shape)) * math.prod(map(int, summed))


def _graph_steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Trace the operations of a graph whose variables were frozen; their names are the layers'."""
    _, serve = concrete_function(live)
    frozen = convert_variables_to_constants_v2(serve)
    operations = [one for one in frozen.graph.get_operations() if one.type not in STRUCTURE and one.outputs]
    fetched = frozen.prune(frozen.inputs, [one.outputs[0] for one in operations])
    arrays = [tensor.numpy() for tensor in fetched(*[tf.constant(array) for array in inputs])]
    found = Steps()
    given = {one.outputs[0].name: array for one, array in zip(operations, arrays, strict=True)}
    given |= {tensor.name: array for tensor, array in zip(frozen.inputs, inputs, strict=True)}
    places: dict[str, int] = {}
    for one, array in zip(operations, arrays, strict=True):
        sources = [_behind_identities(tensor) for tensor in one.inputs]
        takes = [places[tensor.name] for tensor in sources if tensor.name in places]
        taken = [given[tensor.name] for tensor in sources if tensor.name in given]
        weights = _constants(one.type, sources, array)
        name = one.name.replace("StatefulPartitionedCall/", "")
        places[one.outputs[0].name] = found.add((name, one.type), weights, takes, array, taken)
    return found


def _behind_identities(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _constants(kind: str, sources: list[Any], result: np.ndarray) -> Weights:
    shapes = [tuple(one.shape) for one in sources if one.op.type == "Const" and one.dtype.is_floating]
    kernels = sum(math.prod(shape) for shape in shapes if len(shape) > 1) if kind in GRAPH_KERNELS else 0
    return Weights(sum(map(math.prod, shapes)), kernels * positions(result.shape))
