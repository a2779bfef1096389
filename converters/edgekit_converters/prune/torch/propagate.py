"""Follow channels through a PyTorch module: which elements of which layer are the same channel of which other layer.

The module is exported (``torch.export``), so that what is followed is what it computes, operation by operation. Each
layer's outputs are elements of their own; operations join elements (an addition, a head's dot product), carry them
on, or mix them (``torch_rules.py``). What an operation without a rule takes is never cut, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import fx

from edgekit_converters.prune.torch.channels import Followed, Rule, Site, State, operator, owner
from edgekit_converters.prune.torch.propagation_rules import RULES
from edgekit_converters.prune.torch.union_find import Ids, packed, varying


def follow(program: fx.GraphModule, module: torch.nn.Module) -> Followed:
    """Follow the channels of an exported module; ``module`` is what ``program`` was exported from."""
    found = Followed(program, dict(module.named_modules(remove_duplicate=False)))
    for node in program.graph.nodes:
        if node.op == "output":
            found.opaque(node, "is an output of the model")
        elif node.op == "call_function":
            _step(found, node, RULES.get(operator(node)))
    _keep_shared(found, module)
    _settle(found)
    _find_sites(found)
    return found


def _step(found: Followed, node: fx.Node, rule: Rule | None) -> None:
    if not any((ids >= 0).any() for one in node.all_input_nodes for ids in _several(found.states.get(one))) and (
        rule is None or not getattr(rule, "makes", False)
    ):
        return
    if rule is None:
        found.opaque(node, f"goes into {operator(node)}, through which channels are not followed")
        return
    found.states[node] = rule(found, node)


def _several(state: State | None) -> list[Ids]:
    return state if isinstance(state, list) else [] if state is None else [state]


def _keep_shared(found: Followed, module: torch.nn.Module) -> None:
    """Let layers stay whose parameters are those of another layer as well."""
    owners: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    for names in owners.values():
        if len(names) > 1:
            layers = {name.rpartition(".")[0] for name in names}
            for (layer, _), ids in found.members.items():
                if layer in layers:
                    found.units.keep(ids, f"shares its weights: {', '.join(sorted(names))}", last=True)


def _settle(found: Followed) -> None:
    """Make every unit a slice of each tensor it is in: whatever varies along two axes is cut along the outer one."""
    tensors = [ids for state in found.states.values() for ids in _several(state) if varying(ids)]
    settled = False
    while not settled:
        settled = True
        for ids in tensors:
            roots = packed(found.units.roots(ids))
            axes = varying(roots)
            if len(axes) > 1:
                found.units.join_along(roots, axes[1:])
                settled = False
            elif not axes:
                found.units.keep(ids, "is one with all others of its layer")


def _find_sites(found: Followed) -> None:
    for node in found.states:
        if operator(node) not in ("view", "reshape", "unflatten", "expand", "pad", "split", "split_with_sizes"):
            continue
        for one in (node, *node.all_input_nodes):
            for ids in _several(found.states.get(one)):
                found.sites.extend(Site(owner(node), line) for line in lines(found, ids))
        if operator(node) == "pad":
            found.sites.extend(Site(owner(node), ids) for ids in _pads(found, node))


def lines(found: Followed, ids: Ids) -> Iterator[Ids]:
    """The ids along the axis that a tensor is cut along, (n,): none or one."""
    roots = packed(found.units.roots(ids))
    for axis in varying(roots):
        yield np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)[:, 0]


def _pads(found: Followed, node: fx.Node) -> Iterator[Ids]:
    """The elements that padding has added: before, after, and both."""
    for line in lines(found, found.ids(node)):
        old = found.ids(node.args[0])
        inner = next(iter(lines(found, old)), np.empty(0, np.int64))
        start = (len(line) - len(inner)) // 2
        before, after = line[:start], line[start + len(inner) :]
        yield from (before, after, np.concatenate([before, after]))
