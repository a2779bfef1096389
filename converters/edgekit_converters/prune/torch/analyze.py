"""The cost of each layer of a PyTorch module as a function of the kept channels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx, nn

from edgekit_converters.prune import Channels, LayerCost, PruningGraph
from edgekit_converters.prune.torch.channel_groups import ChannelGroups
from edgekit_converters.prune.torch.channels import ChannelMap, operator, owner
from edgekit_converters.prune.torch.union_find import Ids

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
Conv = nn.modules.conv._ConvNd


def pruning_graph(model: nn.Module, channel_groups: ChannelGroups) -> PruningGraph:
    """Return the channel groups of a module and the cost of each layer."""
    parameters = sum(one.numel() for one in model.parameters())
    groups = tuple(group.info for group in channel_groups.groups)
    return PruningGraph(groups, tuple(_layer_costs(channel_groups)), channel_groups.unprunable, parameters)


def _layer_costs(channel_groups: ChannelGroups) -> Iterator[LayerCost]:
    """Yield the costs of layers in the order of execution, then of parameters that multiply nothing."""
    found: dict[str, LayerCost] = {}
    for node in channel_groups.channel_map.program.graph.nodes:
        layer_cost = _layer_cost(channel_groups, node) if node.op == "call_function" else None
        if layer_cost is None:
            continue
        name = layer_cost.layer
        if layer_cost.operator != "attention" and name in found:  # a layer that runs again
            found[name] = replace(found[name], positions=found[name].positions + layer_cost.positions)
        else:
            found[name if name not in found else f"{name} {node.name}"] = layer_cost
    yield from found.values()
    yield from _elementwise_costs(channel_groups)


def _layer_cost(channel_groups: ChannelGroups, node: fx.Node) -> LayerCost | None:
    kind = operator(node)
    if kind in CONVOLUTIONS:
        layer = channel_groups.channel_map.layer(node.args[1], Conv)
        return None if layer is None else _convolution(channel_groups, node, layer)
    if kind == "linear":
        layer = channel_groups.channel_map.layer(node.args[1], nn.Linear)
        if layer is None:
            return None
        module: Any = channel_groups.channel_map.modules[layer]
        positions = math.prod(channel_groups.channel_map.shape(node)[:-1])
        return LayerCost(
            layer,
            "dense",
            *_in_out_channels(channel_groups, layer),
            positions,
            channel_parameters=int(module.bias is not None),
        )
    if kind in ("matmul", "bmm"):
        return _product(channel_groups, node)
    return _attention(channel_groups, node) if kind == "scaled_dot_product_attention" else None


def _in_out_channels(channel_groups: ChannelGroups, layer: str) -> tuple[Channels, Channels]:
    members = channel_groups.channel_map.layer_ids
    return channel_groups.channels(members[layer, "in"]), channel_groups.channels(members[layer, "out"])


def _convolution(channel_groups: ChannelGroups, node: fx.Node, layer: str) -> LayerCost:
    """Return the cost of a convolution; in a grouped one, an output reads as many inputs after a cut as before."""
    module: Any = channel_groups.channel_map.modules[layer]
    ins, outs = _in_out_channels(channel_groups, layer)
    block = module.in_channels // module.groups
    return LayerCost(
        layer,
        "depthwise" if module.groups > 1 and block == 1 else "conv",
        ins if module.groups == 1 or block == 1 else Channels(block),
        outs,
        math.prod(channel_groups.channel_map.shape(node.args[0] if module.transposed else node)[2:]),
        tuple(module.kernel_size),
        tuple(module.stride),
        channel_parameters=int(module.bias is not None),
    )


def _product(channel_groups: ChannelGroups, node: fx.Node) -> LayerCost | None:
    """Return the cost of a product of two activations: (..., m, k) by (..., k, n)."""
    channel_map = channel_groups.channel_map
    one, other = node.args[:2]
    if min(len(channel_map.shape(one)), len(channel_map.shape(other))) < 2:
        return None
    *_, keys = channel_map.shape(node)
    axes = len(channel_map.shape(node)[:-2])
    ids = np.broadcast_to(channel_map.ids(one), channel_map.shape(one))
    if axes > ids.ndim - 2:
        ids = np.broadcast_to(ids, (*channel_map.shape(node)[:-2], *ids.shape[-2:]))
    return _attention_product(
        node, channel_groups.channels(ids[..., 0, :].ravel()), Channels(), (channel_map.shape(one)[-2], keys)
    )


def _attention(channel_groups: ChannelGroups, node: fx.Node) -> LayerCost:
    """Return the cost of attention: queries by keys, and scores by values."""
    channel_map = channel_groups.channel_map
    query, key, value = node.args[:3]
    ins = channel_groups.channels(_features(channel_map, query))
    outs = channel_groups.channels(_features(channel_map, value))
    return _attention_product(node, ins, outs, (channel_map.shape(query)[-2], channel_map.shape(key)[-2]))


def _features(channel_map: ChannelMap, node: Any) -> Ids:
    """Return the ids of one token of all heads: (heads * head size,)."""
    return np.broadcast_to(channel_map.ids(node), channel_map.shape(node))[..., 0, :].ravel()


def _attention_product(node: fx.Node, ins: Channels, outs: Channels, tokens: tuple[int, int]) -> LayerCost:
    return LayerCost(owner(node) or operator(node), "attention", ins, outs, tokens[0], (tokens[1],))


def _elementwise_costs(channel_groups: ChannelGroups) -> Iterator[LayerCost]:
    """Yield the costs of per-channel parameters: normalization, slopes, embedding tables, scales."""
    for (layer, side), ids in channel_groups.channel_map.layer_ids.items():
        module: Any = channel_groups.channel_map.modules.get(layer)
        if isinstance(module, nn.Embedding):
            channel_parameters = module.num_embeddings
        elif side == "through":
            channel_parameters = sum(one is not None for one in (module.weight, getattr(module, "bias", None)))
        elif side.startswith("axis"):
            channel_parameters = 1
        else:
            continue
        yield LayerCost(
            layer, "elementwise", Channels(), channel_groups.channels(ids), 0, channel_parameters=channel_parameters
        )
