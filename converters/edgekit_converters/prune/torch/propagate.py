"""Track channels through a PyTorch module: which elements of which layers are the same channel.

The module is exported with ``torch.export``, so the operations are those that it computes. Each layer produces new
elements. Operations join elements (an addition, the dot product of a head), move them, or mix them; the rules are in
``propagation_rules.py``. Elements that go into an operation without a rule are never cut, and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import fx

from edgekit_converters.prune.torch.channels import ChannelMap, Rule, SizeUse, TensorIds, operator, owner
from edgekit_converters.prune.torch.propagation_rules import RULES
from edgekit_converters.prune.torch.union_find import Ids, compact, varying_axes


def propagate_channels(program: fx.GraphModule, module: torch.nn.Module) -> ChannelMap:
    """Track the channels of an exported module; ``module`` is the one that ``program`` was exported from."""
    channels = ChannelMap(program, dict(module.named_modules(remove_duplicate=False)))
    for node in program.graph.nodes:
        if node.op == "output":
            channels.keep_inputs(node, "is an output of the model")
        elif node.op == "call_function":
            _apply_rule(channels, node, RULES.get(operator(node)))
    _keep_shared(channels, module)
    _unify_slices(channels)
    _find_size_uses(channels)
    return channels


def _apply_rule(channels: ChannelMap, node: fx.Node, rule: Rule | None) -> None:
    if not any((ids >= 0).any() for one in node.all_input_nodes for ids in _as_list(channels.tensor_ids.get(one))) and (
        rule is None or not getattr(rule, "produces_channels", False)
    ):
        return
    if rule is None:
        channels.keep_inputs(node, f"goes into {operator(node)}, which has no propagation rule")
        return
    channels.tensor_ids[node] = rule(channels, node)


def _as_list(state: TensorIds | None) -> list[Ids]:
    return state if isinstance(state, list) else [] if state is None else [state]


def _keep_shared(channels: ChannelMap, module: torch.nn.Module) -> None:
    """Mark layers that share their parameters with another layer as not to be cut."""
    owners: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    for names in owners.values():
        if len(names) > 1:
            layers = {name.rpartition(".")[0] for name in names}
            for (layer, _), ids in channels.layer_ids.items():
                if layer in layers:
                    channels.union_find.keep(ids, f"shares its weights: {', '.join(sorted(names))}", last=True)


def _unify_slices(channels: ChannelMap) -> None:
    """Make every set a slice of each tensor that holds it.

    Elements that vary along two axes are cut along the outer one.
    """
    tensors = [ids for state in channels.tensor_ids.values() for ids in _as_list(state) if varying_axes(ids)]
    stable = False
    while not stable:
        stable = True
        for ids in tensors:
            roots = compact(channels.union_find.roots(ids))
            axes = varying_axes(roots)
            if len(axes) > 1:
                channels.union_find.join_along(roots, axes[1:])
                stable = False
            elif not axes:
                channels.union_find.keep(ids, "is joined with all channels of its layer")


def _find_size_uses(channels: ChannelMap) -> None:
    for node in channels.tensor_ids:
        if operator(node) not in ("view", "reshape", "unflatten", "expand", "pad", "split", "split_with_sizes"):
            continue
        for one in (node, *node.all_input_nodes):
            for ids in _as_list(channels.tensor_ids.get(one)):
                channels.size_uses.extend(SizeUse(owner(node), axis_ids) for axis_ids in cut_axis_ids(channels, ids))
        if operator(node) == "pad":
            channels.size_uses.extend(SizeUse(owner(node), ids) for ids in _pads(channels, node))


def cut_axis_ids(channels: ChannelMap, ids: Ids) -> Iterator[Ids]:
    """Yield the ids along the axis that a tensor is cut along, (n,): none or one."""
    roots = compact(channels.union_find.roots(ids))
    for axis in varying_axes(roots):
        yield np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)[:, 0]


def _pads(channels: ChannelMap, node: fx.Node) -> Iterator[Ids]:
    """Yield the elements that padding adds: before, after, and both."""
    for axis_ids in cut_axis_ids(channels, channels.ids(node)):
        old = channels.ids(node.args[0])
        inner = next(iter(cut_axis_ids(channels, old)), np.empty(0, np.int64))
        start = (len(axis_ids) - len(inner)) // 2
        before, after = axis_ids[:start], axis_ids[start + len(inner) :]
        yield from (before, after, np.concatenate([before, after]))
