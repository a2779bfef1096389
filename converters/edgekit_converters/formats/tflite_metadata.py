"""What a ``.tflite`` file says of itself: its signature, and the version of LiteRT that it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_runtime.host.machine import version_numbers

NUMBERED = re.compile(r"(?:input|args|output)_\d+")  # signature names that carry the position
FOUR_BIT_VERSION = "2.17"  # TensorFlow Lite 2.16 refuses 4-bit weights


@dataclass(frozen=True)
class Port:
    """An input or output of a ``.tflite`` file."""

    name: str  # in the signature; the tensor's own name without a signature
    position: int  # in the interpreter's list


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a ``.tflite`` file, in the source's order."""

    key: str | None  # None without a signature
    inputs: list[Port]
    outputs: list[Port]


def signature(path: Path) -> Signature:
    """Return a file's signature; names with a number give the order, else the file's own order is the source's."""
    interpreter = open_interpreter(path)
    details = interpreter.get_input_details(), interpreter.get_output_details()
    keys = list(interpreter.get_signature_list())
    if len(keys) != 1:
        inputs, outputs = ([Port(one["name"], place) for place, one in enumerate(side)] for side in details)
        return Signature(None, inputs, outputs)
    runner = interpreter.get_signature_runner(keys[0])
    named = runner.get_input_details(), runner.get_output_details()
    inputs, outputs = (_ports(names, side) for names, side in zip(named, details, strict=True))
    return Signature(keys[0], inputs, outputs)


def _ports(named: dict[str, Any], details: list[Any]) -> list[Port]:
    indices = [detail["index"] for detail in details]
    ports = [Port(name, indices.index(detail["index"])) for name, detail in named.items()]
    if all(NUMBERED.fullmatch(port.name) for port in ports):
        return sorted(ports, key=lambda port: int(port.name.rpartition("_")[2]))
    return sorted(ports, key=lambda port: port.position)


def open_interpreter(path: Path) -> Any:
    """Open a ``.tflite`` file with LiteRT's interpreter, for details that the runtime's engine does not give."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter


def lowest_version(path: Path) -> str | None:
    """Return the lowest version of LiteRT that opens a file, or None if the file does not say.

    The converter writes ``min_runtime_version``, a release of TensorFlow; 4-bit weights may need a later one.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    types = {graph.Tensors(index).Type() for graph in graphs for index in range(graph.TensorsLength())}
    written = _min_runtime_version(model)
    if schema.TensorType.INT4 in types:
        return max(written or "0", FOUR_BIT_VERSION, key=version_numbers)
    return written


def _min_runtime_version(model: Any) -> str | None:
    for entry in (model.Metadata(index) for index in range(model.MetadataLength())):
        buffer = model.Buffers(entry.Buffer())
        if entry.Name() == b"min_runtime_version" and buffer.DataLength():
            text = bytes(buffer.DataAsNumpy()).split(b"\0")[0].decode("ascii", "replace")
            return text if re.fullmatch(r"\d+(\.\d+)*", text) else None
    return None
