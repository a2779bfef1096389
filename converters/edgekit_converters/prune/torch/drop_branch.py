"""Remove residual branches of PyTorch modules: the forward pass of the adding module, without one of the operands.

Only the module whose own forward pass has the addition is traced (``torch.fx``); its child modules are called as they
are. A forward pass whose Python code depends on values cannot be traced, and its branches are kept.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils._pytree import tree_map

from edgekit_converters.frameworks.torch_calls import FORWARD_ERRORS, RewiredModule
from edgekit_converters.prune.residual_branches import (
    GraphNode,
    RemovableBranch,
    ResidualPath,
    branch_name,
    removable_paths,
)
from edgekit_converters.prune.torch.stored_sizes import Tensors, output_mismatch, run
from edgekit_runtime.errors import ConversionError

ADDITIONS = (operator.add, operator.iadd, torch.add)
METHODS = ("add", "add_")
UNTRACEABLE = (*FORWARD_ERRORS, fx.proxy.TraceError, NotImplementedError)

Edit = Callable[[fx.Graph, fx.Node, fx.Node], None]  # graph, addition, the operand to do without


class _Shallow(fx.Tracer):
    """Traces one forward pass, but not those of child modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Call every child as it is."""
        return True


def removable_branches(model: nn.Module, inputs: Tensors) -> tuple[RemovableBranch, ...]:
    """Return the operands of additions that can be removed from a module."""
    return tuple(operand for _, operand, _ in _found(model, inputs))


def without_branches(model: nn.Module, inputs: Tensors, names: Sequence[str]) -> nn.Module:
    """Return a copy of a module without some branches, after checking that nothing else changed.

    Raises:
        ConversionError: there is no such branch, or another part of the module changes with it.
    """
    known = {one.name: (path, index) for path, one, index in _found(model, inputs)}
    for name in names:
        if name not in known:
            raise ConversionError(
                f"there is no branch {name!r}", stage="drop_branches", advice=f"there are {', '.join(known) or 'none'}"
            )
    short, silent = (_edited(model, [known[name] for name in names], edit) for edit in (_leave_out, _silence))
    if why := output_mismatch(run(silent, inputs), short, inputs):
        raise ConversionError(
            f"without {', '.join(names)}: {why}", stage="drop_branches", advice="keep the branches: --no-depth-pruning"
        )
    return short


def _found(model: nn.Module, inputs: Tensors) -> Iterator[tuple[str, RemovableBranch, ResidualPath]]:
    """Yield the path of a module, a removable operand in its forward pass, and its position."""
    for path, taken in _calls(model, inputs).items():
        module = model.get_submodule(path)
        graph = _traced(module, taken)
        if graph is None:
            continue
        steps, nodes = _steps(graph), list(graph.nodes)
        times = Counter(node.target for node in nodes if node.op == "call_module")
        paths = list(removable_paths(steps, [place for place, node in enumerate(nodes) if node.op == "output"]))
        for one in paths:
            inside = Counter(nodes[place].target for place in one.nodes if nodes[place].op == "call_module")
            if inside and all(times[name] == count for name, count in inside.items()):
                addition = branch_name(f"{path}.{nodes[one.index].name}".lstrip("."), one, paths)
                layers = frozenset(f"{path}.{name}".lstrip(".") for name in inside)
                yield path, RemovableBranch(addition, str(steps[one.index].shape), layers), one


def _calls(model: nn.Module, inputs: Tensors) -> dict[str, tuple[Any, Any]]:
    """Return the inputs of each module with children, by path, if it is called once."""
    taken: defaultdict[str, list[tuple[Any, Any]]] = defaultdict(list)
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, path=path: taken[path].append(tree_map(lambda leaf: leaf, (args, kwargs))),
            with_kwargs=True,
        )
        for path, module in model.named_modules()
        if any(True for _ in module.children())
    ]
    run(model, inputs)
    for hook in hooks:
        hook.remove()
    return {path: calls[0] for path, calls in taken.items() if len(calls) == 1}


def _traced(module: nn.Module, taken: tuple[Any, Any]) -> fx.Graph | None:
    """Trace a forward pass and record the shapes of its values; None where it cannot be traced.

    A traced argument is never None. Where the forward pass decides by that, as BERT's embeddings do, the traced graph
    does not run on the recorded arguments.
    """
    args, kwargs = taken
    try:
        graph = _Shallow().trace(module)
        others = [one for one in graph.nodes if one.op == "placeholder"][len(args) :]
        with torch.no_grad():
            program = ShapeProp(fx.GraphModule(module, graph))
            program.propagate(*args, *(kwargs.get(one.target, *one.args) for one in others))
    except UNTRACEABLE:
        return None
    return graph


def _steps(graph: fx.Graph) -> list[GraphNode]:
    """Return the nodes of a forward pass; a parameter reads nothing, and is removed with its readers."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    steps = []
    for node in graph.nodes:
        inputs = tuple(places[one] for one in node.all_input_nodes if one.op != "get_attr")
        meta = node.meta.get("tensor_meta")
        shape = tuple(meta.shape) if isinstance(getattr(meta, "shape", None), torch.Size) else ()
        steps.append(GraphNode(node.name, inputs, shape, is_addition=_adds(node)))
    return steps


def _adds(node: fx.Node) -> bool:
    branch_name = node.target in (
        ADDITIONS if node.op == "call_function" else METHODS if node.op == "call_method" else ()
    )
    return (
        branch_name and not node.kwargs and len(node.args) == 2 and all(isinstance(one, fx.Node) for one in node.args)
    )


def _edited(model: nn.Module, places: Sequence[tuple[str, ResidualPath]], edit: Edit) -> nn.Module:
    model = copy.deepcopy(model)
    by_path: defaultdict[str, list[ResidualPath]] = defaultdict(list)
    for path, one in places:
        by_path[path].append(one)
    for path, paths in by_path.items():
        module = model.get_submodule(path)
        graph = _Shallow().trace(module)
        nodes = list(graph.nodes)
        for one in paths:
            edit(graph, nodes[one.index], nodes[one.index].args[one.operand])
        short = RewiredModule(module, graph).train(module.training)
        short.delete_all_unused_submodules()
        if not path:
            return short
        model.set_submodule(path, short)
    return model


def _leave_out(graph: fx.Graph, addition: fx.Node, operand: fx.Node) -> None:
    left = next(one for one in addition.args if one is not operand)
    addition.replace_all_uses_with(left)
    graph.erase_node(addition)
    todo = [operand]
    while todo:
        one = todo.pop()
        if not one.users and one.op not in ("placeholder", "output") and one in graph.nodes:
            before = one.all_input_nodes
            graph.erase_node(one)
            todo += before


def _silence(graph: fx.Graph, addition: fx.Node, operand: fx.Node) -> None:
    """Add zeros instead of the operand, without removing anything."""
    with graph.inserting_before(addition):
        nothing = graph.call_function(torch.zeros_like, (operand,))
        addition.replace_input_with(operand, nothing)
