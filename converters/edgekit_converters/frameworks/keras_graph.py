"""Walk the calls of a Keras model's layers, of either generation, in an order in which each finds what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

SEQUENTIAL = (keras.Sequential, tf_keras.Sequential)
INPUT_LAYERS = (keras.layers.InputLayer, tf_keras.layers.InputLayer)
LAMBDAS = ("TFOpLambda", "SlicingOpLambda")  # how tf_keras calls TensorFlow functions in a graph

Visit = Callable[["Call", list[Any]], list[Any]]


@dataclass(frozen=True)
class Call:
    """One call of an innermost layer.

    ``name`` is the layer's path of names, such as ``backbone/block1/conv``, the one of ``edgekit layers``.
    """

    name: str
    layer: Any
    arguments: tuple[Any, Any]  # args and kwargs, with the graph's own tensors
    takes: tuple[int, ...]  # ids of those among them, in order

    @property
    def kind(self) -> str:
        """Name what is computed: the layer's class, or in CamelCase the function that tf_keras calls.

        A class that is not the framework's own has a name no rule is known for, whatever it is called.
        """
        kind = type(self.layer).__name__
        if kind in LAMBDAS:
            function = str(self.layer.get_config()["function"]).rpartition(".")[2]
            return "".join(part.capitalize() for part in function.split("_"))
        return kind if is_own(type(self.layer)) else f"custom {kind}"

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Call the layer on other tensors than the graph's, and return a flat list of what it gives."""
        if isinstance(self.layer, INPUT_LAYERS):
            return list(values)
        args, kwargs = self.filled(values)
        return list(tf.nest.flatten(self.layer(*args, **kwargs)))

    def filled(self, values: Sequence[Any]) -> tuple[Any, Any]:
        """Return its arguments with ``values`` in the places of the graph's tensors."""
        rest = dict(zip(self.takes, values, strict=True))
        return tuple(tf.nest.map_structure(lambda leaf: rest.get(id(leaf), leaf), self.arguments))

    @property
    def constants(self) -> list[Any]:
        """Arrays among its arguments that are no tensors of the graph."""
        leaves = [leaf for leaf in tf.nest.flatten(self.arguments) if id(leaf) not in self.takes]
        return [leaf for leaf in leaves if np.ndim(leaf) > 0]


def is_own(kind: type) -> bool:
    """Tell whether a class is the framework's, and not a user's."""
    return kind.__module__.split(".")[0] in ("keras", "tf_keras")


def is_followable(model: Any) -> bool:
    """Tell whether a layer is a model whose calls are known: Functional or Sequential, not subclassed."""
    return isinstance(model, SEQUENTIAL) or hasattr(model, "_nodes_by_depth")


def layers_of(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every innermost layer with its path of names; a shared one once for each of its paths."""
    for layer in model.layers:
        name = f"{prefix}{layer.name}"
        if is_followable(layer):
            yield from layers_of(layer, f"{name}/")
        else:
            yield name, layer


def walk(model: Any, values: Sequence[Any], visit: Visit, prefix: str = "") -> list[Any]:
    """Have ``visit`` turn what each call takes into what it gives, and return what becomes of the outputs.

    Args:
        model: Functional or Sequential; nested models of these kinds are walked, too.
        values: one an input, of any kind but lists, tuples and dictionaries.
        visit: is given a call, and a value for each tensor it takes.
        prefix: of the layers' names.
    """
    if isinstance(model, SEQUENTIAL):
        return _walk_sequence(model, values, visit, prefix)
    known = {id(tensor): value for tensor, value in zip(model.inputs, values, strict=True)}
    nodes = list(_nodes(model))
    last = {id(leaf): place for place, node in enumerate(nodes) for leaf in tf.nest.flatten(_arguments(node))}
    last |= dict.fromkeys(map(id, model.outputs), len(nodes))
    for place, node in enumerate(nodes):
        layer, arguments = _layer(node), _arguments(node)
        takes = tuple(id(leaf) for leaf in tf.nest.flatten(arguments) if id(leaf) in known)
        given = _give(Call(f"{prefix}{layer.name}", layer, arguments, takes), [known[one] for one in takes], visit)
        known |= {id(tensor): value for tensor, value in zip(tf.nest.flatten(node.outputs), given, strict=True)}
        for tensor in set(takes):
            if last[tensor] == place:  # nobody takes it any more
                del known[tensor]
    return [known[id(tensor)] for tensor in model.outputs]


def _walk_sequence(model: Any, values: Sequence[Any], visit: Visit, prefix: str) -> list[Any]:
    for layer in model.layers:
        if not isinstance(layer, INPUT_LAYERS):
            values = _give(_call_of_one(f"{prefix}{layer.name}", layer), list(values), visit)
    return list(values)


def _call_of_one(name: str, layer: Any) -> Call:
    place = object()
    return Call(name, layer, ((place,), {}), (id(place),))


def _give(call: Call, values: list[Any], visit: Visit) -> list[Any]:
    if not is_followable(call.layer):
        return visit(call, values)
    inputs = [tensor._keras_history[0] for tensor in getattr(call.layer, "inputs", None) or []]
    if inputs:
        entries = [_call_of_one(f"{call.name}/{layer.name}", layer) for layer in inputs]
        values = [visit(entry, [value])[0] for entry, value in zip(entries, values, strict=True)]
    return walk(call.layer, values, visit, f"{call.name}/")


def _nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes of a graph, in the same order for each model of one architecture."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        nodes = [node for node in model._nodes_by_depth[depth] if not node.is_input]
        yield from sorted(nodes, key=lambda node: (_layer(node).name, _layer(node)._inbound_nodes.index(node)))


def _layer(node: Any) -> Any:
    return getattr(node, "operation", None) or node.layer


def _arguments(node: Any) -> tuple[Any, Any]:
    if hasattr(node, "arguments"):  # Keras 3
        return node.arguments.args, node.arguments.kwargs
    return node.call_args, node.call_kwargs
