"""The channels of a PyTorch module: which elements each of its layers and operations reads and produces."""

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
    """A place where the code of a forward pass may use a number of channels that a cut changes."""

    owner: str  # the module whose ``forward`` it is in
    ids: Ids  # (n,): the number is n, and becomes as many as are left


@dataclass
class ChannelMap:
    """The ids of the elements that each layer and operation of a module reads and produces."""

    program: fx.GraphModule
    modules: dict[str, torch.nn.Module]  # by path
    union_find: UnionFind = field(default_factory=UnionFind)
    layer_ids: dict[tuple[str, str], Ids] = field(default_factory=dict)  # (layer, "in", "out" or "through"): (n,)
    tensor_ids: dict[fx.Node, TensorIds] = field(default_factory=dict)
    size_uses: list[SizeUse] = field(default_factory=list)
    attention_ids: list[Ids] = field(default_factory=list)  # of the operands that attention multiplies
    unsupported: dict[str, str] = field(default_factory=dict)  # modules whose weights cannot be cut: why

    def ids(self, node: Any) -> Ids:
        """Return the ids of a tensor."""
        state = self.tensor_ids.get(node)
        return state if isinstance(state, np.ndarray) else untracked(len(self.shape(node)))

    @staticmethod
    def shape(node: Any) -> Shape:
        """Return the shape of a tensor."""
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    def layer(self, weight: Any, kinds: type | tuple[type, ...]) -> str | None:
        """Return the path of the layer that owns a parameter or buffer; None if it is not one of ``kinds``."""
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return None
        path = str(weight.target).removeprefix("module.").rpartition(".")[0]
        return path if isinstance(self.modules.get(path), kinds) else None

    def join_layer(self, layer: str, side: str, ids: Ids) -> Ids:
        """Record the channels that a layer reads or produces, (n,).

        A layer that runs twice has the same channels both times.
        """
        known = self.layer_ids.setdefault((layer, side), ids)
        if known is not ids:
            for mine, other in ((known, ids), (ids, known)):
                self.union_find.keep(mine[other < 0], f"{layer} is used twice, once with untracked inputs")
            self.union_find.join(known, ids)
        return known

    def keep_inputs(self, node: fx.Node, why: str) -> None:
        """Mark all inputs of an operation as not to be cut."""
        for one in node.all_input_nodes:
            self.keep(self.tensor_ids.get(one), why)

    def keep(self, state: TensorIds | None, why: str) -> None:
        """Mark the elements of one or several tensors as not to be cut."""
        for ids in state if isinstance(state, list) else [state] if state is not None else []:
            self.union_find.keep(ids, why)

    def mix(self, ids: Ids, axes: list[int], why: str) -> Ids:
        """Return the ids after an operation that mixes all elements along ``axes``.

        Elements that vary only along these axes must stay. If they also vary along another axis, whole slices of it are
        joined.
        """
        mixed = [axis for axis in varying_axes(ids) if axis in axes]
        if mixed == varying_axes(ids) and mixed:
            self.union_find.keep(ids, why)
            return untracked(ids.ndim)
        return compact(self.union_find.join_along(ids, mixed))

    def combine(self, operands: list[tuple[Ids, Shape]], axes: int, why: str) -> Ids:
        """Join the operands of an element-wise operation, each (ids, shape), broadcast to ``axes`` axes."""
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
    """Return the plain name of an operation: ``add`` for ``aten.add.Tensor``."""
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.name))).split(".")[0]


def owner(node: fx.Node) -> str:
    """Return the path of the module whose ``forward`` contains an operation."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("L['self']").removeprefix("module").removeprefix(".")


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """Return an argument of an operation, given by position or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def axes_of(axes: Any, count: int) -> list[int]:
    """Return the axes that an argument names, counted from the front; all axes if it names none."""
    if axes is None or axes == []:
        return list(range(count))
    return [axis % count for axis in ([axes] if isinstance(axes, int) else axes)]
