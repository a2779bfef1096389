"""Analyze a Keras model: call its layers one by one on one sample, and sort its channels into groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit_converters.frameworks.keras_graph import Call, is_followable, walk
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load.keras_model import keras_errors
from edgekit_converters.prune import Channels, Group, LayerCost, PruningGraph
from edgekit_converters.prune.keras.channels import Ids, Tracing, TrackedAxis, WeightAxis
from edgekit_converters.prune.keras.layer_call import LayerCall
from edgekit_converters.prune.keras.propagation_rules import propagate
from edgekit_converters.prune.residual_branches import (
    GraphNode,
    RemovableBranch,
    ResidualPath,
    branch_name,
    find_branches,
    removable_paths,
)
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import SourceError

SAME_DB = 60.0  # least signal-to-noise ratio of calling the layers one by one against calling the model
# names of the layers inside MultiHeadAttention, by the attribute that holds them
ATTENTION_PARTS = {
    "_query_dense": "query",
    "_key_dense": "key",
    "_value_dense": "value",
    "_gate_dense": "gate",
    "_output_dense": "attention_output",
}


@dataclass(frozen=True)
class _TracedTensor:
    """A tensor, its channel axis, and the index of the node that computed it."""

    tensor: Any
    tag: TrackedAxis
    step: int


@dataclass(frozen=True)
class ChannelAnalysis:
    """The channel groups of a model, with its own layer objects."""

    graph: PruningGraph
    tracing: Tracing
    channels: dict[str, Ids]  # group: the id that represents each of its channels, (width,)

    def name(self, weight_axis: WeightAxis) -> str:
        """Return the name of the layer of a weight, as ``edgekit layers`` shows it."""
        name = self.tracing.names[id(weight_axis.layer)]
        return f"{name}/{ATTENTION_PARTS[weight_axis.weight.split('.')[0]]}" if "." in weight_axis.weight else name


def analyze_model(live: LoadedModel) -> ChannelAnalysis:
    """Find the channel groups of a model, and the cost of each layer.

    Raises:
        SourceError: its layers' calls cannot be followed, or no channels are left to cut; the message says why.
    """
    model = live.handle.model
    if model is None or not is_followable(model):
        raise SourceError(_not_followable(model))
    tracing = _trace(live)
    channels = _groups(tracing)
    graph = PruningGraph((), (), (), sum(math.prod(weight.shape) for weight in model.weights))
    found = ChannelAnalysis(graph, tracing, channels)
    graph = PruningGraph(_describe(found), _layer_costs(found), _unprunable_layers(found), graph.parameters)
    if not any(is_followable(layer) for layer in model.layers):  # branches in nested models are not removed
        graph = replace(graph, branches=find_branches(graph, [operand for _, operand in removable_branches(found)]))
    if not channels:
        reasons = (
            "\n".join(f"  {layer}: {why}" for layer, why in graph.unprunable[:8])
            or "  it has no layers that can be cut"
        )
        raise SourceError(f"{model.name}: no layer of the model can be pruned:\n{reasons}")
    return ChannelAnalysis(graph, tracing, channels)


def _not_followable(model: Any) -> str:
    if model is None:
        return (
            "a SavedModel has operations but no layers, so it cannot be cut; "
            "give the .keras or .h5 file, or FILE.py:function, which builds the model"
        )
    return (
        f"{model.name}: {type(model).__name__} is a subclassed model, whose layers are called by its own code; "
        f"pruning needs a Functional or Sequential one: build it as keras.Model(inputs, outputs) "
        f"in a FILE.py:function"
    )


def _trace(live: LoadedModel) -> Tracing:
    """Call the layers one by one on a random sample, and check that the result equals that of the model."""
    tracing = Tracing()
    generator = np.random.default_rng(0)
    arrays = [generator.random(spec.shape).astype(spec.dtype) for spec in live.inputs]

    def visit(call: Call, values: list[Any]) -> list[Any]:
        given = call.run([value.tensor for value in values])
        place = len(tracing.steps)
        tracing.steps.append(_step(call, values, given))
        tracing.names.setdefault(id(call.layer), call.name)
        tags, shapes = tuple(value.tag for value in values), tuple(tuple(value.tensor.shape) for value in values)
        return [
            _TracedTensor(tensor, propagate(LayerCall(call, tags, shapes, tuple(tensor.shape), tracing)), place)
            for tensor in given
        ]

    why = "its output is joined with an input of the model"
    entries = [
        _TracedTensor(
            tf.constant(array), TrackedAxis(array.ndim - 1, tracing.partition.whole(array.shape[-1], why)), place
        )
        for place, array in enumerate(arrays)
    ]
    tracing.steps += [GraphNode(spec.name, (), spec.shape) for spec in live.inputs]
    model = live.handle.model
    with keras_errors(SourceRequest("keras", Path(model.name)), "the model's layers cannot be called one by one"):
        results = walk(model, entries, visit)
        expected = live.handle.serve(*[tf.constant(array) for array in arrays])
    tracing.outputs = tuple(result.step for result in results)
    for result, wanted in zip(results, expected, strict=True):
        tracing.partition.keep(result.tag.ids, "its output is an output of the model")
        if not _same(result.tensor, wanted):
            raise SourceError(
                f"{model.name}: calling its layers one by one computes something else than the model, so "
                f"its channels cannot be traced; pruning needs a Functional or Sequential model"
            )
    return tracing


def _same(tensor: Any, wanted: Any) -> bool:
    value, reference = (np.asarray(one, dtype=np.float64) for one in (tensor, wanted))
    return bool(np.sum((value - reference) ** 2) <= 10 ** (-SAME_DB / 10) * np.sum(reference**2))


def _groups(tracing: Tracing) -> dict[str, Ids]:
    """Sort channels into groups: the channels of a group are on the same axes, equally often on each."""
    partition = tracing.partition
    axis_counts: dict[int, list[tuple[int, int]]] = {}
    for place, weight_axis in enumerate(tracing.weight_axes.values()):
        for root, count in zip(*np.unique(partition.roots(weight_axis.ids), return_counts=True), strict=True):
            if root not in partition.held:
                axis_counts.setdefault(int(root), []).append((place, int(count)))
    groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for root in sorted(axis_counts):
        groups.setdefault(tuple(axis_counts[root]), []).append(root)
    weight_axes = list(tracing.weight_axes.values())
    branch_name: dict[str, Ids] = {}
    for signature, roots in groups.items():
        producers = [weight_axes[place] for place, _ in signature if weight_axes[place].role == "produces"]
        if len(roots) == 1 or not producers:
            partition.keep(np.array(roots), "it has a single channel")
            continue
        name = tracing.names[id(producers[0].layer)]
        if producers[0].weight.startswith("_output_dense"):
            name = f"{name}/{ATTENTION_PARTS['_output_dense']}"
        number = sum(other.rpartition(":")[0] == name or other == name for other in branch_name)
        branch_name[f"{name}:{number + 1}" if number else name] = np.array(roots)
    return branch_name


def _step(call: Call, values: list[_TracedTensor], given: list[Any]) -> GraphNode:
    """Return a call as a node; an Add with one tensor and a constant is not an addition of two tensors."""
    shape = tuple(given[0].shape) if len(given) == 1 else ()
    return GraphNode(call.name, tuple(value.step for value in values), shape, is_addition=call.kind == "Add")


def removable_branches(found: ChannelAnalysis) -> Iterator[tuple[ResidualPath, RemovableBranch]]:
    """Yield the operands of additions that can be removed with layers that are called only there."""
    steps = found.tracing.steps
    times = Counter(step.name for step in steps)
    paths = list(removable_paths(steps, found.tracing.outputs))
    for one in paths:
        inside = Counter(steps[place].name for place in one.nodes)
        addition = steps[one.index]
        if all(times[name] == count for name, count in {**inside, addition.name: 1}.items()):
            yield one, RemovableBranch(branch_name(addition.name, one, paths), str(addition.shape), frozenset(inside))


def _describe(found: ChannelAnalysis) -> tuple[Group, ...]:
    described = []
    for name, roots in found.channels.items():
        matching = [
            weight_axis
            for weight_axis in found.tracing.weight_axes.values()
            if _holds_channels(found.tracing, weight_axis, roots)
        ]
        sides = [
            tuple(dict.fromkeys(found.name(weight_axis) for weight_axis in matching if weight_axis.role == role))
            for role in ("produces", "consumes")
        ]
        described.append(Group(name, found.tracing.kinds.get(int(roots[0]), "channels"), len(roots), *sides))
    return tuple(described)


def _holds_channels(tracing: Tracing, weight_axis: WeightAxis, roots: Ids) -> bool:
    return bool(np.isin(roots[0], tracing.partition.roots(weight_axis.ids)))


def _layer_costs(found: ChannelAnalysis) -> tuple[LayerCost, ...]:
    group_of = {int(root): name for name, roots in found.channels.items() for root in roots}
    widths = {name: len(roots) for name, roots in found.channels.items()}

    def channels(ids: Ids) -> Channels:
        counts: dict[str, int] = {}
        for root in found.tracing.partition.roots(ids).tolist():
            counts[group_of.get(root, "")] = counts.get(group_of.get(root, ""), 0) + 1
        fixed = counts.pop("", 0)
        return Channels(fixed, tuple((name, count // widths[name]) for name, count in counts.items()))

    return tuple(
        LayerCost(**(vars(cost) | {"ins": channels(cost.ins), "outs": channels(cost.outs)}))
        for cost in found.tracing.costs.values()
    )


def _unprunable_layers(found: ChannelAnalysis) -> tuple[tuple[str, str], ...]:
    """Return the layers that are not cut, each with the reason; includes layers of unknown kinds."""
    tracing = found.tracing
    reasons = dict(tracing.unsupported)
    for weight_axis in tracing.weight_axes.values():
        roots = tracing.partition.roots(weight_axis.ids).tolist()
        if weight_axis.role == "produces" and all(root in tracing.partition.held for root in roots):
            reasons.setdefault(found.name(weight_axis), tracing.partition.held[roots[0]])
    return tuple(reasons.items())
