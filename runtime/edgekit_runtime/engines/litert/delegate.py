"""Open a ``.tflite`` file in LiteRT's interpreter with a delegate, which runs the operators that it supports."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekit_runtime.engines import EngineInfo
from edgekit_runtime.engines.delegates import library_path, options_for
from edgekit_runtime.engines.litert.interpreter import LiteRTEngine, TranslateErrors
from edgekit_runtime.errors import DelegateUnavailable

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant


def open_model(package: str, interpreter_class: Any, path: str, variant: Variant, threads: int | None) -> LiteRTEngine:
    """Open a file with the variant's delegate; operators that the delegate does not support run on the CPU.

    Args:
        package: the package of the interpreter, which loads the delegate.
        interpreter_class: its Interpreter.
        path: the file.
        variant: the delegate and its options.
        threads: of the CPU; None means 1.

    Raises:
        DelegateUnavailable: the delegate is missing, refuses the model, or supports none of its operators.
    """
    name, found, file = str(variant.delegate), library_path(str(variant.delegate)), os.path.basename(path)
    with TranslateErrors(f"the delegate {found} does not load", DelegateUnavailable):
        import_module("ctypes").CDLL(found)  # load_delegate alone would print another, useless error
        delegate = import_module(f"{package}.interpreter").load_delegate(found, options_for(variant))
    with TranslateErrors(f"the delegate {found} refused {file}", DelegateUnavailable):
        interpreter = interpreter_class(model_path=path, num_threads=threads or 1, experimental_delegates=[delegate])
        del delegate  # the interpreter owns it now, and must be the last to release it
        delegated = _delegated(interpreter._get_ops_details())
        interpreter.allocate_tensors()
    if delegated[0] == 0:
        raise DelegateUnavailable(f"the delegate {found} took 0 of the {delegated[1]} operators of {file}")
    return LiteRTEngine(interpreter, EngineInfo(name, None, threads or 1, delegated, {name: found}))


def _delegated(nodes: list[dict[str, Any]]) -> tuple[int, int]:
    """Count the model's operators that the delegate runs, and all of its operators.

    LiteRT keeps the original operators and appends a DELEGATE node for each subgraph that the delegate runs: the
    operators between the tensors that the node reads and those it writes. Call it before the tensors are allocated,
    when LiteRT appends nodes of its own for the CPU.
    """
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    producers = {int(tensor): node for node in own for tensor in node["outputs"]}
    delegated = set()
    for subgraph in (node for node in nodes if node["op_name"] == "DELEGATE"):
        reads = {int(tensor) for tensor in subgraph["inputs"]}
        pending = [int(tensor) for tensor in subgraph["outputs"]]
        while pending:
            tensor = pending.pop()
            node = producers.get(tensor)
            if node is not None and tensor not in reads and node["index"] not in delegated:
                delegated.add(node["index"])
                pending += [int(source) for source in node["inputs"]]
    return len(delegated), len(own)
