"""Layers with fewer channels, by torch-pruning: the only file that uses it.

torch-pruning makes single layers smaller here. Its dependency graph is not used: it comes from autograd, so it misses
frozen layers without a warning, and it treats unknown operations (padding, a matrix product, a split of the last axis)
as element-wise. This file also corrects side effects on layers: torch-pruning unfreezes parameters, and does not update
the groups of a convolution or GroupNorm and the statistics of InstanceNorm.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from edgekit_runtime.errors import ConversionError

Conv = nn.modules.conv._ConvNd
InstanceNorm = nn.modules.instancenorm._InstanceNorm


@functools.cache
def _cutters() -> tuple[tuple[type, Any, Any], ...]:
    """Return for each kind of layer the functions that cut its outputs and its inputs."""
    import torch_pruning as pruning

    return (
        (Conv, pruning.prune_conv_out_channels, pruning.prune_conv_in_channels),
        (nn.Linear, pruning.prune_linear_out_channels, pruning.prune_linear_in_channels),
        (nn.modules.batchnorm._BatchNorm, pruning.prune_batchnorm_out_channels, None),
        (InstanceNorm, pruning.prune_instancenorm_out_channels, None),
        (nn.GroupNorm, pruning.prune_groupnorm_out_channels, None),
        (nn.PReLU, pruning.prune_prelu_out_channels, None),
        (nn.Embedding, pruning.prune_embedding_out_channels, None),
    )


def cut_layer(model: nn.Module, path: str, side: str, removed: list[int]) -> None:
    """Remove channels that a layer reads ("in"), produces ("out") or passes on ("through").

    ``path`` may also name a parameter of a module; ``side`` is then "axis N".

    Raises:
        ConversionError: the layer is as large as before.
    """
    holder = _holder(model, path)
    before = sum(one.numel() for one in holder.parameters())
    has_nothing = before == 0 or (side == "in" and isinstance(holder, Conv) and holder.groups > 1)
    frozen = {name for name, one in holder.named_parameters() if not one.requires_grad}
    with torch.no_grad():
        if side.startswith("axis"):
            _cut_parameter(holder, path.rpartition(".")[2], int(side.removeprefix("axis ")), removed)
        else:
            _cut(holder, side, removed)
    for name, one in holder.named_parameters():
        one.requires_grad_(name not in frozen)
    if not has_nothing and sum(one.numel() for one in holder.parameters()) >= before:
        raise ConversionError(
            f"{path} is as large as before", stage="cut_channels", advice=f"exclude it: --exclude-layer {path}"
        )


def _holder(model: nn.Module, path: str) -> Any:
    modules = dict(model.named_modules())
    return modules[path] if path in modules else model.get_submodule(path.rpartition(".")[0])


def _cut(layer: Any, side: str, removed: list[int]) -> None:
    give, take = next((give, take) for kind, give, take in _cutters() if isinstance(layer, kind))
    if isinstance(layer, Conv) and layer.groups > 1:
        _cut_grouped(layer, side, removed, give)
        return
    if isinstance(layer, InstanceNorm) and layer.running_mean is not None:
        kept = [one for one in range(layer.num_features) if one not in set(removed)]
        layer.running_mean, layer.running_var = layer.running_mean[kept], layer.running_var[kept]
    if isinstance(layer, nn.GroupNorm):
        layer.num_groups -= len(removed) * layer.num_groups // layer.num_channels
    (take if side == "in" else give)(layer, removed)


def _cut_grouped(layer: Any, side: str, removed: list[int], give: Any) -> None:
    """Remove whole groups: the weights are stored by output, so the input side only changes the sizes."""
    if side == "in":
        layer.groups -= len(removed) * layer.groups // layer.in_channels
        layer.in_channels -= len(removed)
    else:
        give(layer, removed)


def _cut_parameter(holder: nn.Module, name: str, axis: int, removed: list[int]) -> None:
    """Remove entries of a module's own parameter along an axis."""
    from torch_pruning.pruner.function import ParameterPruner

    cutter = ParameterPruner(pruning_dim=axis)
    old = getattr(holder, name)
    setattr(holder, name, nn.Parameter(cutter.prune_out_channels(old, removed), requires_grad=old.requires_grad))


def zero_inputs(model: nn.Module, path: str, unread: list[int]) -> None:
    """Zero the weights with which a layer reads some channels, without making it smaller."""
    layer: Any = model.get_submodule(path)
    if isinstance(layer, Conv) and layer.groups > 1:
        return  # passes channels on; the layers after it do not read them
    with torch.no_grad():
        if getattr(layer, "transposed", False):
            layer.weight[unread] = 0
        else:
            layer.weight[:, unread] = 0
