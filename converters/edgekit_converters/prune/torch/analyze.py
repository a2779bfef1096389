"""What each layer of a PyTorch module has to do, in terms of the channels that are left."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx, nn

from edgekit_converters.prune import Channels, LayerCost, PruningGraph
from edgekit_converters.prune.torch.channel_groups import ChannelGroups
from edgekit_converters.prune.torch.channels import Followed, operator, owner
from edgekit_converters.prune.torch.union_find import Ids

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
Conv = nn.modules.conv._ConvNd


def anatomy(model: nn.Module, seams: ChannelGroups) -> PruningGraph:
    """Say what of a module may be cut, and what each layer has to do."""
    parameters = sum(one.numel() for one in model.parameters())
    groups = tuple(seam.group for seam in seams.seams)
    return PruningGraph(groups, tuple(_labours(seams)), seams.whole, parameters)


def _labours(seams: ChannelGroups) -> Iterator[LayerCost]:
    """The labours of operations in the order of execution, one a layer, and of parameters that multiply nothing."""
    found: dict[str, LayerCost] = {}
    for node in seams.followed.program.graph.nodes:
        labour = _labour(seams, node) if node.op == "call_function" else None
        if labour is None:
            continue
        name = labour.layer
        if labour.operator != "attention" and name in found:  # a layer that runs again
            found[name] = replace(found[name], positions=found[name].positions + labour.positions)
        else:
            found[name if name not in found else f"{name} {node.name}"] = labour
    yield from found.values()
    yield from _bare(seams)


def _labour(seams: ChannelGroups, node: fx.Node) -> LayerCost | None:
    kind = operator(node)
    if kind in CONVOLUTIONS:
        layer = seams.followed.layer(node.args[1], Conv)
        return None if layer is None else _convolution(seams, node, layer)
    if kind == "linear":
        layer = seams.followed.layer(node.args[1], nn.Linear)
        if layer is None:
            return None
        module: Any = seams.followed.modules[layer]
        positions = math.prod(seams.followed.shape(node)[:-1])
        return LayerCost(layer, "dense", *_both(seams, layer), positions, extras=int(module.bias is not None))
    if kind in ("matmul", "bmm"):
        return _product(seams, node)
    return _attention(seams, node) if kind == "scaled_dot_product_attention" else None


def _both(seams: ChannelGroups, layer: str) -> tuple[Channels, Channels]:
    members = seams.followed.members
    return seams.channels(members[layer, "in"]), seams.channels(members[layer, "out"])


def _convolution(seams: ChannelGroups, node: fx.Node, layer: str) -> LayerCost:
    """A group of a grouped convolution is cut whole: an output goes on taking as many inputs as before."""
    module: Any = seams.followed.modules[layer]
    ins, outs = _both(seams, layer)
    block = module.in_channels // module.groups
    return LayerCost(
        layer,
        "depthwise" if module.groups > 1 and block == 1 else "conv",
        ins if module.groups == 1 or block == 1 else Channels(block),
        outs,
        math.prod(seams.followed.shape(node.args[0] if module.transposed else node)[2:]),
        tuple(module.kernel_size),
        tuple(module.stride),
        extras=int(module.bias is not None),
    )


def _product(seams: ChannelGroups, node: fx.Node) -> LayerCost | None:
    """A product of two activations: (..., m, k) by (..., k, n)."""
    followed = seams.followed
    one, other = node.args[:2]
    if min(len(followed.shape(one)), len(followed.shape(other))) < 2:
        return None
    *_, keys = followed.shape(node)
    axes = len(followed.shape(node)[:-2])
    ids = np.broadcast_to(followed.ids(one), followed.shape(one))
    if axes > ids.ndim - 2:
        ids = np.broadcast_to(ids, (*followed.shape(node)[:-2], *ids.shape[-2:]))
    return _attending(node, seams.channels(ids[..., 0, :].ravel()), Channels(), (followed.shape(one)[-2], keys))


def _attention(seams: ChannelGroups, node: fx.Node) -> LayerCost:
    """Queries by keys, and what comes of it by values."""
    followed = seams.followed
    query, key, value = node.args[:3]
    ins = seams.channels(_features(followed, query))
    outs = seams.channels(_features(followed, value))
    return _attending(node, ins, outs, (followed.shape(query)[-2], followed.shape(key)[-2]))


def _features(followed: Followed, node: Any) -> Ids:
    """The ids of one token of all heads: (heads * head size,)."""
    return np.broadcast_to(followed.ids(node), followed.shape(node))[..., 0, :].ravel()


def _attending(node: fx.Node, ins: Channels, outs: Channels, tokens: tuple[int, int]) -> LayerCost:
    return LayerCost(owner(node) or operator(node), "attention", ins, outs, tokens[0], (tokens[1],))


def _bare(seams: ChannelGroups) -> Iterator[LayerCost]:
    """Parameters that go with channels and multiply nothing together: normalization, slopes, tables, scales."""
    for (layer, side), ids in seams.followed.members.items():
        module: Any = seams.followed.modules.get(layer)
        if isinstance(module, nn.Embedding):
            extras = module.num_embeddings
        elif side == "through":
            extras = sum(one is not None for one in (module.weight, getattr(module, "bias", None)))
        elif side.startswith("axis"):
            extras = 1
        else:
            continue
        yield LayerCost(layer, "elementwise", Channels(), seams.channels(ids), 0, extras=extras)
