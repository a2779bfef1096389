"""Follow attention: its channels are heads, which projections of queries, keys and values make and another joins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekit_converters.prune.keras.channels import Ids, Tag, Work
from edgekit_converters.prune.keras.layer_call import Seen


def attended(seen: Seen) -> Tag | None:
    """Follow a MultiHeadAttention; None where the call cannot be followed."""
    layer, tracing = seen.layer, seen.tracing
    taken = _attention_inputs(seen)
    if taken is None:
        return None
    parts = [("query", "_query_dense", 0), ("key", "_key_dense", 1), ("value", "_value_dense", 2)]
    parts += [("gate", "_gate_dense", 0)] if getattr(layer, "_use_gate", False) else []
    heads = tracing.made(layer, "_query_dense.kernel", 1, "heads")
    for name, part, place in parts:
        tag, shape = taken[place]
        tracing.lie(layer, f"{part}.kernel", 0, "uses", tag.ids)
        tracing.lie(layer, f"{part}.kernel", 1, "makes", heads)
        _projects(seen, (name, part), (tag.ids, _per_head(layer, part, heads)), math.prod(shape[1:-1]), heads)
    tracing.lie(layer, "_output_dense.kernel", 0, "uses", heads)
    outs = tracing.made(layer, "_output_dense.kernel", 2, "neurons")
    values = _per_head(layer, "_value_dense", heads)
    tokens, keys = (math.prod(taken[place][1][1:-1]) for place in (0, 1))
    _projects(seen, ("attention_output", "_output_dense"), (values, outs), tokens, outs)
    keyed = _per_head(layer, "_query_dense", heads)
    tracing.works_at(layer, Work(seen.call.name, "attention", keyed, values, tokens, (keys,)))
    return Tag(len(seen.shape) - 1, outs)


def _per_head(layer: Any, part: str, heads: Ids) -> Ids:
    return np.repeat(heads, int(getattr(layer, part).kernel.shape[2]))


def _projects(seen: Seen, names: tuple[str, str], sides: tuple[Ids, Ids], tokens: int, biased: Ids) -> None:
    name, part = names
    extras = 0
    if getattr(seen.layer, part).bias is not None:
        seen.tracing.lie(seen.layer, f"{part}.bias", 0, "makes", biased)
        extras = 1
    work = Work(f"{seen.call.name}/{name}", "dense", *sides, tokens, extras=extras)
    seen.tracing.works_at(seen.layer, work, name)


def _attention_inputs(seen: Seen) -> list[tuple[Tag, tuple[int, ...]]] | None:
    """Return tags and shapes of query, key and value; None where the call cannot be followed."""
    args, kwargs = seen.call.filled(range(len(seen.tags)))
    by_name = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    scores = by_name.get("return_attention_scores") or not isinstance(by_name.get("value"), int)
    by_name["key"] = by_name["value"] if by_name.get("key") is None else by_name["key"]
    places = [by_name[name] for name in ("query", "key", "value")]
    if scores or any(seen.tags[place].axis != len(seen.shapes[place]) - 1 for place in places):
        return None
    return [(seen.tags[place], seen.shapes[place]) for place in places]
