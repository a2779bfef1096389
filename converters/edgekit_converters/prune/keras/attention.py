"""Track attention heads: the projections of queries, keys and values produce them, the output projection reads them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekit_converters.prune.keras.channels import Ids, TrackedAxis, UngroupedCost
from edgekit_converters.prune.keras.layer_call import LayerCall


def trace_attention(layer_call: LayerCall) -> TrackedAxis | None:
    """Track channels through a MultiHeadAttention; None if the call cannot be followed."""
    layer, tracing = layer_call.layer, layer_call.tracing
    taken = _attention_inputs(layer_call)
    if taken is None:
        return None
    parts = [("query", "_query_dense", 0), ("key", "_key_dense", 1), ("value", "_value_dense", 2)]
    parts += [("gate", "_gate_dense", 0)] if getattr(layer, "_use_gate", False) else []
    heads = tracing.produced(layer, "_query_dense.kernel", 1, "heads")
    for name, part, place in parts:
        tag, shape = taken[place]
        tracing.attach(layer, f"{part}.kernel", 0, "consumes", tag.ids)
        tracing.attach(layer, f"{part}.kernel", 1, "produces", heads)
        _projects(layer_call, (name, part), (tag.ids, _per_head(layer, part, heads)), math.prod(shape[1:-1]), heads)
    tracing.attach(layer, "_output_dense.kernel", 0, "consumes", heads)
    outs = tracing.produced(layer, "_output_dense.kernel", 2, "neurons")
    values = _per_head(layer, "_value_dense", heads)
    tokens, keys = (math.prod(taken[place][1][1:-1]) for place in (0, 1))
    _projects(layer_call, ("attention_output", "_output_dense"), (values, outs), tokens, outs)
    keyed = _per_head(layer, "_query_dense", heads)
    tracing.add_cost(layer, UngroupedCost(layer_call.call.name, "attention", keyed, values, tokens, (keys,)))
    return TrackedAxis(len(layer_call.shape) - 1, outs)


def _per_head(layer: Any, part: str, heads: Ids) -> Ids:
    return np.repeat(heads, int(getattr(layer, part).kernel.shape[2]))


def _projects(layer_call: LayerCall, names: tuple[str, str], sides: tuple[Ids, Ids], tokens: int, biased: Ids) -> None:
    name, part = names
    channel_parameters = 0
    if getattr(layer_call.layer, part).bias is not None:
        layer_call.tracing.attach(layer_call.layer, f"{part}.bias", 0, "produces", biased)
        channel_parameters = 1
    cost = UngroupedCost(
        f"{layer_call.call.name}/{name}", "dense", *sides, tokens, channel_parameters=channel_parameters
    )
    layer_call.tracing.add_cost(layer_call.layer, cost, name)


def _attention_inputs(layer_call: LayerCall) -> list[tuple[TrackedAxis, tuple[int, ...]]] | None:
    """Return the channel axes and shapes of query, key and value; None if the call cannot be followed."""
    args, kwargs = layer_call.call.filled(range(len(layer_call.tags)))
    by_name = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    scores = by_name.get("return_attention_scores") or not isinstance(by_name.get("value"), int)
    by_name["key"] = by_name["value"] if by_name.get("key") is None else by_name["key"]
    places = [by_name[name] for name in ("query", "key", "value")]
    if scores or any(layer_call.tags[place].axis != len(layer_call.shapes[place]) - 1 for place in places):
        return None
    return [(layer_call.tags[place], layer_call.shapes[place]) for place in places]
