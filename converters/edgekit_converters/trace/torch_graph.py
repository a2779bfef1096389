"""Trace a PyTorch model by the operations of its exported graph, under the names of its modules."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekit_converters.frameworks.live_model import Arrays, LoadedModel
from edgekit_converters.frameworks.torch_calls import is_exported_program
from edgekit_converters.trace.steps import Steps, Weights

WEIGHTLESS = ("embedding",)  # looks weights up, multiplies by none


def steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Return what each operation gives: a module of one operation under its name, others such as ``layer1.0.add``."""
    tensors = tuple(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if moved else array))
        for array, moved in zip(inputs, live.moved, strict=True)
    )
    module = live.handle.module
    with torch.inference_mode():
        graph = module if is_exported_program(module) else torch.export.export(live.handle, tensors).module()
        recorder = _Recorder(graph)
        recorder.run(*tensors)
    return recorder.found


class _Recorder(fx.Interpreter):
    """Runs a graph node by node and notes the operations."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found = Steps()
        self._names = layer_names(module)
        self._places: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note it when it is an operation that gives a tensor."""
        result = super().run_node(n)
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if n in self._names and leaves:
            name, kind = self._names[n]
            takes = [self._places[one] for one in n.all_input_nodes if one in self._places]
            given = [one for one in n.all_input_nodes if one.op != "get_attr"]
            taken = [self.env[one].numpy() for one in given if isinstance(self.env[one], torch.Tensor)]
            weights = self._weights(n, kind, leaves[0])
            self._places[n] = self.found.add((name, kind), weights, takes, leaves[0].numpy(), taken)
        elif n.all_input_nodes and n.all_input_nodes[0] in self._places:  # an element of a tuple
            self._places[n] = self._places[n.all_input_nodes[0]]
        return result

    def _weights(self, node: fx.Node, kind: str, result: torch.Tensor) -> Weights:
        values = [self.env[one] for one in node.all_input_nodes if one.op == "get_attr"]
        parameters = [value for value in values if isinstance(value, torch.nn.Parameter)]
        kernels = sum(value.numel() * _times(value, result) for value in parameters if value.dim() > 1)
        return Weights(sum(value.numel() for value in parameters), 0 if kind.lower() in WEIGHTLESS else kernels)


def _times(kernel: torch.Tensor, result: torch.Tensor) -> int:
    """Return how often a kernel is applied: a matrix gives (1, ..., channels), a convolution (1, channels, ...)."""
    return math.prod(result.shape[1:-1] if kernel.dim() == 2 else result.shape[2:])


def layer_names(module: fx.GraphModule) -> dict[fx.Node, tuple[str, str]]:
    """Return the name and type of each operation."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and "getitem" not in node.name]
    paths = {node: _module_of(node) for node in nodes}
    alone = Counter(path for path, _ in paths.values())
    holders = {path for path, _ in paths.values() for path in _parents(path)}
    seen: Counter[str] = Counter()
    found = {}
    for node in nodes:
        path, kind = paths[node]
        operator = _operator(node)
        if path and alone[path] == 1 and path not in holders:
            found[node] = path, kind
            continue
        name = f"{path}.{operator}" if path else operator
        found[node] = (f"{name}_{seen[name]}" if seen[name] else name), operator
        seen[name] += 1
    return found


def _operator(node: fx.Node) -> str:
    """Return an operation's plain name: ``add`` for ``aten.add.Tensor``."""
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.name))).split(".")[0]


def _module_of(node: fx.Node) -> tuple[str, str]:
    """Return the path and class of the innermost module that a node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1][:2]
    kind = kind if isinstance(kind, str) else kind.__name__
    plain = str(path).removeprefix("L['self'].").removeprefix("module.")
    return ("" if plain in ("module", "L['self']") else plain), kind.rpartition(".")[2]


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]
