"""``.tflite`` in LiteRT's interpreter, with as much of it as a delegate takes."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekit_runtime.engines import EngineInfo
from edgekit_runtime.engines.delegates import library_path, options_for
from edgekit_runtime.engines.litert.interpreter import LiteRTEngine, Mapped, interpreter_of
from edgekit_runtime.errors import DelegateUnavailable

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant


def open_model(path: str, variant: Variant, threads: int | None) -> LiteRTEngine:
    """Open a file with as much of it in the variant's delegate as that takes, and the rest on the CPU.

    Raises:
        EngineUnavailable: LiteRT is missing.
        DelegateUnavailable: the delegate is missing, refuses, or takes nothing of the model.
    """
    package, interpreter_class = interpreter_of()
    name, found, file = str(variant.delegate), library_path(str(variant.delegate)), os.path.basename(path)
    with Mapped(f"the delegate {found} does not load", DelegateUnavailable):
        import_module("ctypes").CDLL(found)  # load_delegate would print a second, pointless error
        delegate = import_module(f"{package}.interpreter").load_delegate(found, options_for(variant))
    with Mapped(f"the delegate {found} refused {file}", DelegateUnavailable):
        interpreter = interpreter_class(model_path=path, num_threads=threads or 1, experimental_delegates=[delegate])
        del delegate  # the interpreter keeps it, and lets go of it after itself
        taken = _taken(interpreter._get_ops_details())
        interpreter.allocate_tensors()
    if taken[0] == 0:
        raise DelegateUnavailable(f"the delegate {found} took 0 of the {taken[1]} operators of {file}")
    return LiteRTEngine(interpreter, EngineInfo(name, None, threads or 1, taken, {name: found}))


def _taken(nodes: list[dict[str, Any]]) -> tuple[int, int]:
    """How many of the model's operators a delegate took, and how many there are.

    Delegating leaves the operators where they were and appends a node for each stretch that was taken: what lies
    between the tensors such a node reads and those it writes. To be read before tensors are allocated, which is
    when LiteRT appends nodes of its own for the CPU.
    """
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    makers = {int(tensor): node for node in own for tensor in node["outputs"]}
    taken = set()
    for stretch in (node for node in nodes if node["op_name"] == "DELEGATE"):
        reads = {int(tensor) for tensor in stretch["inputs"]}
        wanted = [int(tensor) for tensor in stretch["outputs"]]
        while wanted:
            tensor = wanted.pop()
            node = makers.get(tensor)
            if node is not None and tensor not in reads and node["index"] not in taken:
                taken.add(node["index"])
                wanted += [int(before) for before in node["inputs"]]
    return len(taken), len(own)
