"""The channels of a PyTorch module: which elements each of its layers and operations takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekit_converters.prune.torch.union_find import Ids, UnionFind, compact, untracked, varying_axes

TensorIds = Ids | list[Ids]  # of an operation that gives several tensors
Shape = tuple[int, ...]


@dataclass(frozen=True)
class SizeUse:
    """A place where a forward pass may hold a number of channels that was right before they were cut."""

    owner: str  # the module whose ``forward`` it is in
    ids: Ids  # (n,): the number is n, and becomes as many as are left


@dataclass
class ChannelMap:
    """A module's layers and operations with the ids of what they take and give."""

    program: fx.GraphModule
    modules: dict[str, torch.nn.Module]  # by path
    union_find: UnionFind = field(default_factory=UnionFind)
    layer_ids: dict[tuple[str, str], Ids] = field(default_factory=dict)  # (layer, "in", "out" or "through"): (n,)
    tensor_ids: dict[fx.Node, TensorIds] = field(default_factory=dict)
    size_uses: list[SizeUse] = field(default_factory=list)
    attention_ids: list[Ids] = field(default_factory=list)  # of what attention multiplies
    unsupported: dict[str, str] = field(default_factory=dict)  # modules whose weights cannot be cut: why

    def ids(self, node: Any) -> Ids:
        """Return the ids of a tensor."""
        state = self.tensor_ids.get(node)
        return state if isinstance(state, np.ndarray) else untracked(len(self.shape(node)))

    @staticmethod
    def shape(node: Any) -> Shape:
        """Return a tensor's shape."""
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    def layer(self, weight: Any, kinds: type | tuple[type, ...]) -> str | None:
        """Return the path of the layer that a parameter or buffer belongs to; None when it is none of ``kinds``."""
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return None
        path = str(weight.target).removeprefix("module.").rpartition(".")[0]
        return path if isinstance(self.modules.get(path), kinds) else None

    def join_layer(self, layer: str, side: str, ids: Ids) -> Ids:
        """Note what a layer takes or gives, (n,); a layer that runs twice has the same channels both times."""
        known = self.layer_ids.setdefault((layer, side), ids)
        if known is not ids:
            for mine, other in ((known, ids), (ids, known)):
                self.union_find.keep(mine[other < 0], f"{layer} is used twice, once with what is not followed")
            self.union_find.join(known, ids)
        return known

    def keep_inputs(self, node: fx.Node, why: str) -> None:
        """Let whatever goes into an operation stay."""
        for one in node.all_input_nodes:
            self.keep(self.tensor_ids.get(one), why)

    def keep(self, state: TensorIds | None, why: str) -> None:
        """Let the elements of a tensor stay, or of several."""
        for ids in state if isinstance(state, list) else [state] if state is not None else []:
            self.union_find.keep(ids, why)

    def mix(self, ids: Ids, axes: list[int], why: str) -> Ids:
        """Return the ids after an operation that mixes all elements along ``axes``.

        What varies along these alone must stay; where there is another axis, whole slices of it are units.
        """
        mixed = [axis for axis in varying_axes(ids) if axis in axes]
        if mixed == varying_axes(ids) and mixed:
            self.union_find.keep(ids, why)
            return untracked(ids.ndim)
        return compact(self.union_find.join_along(ids, mixed))

    def combine(self, operands: list[tuple[Ids, Shape]], axes: int, why: str) -> Ids:
        """Join what an element-wise operation combines, each given as (ids, shape) and broadcast to ``axes`` axes."""
        aligned = [(_with_rank(ids, axes), (1,) * (axes - len(shape)) + shape) for ids, shape in operands]
        common = np.broadcast_shapes(*(ids.shape for ids, _ in aligned))
        full = [np.broadcast_to(ids, common) for ids, _ in aligned]
        result = np.maximum.reduce(full)
        for ids, (_, shape) in zip(full, aligned, strict=True):
            if any(size > 1 and shape[axis] > 1 for axis, size in enumerate(common)):
                self.union_find.keep(result[ids < 0], why)
            self.union_find.join(ids, result)
        return compact(result)


def _with_rank(ids: Ids, axes: int) -> Ids:
    return ids.reshape((1,) * (axes - ids.ndim) + ids.shape)


Rule = Callable[[ChannelMap, fx.Node], TensorIds]


def operator(node: fx.Node) -> str:
    """Return an operation's plain name: ``add`` for ``aten.add.Tensor``."""
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.name))).split(".")[0]


def owner(node: fx.Node) -> str:
    """Return the path of the module whose ``forward`` an operation is in."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']").removeprefix("module").removeprefix(".")


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """Return an argument of an operation, wherever it was given."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def axes_of(said: Any, count: int) -> list[int]:
    """Return the axes that an argument names, counted from the front; all of them where it names none."""
    if said is None or said == []:
        return list(range(count))
    return [axis % count for axis in ([said] if isinstance(said, int) else said)]
