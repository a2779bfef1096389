"""Trace a PyTorch model by the operations of its exported graph, under the names of its modules."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.frameworks.torch_calls import is_exported_program
from edgekit_converters.trace.steps import Steps, Weights

WEIGHTLESS = ("embedding",)  # looks up weights and multiplies by none


def steps(live: LoadedModel, inputs: Arrays) -> Steps:
    """Return the result of each operation, named by its module, or ``layer1.0.add`` if the module has several."""
    tensors = tuple(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if moved else array))
        for array, moved in zip(inputs, live.transposed, strict=True)
    )
    module = live.handle.module
    with torch.inference_mode():
        graph = module if is_exported_program(module) else torch.export.export(live.handle, tensors).module()
        recorder = _Recorder(graph)
        recorder.run(*tensors)
    return recorder.found


class _Recorder(fx.Interpreter):
    """Runs a graph node by node and records the operations."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found = Steps()
        self._names = layer_names(module)
        self._places: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and record it if it is an operation with a tensor as its result."""
        result = super().run_node(n)
        leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if n in self._names and leaves:
            name, kind = self._names[n]
            inputs = [self._places[one] for one in n.all_input_nodes if one in self._places]
            arguments = [one for one in n.all_input_nodes if one.op != "get_attr"]
            arrays = [self.env[one].numpy() for one in arguments if isinstance(self.env[one], torch.Tensor)]
            weights = self._weights(n, kind, leaves[0])
            self._places[n] = self.found.add((name, kind), weights, inputs, leaves[0].numpy(), arrays)
        elif n.all_input_nodes and n.all_input_nodes[0] in self._places:  # an element of a tuple
            self._places[n] = self._places[n.all_input_nodes[0]]
        return result

    def _weights(self, node: fx.Node, kind: str, result: torch.Tensor) -> Weights:
        values = [self.env[one] for one in node.all_input_nodes if one.op == "get_attr"]
        parameters = [value for value in values if isinstance(value, torch.nn.Parameter)]
        kernels = sum(value.numel() * _kernel_positions(value, result) for value in parameters if value.dim() > 1)
        return Weights(sum(value.numel() for value in parameters), 0 if kind.lower() in WEIGHTLESS else kernels)


def _kernel_positions(kernel: torch.Tensor, result: torch.Tensor) -> int:
    """Return how often a kernel is applied; a matrix computes (1, ..., channels), a convolution (1, channels, ...)."""
    return math.prod(result.shape[1:-1] if kernel.dim() == 2 else result.shape[2:])


def layer_names(module: fx.GraphModule) -> dict[fx.Node, tuple[str, str]]:
    """Return the name and type of each operation."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and "getitem" not in node.name]
    paths = {node: _module_of(node) for node in nodes}
    nodes_of_path = Counter(path for path, _ in paths.values())
    parents = {path for path, _ in paths.values() for path in _parents(path)}
    counts: Counter[str] = Counter()
    found = {}
    for node in nodes:
        path, kind = paths[node]
        operator = _operator(node)
        if path and nodes_of_path[path] == 1 and path not in parents:
            found[node] = path, kind
            continue
        name = f"{path}.{operator}" if path else operator
        found[node] = (f"{name}_{counts[name]}" if counts[name] else name), operator
        counts[name] += 1
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
